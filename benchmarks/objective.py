"""The whole UniVA objective at training batch sizes: KL, prior, three contrastive terms.

`UniVALoss(alpha=0.45, prior="norm")`, radius 0.1, temperature 0.7, six emotions, on the paper's
batch sizes per device. The two equal views of the authors' code stand in it as a self weight of a
half; the constant log 2 is left out by everyone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

import univa_kernels
from benchmarks import truth
from benchmarks.contenders import (
    AUTHORS,
    BACKENDS,
    COMPILED,
    NAMES,
    OUR_NAMES,
    PLAIN,
    authors_loss,
    backend_absent,
    statically_compiled,
)
from benchmarks.timing import Clock, Entry, Workload
from univa_kernels import UniVALoss

ALPHA, TEMPERATURE, RADIUS, LABELS = 0.45, 0.7, 0.1, 6
MODALITIES = ("text", "audio", "vision")
LOG_2 = math.log(2)


class Inputs(NamedTuple):
    """Arguments of UniVALoss."""

    logits: Tensor  # [B, L]
    labels: Tensor  # [B, L]
    embeddings: dict[str, Tensor]  # [B, D] each
    coordinates: dict[str, Tensor]  # [B, 2] each
    similarity: Tensor  # [L, L]

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        """What has gradients."""
        return (self.logits, self.similarity, *self.embeddings.values())

    def double(self) -> Inputs:
        """The same numbers in float64, as leaves."""

        def wide(value: Tensor) -> Tensor:
            return value.detach().double().requires_grad_(value.requires_grad)

        return Inputs(
            wide(self.logits),
            wide(self.labels),
            {name: wide(value) for name, value in self.embeddings.items()},
            self.coordinates,
            wide(self.similarity),
        )


def objective_inputs(seed: int, batch: int = 32, dim: int = 768, device: str = "cpu") -> Inputs:
    """Random values of a batch; the coordinates have a few positives a row.

    Rows have a length of about 1. With longer ones a row's own pair is all that counts in the sum,
    and a check would not see the others.
    """
    generator = torch.Generator(device).manual_seed(seed + 1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=device)

    similarity = normal(LABELS, LABELS)
    return Inputs(
        normal(batch, LABELS).requires_grad_(),
        (uniform(batch, LABELS) > 0.7).float(),
        {name: (normal(batch, dim) / dim**0.5).requires_grad_() for name in MODALITIES},
        {name: uniform(batch, 2) for name in MODALITIES},
        (similarity + similarity.T).requires_grad_(),
    )


def rest_of_objective(logits: Tensor, labels: Tensor, similarity: Tensor) -> Tensor:
    """(1 - alpha) (1000 KL + prior), as PyTorch code has it."""
    scores = logits.log_softmax(1)
    divergence = F.kl_div(scores, labels.softmax(1), reduction="sum")
    squared = (scores[:, :, None] - scores[:, None, :]).square().sum(0)
    zero = squared == 0
    distance = squared.masked_fill(zero, 1).sqrt().masked_fill(zero, 0)
    prior = (similarity * distance).sum() / len(logits)
    return (1 - ALPHA) * (1000 * divergence / logits.numel() + prior)


def vectorised_objective(
    logits: Tensor,
    labels: Tensor,
    embeddings: dict[str, Tensor],
    coordinates: dict[str, Tensor],
    similarity: Tensor,
) -> Tensor:
    """What `UniVALoss` computes, in PyTorch operations without a loop over pairs."""
    total = rest_of_objective(logits, labels, similarity)
    own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    for name, rows in embeddings.items():
        pairs = rows @ rows.T / TEMPERATURE
        gaps = coordinates[name][:, None] - coordinates[name][None]
        near = gaps.square().sum(2).sqrt() < RADIUS
        weight = near.to(rows.dtype).masked_fill(own, 0.5)
        log_z = torch.where(own, pairs - LOG_2, pairs).logsumexp(1)
        losses = log_z - (weight * pairs).sum(1) / weight.sum(1)
        total = total + ALPHA * losses.mean() / 3
    return total


def authors_objective(
    logits: Tensor,
    labels: Tensor,
    embeddings: dict[str, Tensor],
    coordinates: dict[str, Tensor],
    similarity: Tensor,
) -> Tensor:
    """With the authors' double loop over the pairs of each modality, two equal views."""
    total = rest_of_objective(logits, labels, similarity)
    for name, rows in embeddings.items():
        loss = authors_loss(rows, coordinates[name], TEMPERATURE, RADIUS) - LOG_2
        total = total + ALPHA * loss / 3
    return total


@cache
def _our_loss() -> UniVALoss:
    return UniVALoss(alpha=ALPHA, prior="norm", temperature=TEMPERATURE, radius=RADIUS)


def our_objective(backend: str) -> Callable[..., Tensor]:
    """This library, on one backend."""

    def compute(*values: Any) -> Tensor:
        with univa_kernels.use_backend(backend):
            return _our_loss()(*values).total

    return compute


def true_objective(values: Inputs) -> Tensor:
    """In float64, by the formulas."""
    total = rest_of_objective(values.logits, values.labels, values.similarity)
    for name, rows in values.embeddings.items():
        positive = truth.positives_by_radius(values.coordinates[name], RADIUS)
        loss = truth.contrastive(rows, positive, TEMPERATURE, self_weight=0.5)
        total = total + ALPHA * loss / 3
    return total


def check(compute: Callable[..., Tensor], batch: int, device: str = "cpu") -> None:
    """Hold total and gradients against float64.

    Raises:
        WrongResult: the contender is wrong.
    """
    values = objective_inputs(0, batch, device=device)
    wide = values.double()
    total, true_total = compute(*values), true_objective(wide)
    found = torch.autograd.grad(total, values.leaves)
    true_grads = torch.autograd.grad(true_total, wide.leaves)
    truth.compare((total, *found), (true_total, *true_grads))


@cache
def _compiled() -> Callable[..., Tensor]:
    return statically_compiled(vectorised_objective)


def workload(batch: int, device: str, *, budget: float, rounds: int = 300) -> Workload:
    """The objective at a batch size, D = 768; figures are seconds of one eager step."""
    clock = Clock(device)

    def entry(name: str, compute: Callable[..., Tensor], absent: str | None = None) -> Entry:
        def measure(number: int) -> dict[str, float]:
            values = objective_inputs(number, batch, device=device)
            return clock.phases(lambda: compute(*values))

        return Entry(
            name=name,
            measure=measure,
            check=lambda: check(compute, batch, device),
            warm=lambda: [measure(-number) for number in range(1, 4)],
            absent=absent,
        )

    def entries() -> list[Entry]:
        ready = {PLAIN: vectorised_objective, AUTHORS: authors_objective, COMPILED: _compiled()}
        own = dict(zip(OUR_NAMES, BACKENDS, strict=True))
        every = []
        for name in NAMES:
            if name in own:
                absent = backend_absent(own[name], device)
                every.append(entry(name, our_objective(own[name]), absent))
            elif name in ready:
                every.append(entry(name, ready[name]))
            else:
                every.append(entry(name, vectorised_objective, "has no UniVA objective"))
        return every

    return Workload(
        name=f"objective B={batch} D=768",
        kind="objective",
        facts={"batch": batch, "dim": 768, "dtype": "float32"},
        names=NAMES,
        entries=entries,
        budget=budget,
        rounds=rounds,
    )
