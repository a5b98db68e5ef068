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
    temperature: float | Tensor = 0.7,
    radius: float = 0.1,
    sigma: float | None = None,
    contrast_embeddings: Tensor | None = None,
    contrast_coordinates: Tensor | None = None,
    self_offset: int | None = None,
    groups: Tensor | None = None,
    contrast_groups: Tensor | None = None,
    group_pairs: str = "positive",
    self_weight: float = 0.0,
    normalize: bool = False,
    least_count: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Loss of each anchor [N] (0 without positives) and the weight of its positives [N].

    least_count: positives that weigh less in sum are none.
    """
    if contrast_embeddings is None:
        contrast_embeddings, contrast_coordinates = embeddings, coordinates
        contrast_groups, self_offset = groups, 0
    if normalize:
        embeddings, contrast_embeddings = (
            rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
            for rows in (embeddings, contrast_embeddings)
        )
    n, m = len(embeddings), len(contrast_embeddings)
    logits = embeddings @ contrast_embeddings.T / temperature
    own = torch.zeros(n, m, dtype=torch.bool)
    # Distances in the coordinates' own dtype: it decides which pairs lie within the radius.
    gaps = coordinates[:, None, :] - contrast_coordinates[None, :, :]
    squares = torch.zeros(n, m, dtype=coordinates.dtype)
    for axis in range(coordinates.shape[1]):
        squares = squares + gaps[:, :, axis] ** 2
    if sigma is None:
        k = (squares.sqrt() < torch.tensor(radius, dtype=coordinates.dtype)).to(logits.dtype)
    else:
        k = (-squares.to(logits.dtype) / (2 * sigma**2)).exp()
    gone = torch.zeros(n, m, dtype=torch.bool)
    if groups is not None:
        same = groups[:, None] == contrast_groups[None, :]
        k = torch.where(same, 0.0 if group_pairs == "exclude" else 1.0, k)
        if group_pairs == "exclude":
            gone = same
    if self_offset is not None:
        rows = [i for i in range(n) if 0 <= i + self_offset < m]
        own[rows, [i + self_offset for i in rows]] = True
    k = torch.where(own, self_weight, k)
    log_w = math.log(self_weight) if self_weight else -math.inf
    counted = torch.where(own, logits + log_w, logits.masked_fill(gone & ~own, -math.inf))
    count = k.sum(1)
    count = torch.where(count < least_count, 0, count)
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


def objective(
    logits: Tensor,
    labels: Tensor,
    embeddings: dict[str, Tensor],
    coordinates: dict[str, Tensor],
    similarity: Tensor,
    *,
    temperature: float | Tensor,
    radius: float,
    sigma: float | None,
    alpha: float,
    classification: str,
    prior: str | None,
    self_weight: float,
    no_positives: str,
    normalize: bool,
) -> Tensor:
    """Total, classification, prior and the contrastive terms, with all modality weights 1."""
    targets = labels.to(logits.dtype)
    y = torch.softmax(logits, 1)
    if classification == "kl":
        target = torch.softmax(targets, 1)
        classified = 1000 * (target * (target.log() - torch.log_softmax(logits, 1))).mean()
    else:
        y = torch.sigmoid(logits)
        signs = 1 - 2 * targets
        classified = torch.log1p(torch.exp(signs * logits)).mean()
    eta = logits.new_zeros(())
    if prior == "norm":
        eta = correlation_prior(torch.log_softmax(logits, 1), similarity, "norm")
    elif prior == "quadratic":
        eta = correlation_prior(y, similarity, "quadratic")
    terms = []
    for name, points in coordinates.items():
        losses, count = contrastive_losses(
            embeddings[name],
            points,
            temperature=temperature,
            radius=radius,
            sigma=sigma,
            self_weight=self_weight,
            normalize=normalize,
        )
        counted = (count > 0).sum().clamp(min=1) if no_positives == "skip" else len(losses)
        terms.append(losses.sum() / counted)
    weighted = sum((term / 3 for term in terms), start=logits.new_zeros(()))
    total = (1 - alpha) * (classified + eta) + alpha * weighted
    return torch.stack((total, classified, eta, *terms))
