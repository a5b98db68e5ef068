"""Two numbers for a map: neighbourhood purity, and rank correlation of distances.

A two-dimensional picture shows clusters where there are none and hides those that there are, so
both are computed on the embeddings themselves.

Distances between embeddings are cosine distances: the contrastive loss compares dot products, and
the map (`univa.figures.maps`) is made of unit vectors too. Distances in valence-arousal space are
Euclidean between scores normalised as in training, the ones that the loss compares with its radius.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

__all__ = ["MapQuality", "measure"]

_BLOCK = 2048  # rows at a time: nothing of size S x S is held


@dataclass(frozen=True, kw_only=True)
class MapQuality:
    """How far neighbours in embedding space are neighbours in valence-arousal space.

    Attributes:
        purity: mean over utterances of the share of their k nearest neighbours that lie within the
            radius in valence-arousal space; in [0, 1].
        chance: the same for neighbours drawn at random: the share of all pairs within the radius.
        rank_correlation: Spearman's, between the two distances of a pair; in [-1, 1]. None where
            one of them is the same for all pairs.
        neighbors: k.
        radius: in units of normalised valence-arousal.
        utterances: S, how many were compared.
        pairs: pairs that the rank correlation is of; all, or so many drawn at random.
    """

    purity: float
    chance: float
    rank_correlation: float | None
    neighbors: int
    radius: float
    utterances: int
    pairs: int

    def to_dict(self) -> dict[str, float | int | None]:
        """The same as plain JSON types."""
        return asdict(self)


def measure(
    embeddings: Tensor,
    coordinates: Tensor,
    *,
    neighbors: int = 10,
    radius: float = 0.1,
    max_pairs: int = 1_000_000,
    seed: int = 0,
) -> MapQuality:
    """Compare distances between embeddings with distances in valence-arousal space.

    Memory is bounded by `max_pairs` and by a block of rows: about 32 bytes a pair, 40 MB a block of
    S = 5000.

    Args:
        embeddings: [S, D] floating point, S >= 2.
        coordinates: [S, 2] normalised (valence, arousal).
        neighbors: k; at most S - 1 are taken.
        radius: pairs closer than this are neighbours in valence-arousal space (strictly, as in the
            loss).
        max_pairs: with more pairs than this, so many are drawn at random (with replacement).
        seed: decides which.

    Raises:
        ValueError: fewer than two utterances, or shapes that do not agree.
    """
    size = len(embeddings)
    if size < 2 or coordinates.shape != (size, 2):
        raise ValueError(
            f"embeddings {list(embeddings.shape)} and coordinates {list(coordinates.shape)} must "
            "be [S, D] and [S, 2] with S >= 2"
        )
    from scipy.stats import spearmanr
    from sklearn.neighbors import NearestNeighbors

    # Euclidean distances of unit vectors are ordered as cosine distances are.
    unit = normalize(embeddings.double(), dim=1)  # [S, D]
    points = coordinates.double()
    neighbors = min(neighbors, size - 1)
    search = NearestNeighbors(n_neighbors=neighbors, algorithm="brute").fit(unit.numpy())
    nearest = torch.from_numpy(search.kneighbors(return_distance=False))  # [S, k], without self
    within = 0
    for start in range(0, size, _BLOCK):
        distances = torch.cdist(points[start : start + _BLOCK], points)  # [block, S]
        within += int((distances < radius).sum())
    if radius > 0:
        within -= size  # each with itself
    found = (points[nearest] - points[:, None]).norm(dim=2) < radius  # [S, k]

    first, second = _pairs(size, max_pairs, seed)  # [P]
    apart = torch.cat(
        [
            (unit[a] - unit[b]).square().sum(dim=1)
            for a, b in zip(first.split(_BLOCK), second.split(_BLOCK), strict=True)
        ]
    )
    va_apart = (points[first] - points[second]).norm(dim=1)
    correlation = None
    if bool((apart != apart[0]).any()) and bool((va_apart != va_apart[0]).any()):
        correlation = float(spearmanr(apart.numpy(), va_apart.numpy()).statistic)
        if not math.isfinite(correlation):
            correlation = None
    return MapQuality(
        purity=float(found.double().mean()),
        chance=within / (size * (size - 1)),
        rank_correlation=correlation,
        neighbors=neighbors,
        radius=radius,
        utterances=size,
        pairs=len(first),
    )


def _pairs(size: int, most: int, seed: int) -> tuple[Tensor, Tensor]:
    """All pairs, or `most` random ones: two int64 vectors, never equal at a place."""
    if size * (size - 1) // 2 <= most:
        first, second = torch.triu_indices(size, size, offset=1)
        return first, second
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(size, (most,), generator=generator)
    # A step of 1 to size - 1 onward never comes back to where it began.
    second = (first + torch.randint(1, size, (most,), generator=generator)) % size
    return first, second
