"""The losses written out in float64 over all pairs, straight from their formulas.

Nothing here is shared with the package: dense matrices, autograd, no care for memory or speed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def contrastive_losses(
    embeddings: Tensor,
    coordinates: Tensor,
    *,
    temperature: float,
    radius: float,
    contrast_embeddings: Tensor | None = None,
    contrast_coordinates: Tensor | None = None,
    self_offset: int | None = None,
    groups: Tensor | None = None,
    contrast_groups: Tensor | None = None,
    self_weight: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Loss of each anchor [N] (0 without positives) and the weight of its positives [N]."""
    if contrast_embeddings is None:
        contrast_embeddings, contrast_coordinates = embeddings, coordinates
        contrast_groups, self_offset = groups, 0
    n, m = len(embeddings), len(contrast_embeddings)
    logits = embeddings @ contrast_embeddings.T / temperature
    near = torch.zeros(n, m, dtype=torch.bool)
    own = torch.zeros(n, m, dtype=torch.bool)
    # Distances in the coordinates' own dtype: it decides which pairs lie within the radius.
    gaps = coordinates[:, None, :] - contrast_coordinates[None, :, :]
    squares = torch.zeros(n, m, dtype=coordinates.dtype)
    for axis in range(coordinates.shape[1]):
        squares = squares + gaps[:, :, axis] ** 2
    near |= squares.sqrt() < torch.tensor(radius, dtype=coordinates.dtype)
    if groups is not None:
        near |= groups[:, None] == contrast_groups[None, :]
    if self_offset is not None:
        rows = [i for i in range(n) if 0 <= i + self_offset < m]
        own[rows, [i + self_offset for i in rows]] = True
    k = torch.where(own, self_weight, near.to(logits.dtype))
    log_w = math.log(self_weight) if self_weight else -math.inf
    counted = torch.where(own, logits + log_w, logits)
    count = k.sum(1)
    some = count > 0
    # A row of nothing but -inf would put NaN into the gradient; it has no positives anyway.
    log_z = counted.masked_fill(~some[:, None], 0).logsumexp(1) if m else logits.new_zeros(n)
    mean = (k * logits).sum(1) / torch.where(some, count, 1)
    return torch.where(some, log_z - mean, 0), count


def correlation_prior(predictions: Tensor, similarity: Tensor, form: str) -> Tensor:
    """The prior as a double loop over labels."""
    total = predictions.new_zeros(())
    labels = predictions.shape[1]
    for j in range(labels):
        for other in range(labels):
            gap = predictions[:, j] - predictions[:, other]
            if form == "quadratic":
                total = total + similarity[j, other] * (gap**2).sum()
            elif j != other and bool((gap != 0).any()):
                total = total + similarity[j, other] * gap.norm()
    return total / len(predictions)
