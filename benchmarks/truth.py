"""What contenders are held against: the formulas over all pairs, in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.timing import WrongResult

# Of a value and of a gradient's norm, by the dtypes of the embeddings and of the value: a library
# that adds up in bfloat16 is not wrong by what that rounds, one that adds up in float32 would be.
TOLERANCES = {
    (torch.float32, torch.float32): (1e-5, 1e-4),
    (torch.bfloat16, torch.float32): (1e-4, 1e-2),
    (torch.bfloat16, torch.bfloat16): (2e-2, 3e-2),
}


def positives_by_radius(
    coordinates: Tensor, radius: float, contrast: Tensor | None = None
) -> Tensor:
    """Pairs strictly closer than the radius, [N, M]; own copies among them."""
    contrast = coordinates if contrast is None else contrast
    return (coordinates[:, None] - contrast[None]).square().sum(2).sqrt() < radius


def positives_by_class(classes: Tensor) -> Tensor:
    """Pairs of one class, [N, N]; the diagonal among them."""
    return classes[:, None] == classes[None]


def contrastive(
    rows: Tensor,
    positive: Tensor,
    temperature: float,
    *,
    contrast: Tensor | None = None,
    self_weight: float = 0.0,
) -> Tensor:
    """Mean over the anchors with positives of log Z - mean positive logit (DESIGN's l_i).

    Args:
        rows: anchors [N, D]; their own copies are the first rows of `contrast`.
        positive: [N, M]; what it says of an anchor's own copy is not looked at.
        temperature: divides the inner products.
        contrast: [M, D], the anchors themselves by default.
        self_weight: of the own copy, in both the sum and the positives.
    """
    contrast = rows if contrast is None else contrast
    logits = rows @ contrast.T / temperature  # [N, M]
    own = torch.eye(*logits.shape, dtype=torch.bool, device=rows.device)
    weight = positive.to(rows.dtype).masked_fill(own, self_weight)
    shift = torch.full((), self_weight, dtype=rows.dtype, device=rows.device).log()
    log_z = torch.where(own, logits + shift, logits).logsumexp(1)
    count = weight.sum(1)
    losses = log_z - (logits * weight).sum(1) / count.where(count > 0, 1)
    return losses[count > 0].mean()


def nt_xent(rows: Tensor, classes: Tensor, temperature: float) -> Tensor:
    """Mean over positive pairs (i, j) of -log(e^s_ij / (e^s_ij + sum of e^s_ik, k a negative))."""
    logits = rows @ rows.T / temperature
    same = positives_by_class(classes)
    own = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    rest = logits.masked_fill(same, -torch.inf).logsumexp(1)  # [N]
    losses = torch.logaddexp(logits, rest[:, None]) - logits
    return losses[same & ~own].mean()


def compare(
    found: Sequence[Tensor], truth: Sequence[Tensor], dtype: torch.dtype = torch.float32
) -> None:
    """Hold (value, gradient, ...) against the truth, each by the norm of the difference.

    Raises:
        WrongResult: one is off by more than its dtype's rounding explains, or is not finite.
    """
    for place, (got, want) in enumerate(zip(found, truth, strict=True)):
        want = want.detach().double()
        difference = (got.detach().double().to(want.device) - want).norm()
        error = (difference / want.norm().clamp(min=1e-300)).item()
        if not error <= TOLERANCES[dtype, found[0].dtype][place > 0]:
            what = "value" if place == 0 else "gradient"
            raise WrongResult(f"its {what} is off from the float64 truth by {error:.1e}")
