"""A training batch against a cross-batch memory of 65 536 rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import univa_kernels
from benchmarks import truth
from benchmarks.contenders import (
    AUTHORS,
    BACKENDS,
    COMPILED,
    OUR_NAMES,
    OURS,
    PLAIN,
    RADIUS,
    SUPCON,
    TEMPERATURE,
    backend_absent,
    inputs,
    metric_loss,
    missing,
    statically_compiled,
    vectorised,
)
from benchmarks.timing import Clock, Entry, Workload
from univa_kernels import CrossBatchMemory, VASupConLoss

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def with_bank(rows: Tensor, points: Tensor, bank: Tensor, there: Tensor) -> Tensor:
    """The batch against itself and the bank: [B, B + M] logits."""
    return vectorised(rows, points, torch.cat([rows, bank]), torch.cat([points, there]))


@cache
def _compiled() -> Loss:
    return statically_compiled(with_bank)


class Ring:
    """What a careful user writes: the batch takes the place of the oldest rows after its loss."""

    def __init__(self, loss: Loss) -> None:
        self.loss, self.oldest = loss, 0

    def __call__(self, rows: Tensor, points: Tensor, bank: Tensor, there: Tensor) -> Tensor:
        value = self.loss(rows, points, bank, there)
        end = self.oldest + len(rows)
        if end > len(bank):
            self.oldest, end = 0, len(rows)
        bank[self.oldest : end], there[self.oldest : end] = rows.detach(), points
        self.oldest = end
        return value


class Remembering:
    """`CrossBatchMemory` around the loss, in training mode, full from the start."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.filled_from: Tensor | None = None
        self.memory: CrossBatchMemory | None = None

    def __call__(self, rows: Tensor, points: Tensor, bank: Tensor, there: Tensor) -> Tensor:
        if self.memory is None or self.filled_from is not bank:
            loss = VASupConLoss(temperature=TEMPERATURE, radius=RADIUS)
            self.memory = CrossBatchMemory(loss, memory_size=len(bank))
            self.memory.embeddings, self.memory.coordinates = bank, there
            self.filled_from = bank
        with univa_kernels.use_backend(self.backend):
            value: Tensor = self.memory(rows, points)
        return value


class MetricLearning:
    """pytorch-metric-learning's memory around its loss, by class labels; full from the start."""

    def __init__(self) -> None:
        self.filled_from: Tensor | None = None
        self.memory: Any = None

    def __call__(self, rows: Tensor, classes: Tensor, bank: Tensor, there: Tensor) -> Tensor:
        if self.filled_from is not bank:
            from pytorch_metric_learning.losses import CrossBatchMemory as Memory

            self.memory = Memory(metric_loss("SupConLoss"), bank.shape[1], memory_size=len(bank))
            self.memory.embedding_memory, self.memory.label_memory = bank, there
            self.memory.has_been_filled = True
            self.filled_from = bank
        value: Tensor = self.memory(rows, classes)
        return value


def check(
    loss: Loss,
    device: str = "cpu",
    batch: int = 12,
    bank: int = 500,
    dim: int = 64,
    *,
    by_class: bool = False,
) -> None:
    """Hold value and gradient against float64.

    pytorch-metric-learning's memory takes the batch in first, in place of its oldest rows: copies
    without gradient. It scales all rows to unit length itself.

    Raises:
        WrongResult: the contender is wrong.
    """
    rows, points = inputs(batch, dim, 0, by_class=by_class, device=device)
    remembered, there = inputs(bank, dim, 1, by_class=by_class, device=device)
    remembered = remembered.detach()
    value = loss(rows, points, remembered.clone(), there.clone())  # which it changes
    (grad,) = torch.autograd.grad(value, rows)
    wide = rows.detach().double().requires_grad_()
    if by_class:
        positive = points[:, None] == torch.cat([points, there[batch:]])[None]
        unit = F.normalize(wide)
        contrast = torch.cat([unit.detach(), F.normalize(remembered[batch:].double())])
    else:
        unit = wide
        positive = truth.positives_by_radius(points, RADIUS, torch.cat([points, there]))
        contrast = torch.cat([wide, remembered.double()])
    true_value = truth.contrastive(unit, positive, TEMPERATURE, contrast=contrast)
    (true_grad,) = torch.autograd.grad(true_value, wide)
    truth.compare((value, grad), (true_value, true_grad))


def workload(
    batch: int, bank: int, dim: int, device: str, *, budget: float, rounds: int = 60
) -> Workload:
    """Fresh batches, each remembered after its loss; figures are of loss, memory and backward."""
    clock = Clock(device)

    def entries() -> list[Entry]:
        remembered = inputs(bank, dim, 1, device=device)[0].detach()
        places = {k: inputs(bank, 2, 1, by_class=k, device=device)[1] for k in (False, True)}

        def entry(
            name: str, loss: Loss, absent: str | None = None, by_class: bool = False
        ) -> Entry:
            def measure(number: int) -> dict[str, float]:
                rows, points = inputs(batch, dim, number + 2, by_class=by_class, device=device)
                return clock.phases(lambda: loss(rows, points, remembered, places[by_class]))

            return Entry(
                name=name,
                measure=measure,
                check=lambda: check(loss, device, by_class=by_class),
                absent=absent,
            )

        every = [entry(PLAIN, Ring(with_bank))]
        for name in BACKENDS:
            absent = backend_absent(name, device)
            every.append(entry(f"{OURS} ({name})", Remembering(name), absent))
        pairs = f"{batch * (batch + bank) / 1e6:.1f} million pairs in a Python loop"
        every.append(entry(AUTHORS, with_bank, f"has no memory; would be {pairs}"))
        library = missing("pytorch_metric_learning", "pytorch-metric-learning")
        every.append(entry(SUPCON, MetricLearning(), library, by_class=True))
        every.append(entry(COMPILED, Ring(_compiled())))
        return every

    return Workload(
        name=f"memory bank M={bank} B={batch} D={dim}",
        kind="memory bank",
        facts={"batch": batch, "bank": bank, "dim": dim, "dtype": "float32"},
        names=(PLAIN, *OUR_NAMES, AUTHORS, SUPCON, COMPILED),
        entries=entries,
        budget=budget,
        rounds=rounds,
    )
