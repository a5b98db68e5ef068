"""What the losses are measured beside, each as a careful user of it would write it.

Every contender takes unit embeddings [N, D] and returns a scalar to differentiate. The label space
is valence and arousal [N, 2], or class labels [N] for a library that knows classes only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import univa_kernels

TEMPERATURE, RADIUS, CLASSES = 0.5, 0.1, 32


@dataclass(frozen=True)
class Contender:
    """A loss under a name; `by_class` where it takes class labels instead of coordinates."""

    name: str
    loss: Callable[[Tensor, Tensor], Tensor]
    by_class: bool = False


def vectorised(embeddings: Tensor, coordinates: Tensor) -> Tensor:
    """Logits matrix, mask, logsumexp."""
    logits = embeddings @ embeddings.T / TEMPERATURE
    own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    # Not the cdist that multiplies matrices: its rounding moves pairs across the radius.
    distance = torch.cdist(coordinates, coordinates, compute_mode="donot_use_mm_for_euclid_dist")
    positive = (distance < RADIUS) & ~own
    count = positive.sum(1)
    log_z = logits.masked_fill(own, -torch.inf).logsumexp(1)
    mean = (logits * positive).sum(1) / count.clamp(min=1)
    some = count > 0
    return torch.where(some, log_z - mean, 0).sum() / some.sum().clamp(min=1)


def ours(embeddings: Tensor, coordinates: Tensor) -> Tensor:
    """This library, on the backend that it chooses."""
    return univa_kernels.va_supcon_loss(
        embeddings, coordinates, temperature=TEMPERATURE, radius=RADIUS
    )


@cache
def contenders() -> dict[str, Contender]:
    """All contenders by name. Needs pytorch-metric-learning."""
    from pytorch_metric_learning.losses import SupConLoss

    metric: Any = SupConLoss(temperature=TEMPERATURE)
    compiled: Any = torch.compile(vectorised, dynamic=False)
    every = (
        Contender("vectorised PyTorch", vectorised),
        Contender("torch.compile", compiled),
        Contender("pytorch-metric-learning", lambda rows, classes: metric(rows, classes), True),
        Contender("univa_kernels", ours),
    )
    return {contender.name: contender for contender in every}


def inputs(size: int, dim: int, seed: int, *, by_class: bool = False) -> tuple[Tensor, Tensor]:
    """Random unit rows and points; about 3 % of the pairs are positive either way."""
    generator = torch.Generator().manual_seed(seed)
    rows = F.normalize(torch.randn(size, dim, generator=generator)).requires_grad_()
    if by_class:
        return rows, torch.randint(CLASSES, (size,), generator=generator)
    return rows, torch.rand(size, 2, generator=generator)


def check(contender: Contender, size: int = 300, dim: int = 48) -> None:
    """Hold value and gradient against float64 over all pairs.

    Raises:
        AssertionError: the contender is wrong.
    """
    rows, points = inputs(size, dim, 0, by_class=contender.by_class)
    (grad,) = torch.autograd.grad(contender.loss(rows, points), rows)
    wide = rows.detach().double().requires_grad_()
    # The library by classes scales rows to unit length itself.
    unit = F.normalize(wide) if contender.by_class else wide
    logits = unit @ unit.T / TEMPERATURE
    own = torch.eye(size, dtype=torch.bool)
    if contender.by_class:
        positive = points[:, None] == points[None]
    else:
        positive = (points[:, None] - points[None]).square().sum(2).sqrt() < RADIUS
    positive = positive & ~own
    log_z = logits.masked_fill(own, -torch.inf).logsumexp(1)
    losses = log_z - (logits * positive).sum(1) / positive.sum(1).clamp(min=1)
    truth = losses[positive.any(1)].mean()
    (true_grad,) = torch.autograd.grad(truth, wide)
    value = contender.loss(rows, points).detach().double()
    torch.testing.assert_close(value, truth.detach(), rtol=1e-5, atol=0)
    atol = 1e-5 * true_grad.abs().max().item()
    torch.testing.assert_close(grad.double(), true_grad, rtol=1e-4, atol=atol)


def vectorised_objective(
    logits: Tensor,
    labels: Tensor,
    embeddings: dict[str, Tensor],
    coordinates: dict[str, Tensor],
    similarity: Tensor,
) -> Tensor:
    """What `UniVALoss(alpha=0.45, prior="norm")` computes, in PyTorch operations."""
    scores = logits.log_softmax(1)
    divergence = F.kl_div(scores, labels.softmax(1), reduction="sum")
    squared = (scores[:, :, None] - scores[:, None, :]).square().sum(0)
    zero = squared == 0
    distance = squared.masked_fill(zero, 1).sqrt().masked_fill(zero, 0)
    rest = 1000 * divergence / logits.numel() + (similarity * distance).sum() / len(logits)
    total = 0.55 * rest
    own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    for name, rows in embeddings.items():
        pairs = rows @ rows.T / 0.7
        gaps = coordinates[name][:, None] - coordinates[name][None]
        weight = (gaps.square().sum(2).sqrt() < 0.1).to(rows.dtype).masked_fill(own, 0.5)
        log_z = torch.where(own, pairs - 0.6931471805599453, pairs).logsumexp(1)
        losses = log_z - (weight * pairs).sum(1) / weight.sum(1)
        total = total + 0.45 * losses.mean() / 3
    return total
