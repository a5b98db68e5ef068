"""The losses on the CPU beside what people use today, over one bare matrix product of the same run.

    make bench-cpu            # all of it, the table, benchmarks/results/cpu.json and the plot
    python -m pytest benchmarks/test_cpu.py -k "2048 and 768"

Every round gets fresh inputs and is timed right after the yardstick of that round, so that what
else the machine does falls on both. Contenders are checked against float64 before they are timed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.contenders import check, contenders, inputs, vectorised_objective
from benchmarks.memory import peak_memory
from benchmarks.tiles import backward_products, forward_products
from univa_kernels import UniVALoss

SIZES = (512, 2048, 8192)
DIMS = (128, 768)
ROUNDS = {512: 40, 2048: 15, 8192: 5}
NAMES = ("vectorised PyTorch", "torch.compile", "pytorch-metric-learning", "univa_kernels")
MEMORY_SIZES = (1024, 2048, 4096, 8192, 16384)


def seconds(call: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(
    benchmark: Any,
    call: Callable[..., object],
    yardstick: Callable[..., object],
    fresh: Callable[[int], tuple[Any, ...]],
    rounds: int,
    **facts: object,
) -> None:
    """Time `call` after `yardstick` on the same fresh arguments; keep both and their ratios."""
    beside: list[float] = []

    def setup() -> tuple[tuple[Any, ...], dict[str, Any]]:
        arguments = fresh(len(beside))
        yardstick(*arguments) if not beside else None
        beside.append(seconds(lambda: yardstick(*arguments)))
        return arguments, {}

    call(*fresh(-1))  # warm up
    benchmark.pedantic(call, setup=setup, rounds=rounds, iterations=1)
    taken = benchmark.stats.stats.data
    ratios = sorted(t / b for t, b in zip(taken, beside, strict=True))
    benchmark.extra_info.update(
        facts,
        ratio=statistics.median(ratios),
        ratio_quartiles=[ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]],
        yardstick_seconds=statistics.median(beside),
    )


def bare_product(rows: Tensor, *_: object) -> Tensor:
    """One N x N x D product as anyone calls it."""
    rows = rows.detach()
    return torch.mm(rows, rows.T)


@pytest.mark.parametrize("phase", ["forward", "forward + backward"])
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_contrastive(benchmark: Any, name: str, size: int, dim: int, phase: str) -> None:
    contender = contenders()[name]
    check(contender)

    def call(rows: Tensor, points: Tensor) -> None:
        loss = contender.loss(rows, points)
        if phase != "forward":
            loss.backward()

    measure(
        benchmark,
        call,
        bare_product,
        lambda seed: inputs(size, dim, seed + 1, by_class=contender.by_class),
        ROUNDS[size],
        kind="time",
        name=name,
        size=size,
        dim=dim,
        phase=phase,
    )


@pytest.mark.parametrize("phase", ["forward", "forward + backward", "out="])
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("size", SIZES)
def test_products_alone(benchmark: Any, size: int, dim: int, phase: str) -> None:
    """Our tile products without the loss, and the bare product into memory already there."""
    there = torch.zeros(size, size)

    def call(rows: Tensor, _: Tensor) -> None:
        rows = rows.detach()
        if phase == "out=":
            torch.mm(rows, rows.T, out=there)
            return
        forward_products(rows)
        if phase != "forward":
            backward_products(rows)

    measure(
        benchmark,
        call,
        bare_product,
        lambda seed: inputs(size, dim, seed + 1),
        ROUNDS[size],
        kind="time",
        name="bare product, out=" if phase == "out=" else "our tile products alone",
        size=size,
        dim=dim,
        phase=phase,
    )


def objective_inputs(seed: int) -> tuple[Any, ...]:
    """B = 32, D = 768, three modalities, six emotions."""
    generator = torch.Generator().manual_seed(seed + 1)
    logits = torch.randn(32, 6, generator=generator).requires_grad_()
    labels = (torch.rand(32, 6, generator=generator) > 0.7).float()
    names = ("text", "audio", "vision")
    embeddings = {m: torch.randn(32, 768, generator=generator).requires_grad_() for m in names}
    coordinates = {m: torch.rand(32, 2, generator=generator) for m in names}
    similarity = torch.randn(6, 6, generator=generator)
    return logits, labels, embeddings, coordinates, (similarity + similarity.T).requires_grad_()


@pytest.mark.parametrize("phase", ["forward", "forward + backward"])
def test_objective(benchmark: Any, phase: str) -> None:
    loss = UniVALoss(alpha=0.45, prior="norm")
    arguments = objective_inputs(0)
    torch.testing.assert_close(
        loss(*arguments).total, vectorised_objective(*arguments), rtol=1e-5, atol=0
    )

    def run(compute: Callable[..., Tensor], *arguments: Any) -> None:
        total = compute(*arguments)
        if phase != "forward":
            total.backward()

    measure(
        benchmark,
        lambda *a: run(lambda *b: loss(*b).total, *a),
        lambda *a: run(vectorised_objective, *_leaves(a)),
        objective_inputs,
        400,
        kind="objective",
        name="univa_kernels",
        phase=phase,
    )


def _leaves(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same values as leaves of their own, whose gradients are not there yet."""
    logits, labels, embeddings, coordinates, similarity = arguments
    embeddings = {m: rows.detach().requires_grad_() for m, rows in embeddings.items()}
    return (
        logits.detach().requires_grad_(),
        labels,
        embeddings,
        coordinates,
        similarity.detach().requires_grad_(),
    )


@pytest.mark.parametrize("size", MEMORY_SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_memory(benchmark: Any, name: str, size: int) -> None:
    if name == "pytorch-metric-learning" and size > 8192:
        pytest.skip("takes about 12 GB")
    peaks: list[float] = []
    benchmark.pedantic(lambda: peaks.append(peak_memory(name, size, 256)), rounds=1, iterations=1)
    benchmark.extra_info.update(kind="memory", name=name, size=size, dim=256, mib=peaks[0])
