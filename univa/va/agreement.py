"""Concordance and Pearson correlation: the criteria of valence-arousal regression."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["bootstrap_intervals", "concordance", "pearson"]


def concordance(predictions: Tensor, targets: Tensor) -> Tensor:
    """Lin's concordance correlation coefficient of each column.

    2 cov(p, t) / (var p + var t + (mean p - mean t)^2) with variances over N (Lin, Biometrics
    1989). It is 1 only where predictions equal targets; scale and offset count, unlike in
    Pearson's r. Where both columns are constant and equal the quotient is 0/0 and counts as 0.

    Args:
        predictions: [N, K] floating point.
        targets: [N, K], same dtype.

    Returns:
        [K] in [-1, 1], differentiable.
    """
    prediction_mean, target_mean = predictions.mean(0), targets.mean(0)
    p, t = predictions - prediction_mean, targets - target_mean  # [N, K]
    covariance = (p * t).mean(0)
    spread = p.square().mean(0) + t.square().mean(0) + (prediction_mean - target_mean).square()
    # A positive denominator also where it is 0/0, so that the gradient stays finite.
    return 2 * covariance / spread.clamp_min(_tiny(spread))


def pearson(predictions: Tensor, targets: Tensor) -> Tensor:
    """Pearson's correlation coefficient of each column.

    Args:
        predictions: [N, K] floating point.
        targets: [N, K], same dtype.

    Returns:
        [K] in [-1, 1]; 0 where a column is constant.
    """
    p, t = predictions - predictions.mean(0), targets - targets.mean(0)  # [N, K]
    norms = p.square().sum(0).sqrt() * t.square().sum(0).sqrt()
    return (p * t).sum(0) / norms.clamp_min(_tiny(norms))


def bootstrap_intervals(
    predictions: Tensor, targets: Tensor, *, resamples: int = 1000, seed: int = 0
) -> dict[str, Tensor]:
    """95 % percentile intervals of both coefficients over resamples of the rows (Efron 1979).

    Args:
        predictions: [N, K] floating point.
        targets: [N, K], same dtype.
        resamples: how many samples of N rows are drawn with replacement.
        seed: of the drawing.

    Returns:
        "pearson" and "ccc", each [K, 2]: lower and upper end. A resample in which a column is
        constant counts as 0.
    """
    generator = torch.Generator().manual_seed(seed)
    n = len(targets)
    drawn: dict[str, list[Tensor]] = {"pearson": [], "ccc": []}
    for _ in range(resamples):
        rows = torch.randint(n, (n,), generator=generator)
        p, t = predictions[rows], targets[rows]
        drawn["pearson"].append(pearson(p, t))
        drawn["ccc"].append(concordance(p, t))
    ends = torch.tensor([0.025, 0.975], dtype=targets.dtype)
    return {
        name: torch.quantile(torch.stack(values), ends, dim=0).T for name, values in drawn.items()
    }


def _tiny(values: Tensor) -> float:
    return torch.finfo(values.dtype).tiny
