"""The whole loss at training batch sizes on a GPU, where launches are what costs.

    python -m benchmarks.gpu_small_batch                       # the table of docs/cuda.md
    python -m benchmarks.gpu_small_batch --batch 12 32 256 --out figures.json

Forward and backward of UniVALoss over three modalities, microseconds per step:
    eager   wall time of a step in a loop, with one synchronisation at its end
    graph   the same step replayed from a CUDA graph
beside vectorised PyTorch of the same formula. Every contender is checked against the float64
reference before it is timed; times are medians over rounds, contenders taking turns. Exit status 1:
a figure misses what it must reach (32 rows of 768 in float32).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from univa_kernels import UniVALoss, use_backend

NAMES = ("text", "audio", "vision")
TEMPERATURE, RADIUS, ALPHA = 0.7, 0.3, 0.45
Inputs = dict[str, Tensor]
# Microseconds that one step may take, and should, at 32 rows of 768 in float32 on an H200; and how
# many times faster than PyTorch, eager, it must be, and should.
TARGETS = {"eager": (150, 60), "graph": (40, 15)}
RATIO = (10, 25)


def inputs(batch: int, depth: int, dtype: torch.dtype, device: str = "cuda") -> Inputs:
    """Leaves and constants of one step, flat, by name."""
    generator = torch.Generator().manual_seed(0)
    values = {
        "logits": torch.randn(batch, 6, generator=generator),
        "labels": torch.randint(0, 2, (batch, 6), generator=generator).float(),
        "similarity": torch.randn(6, 6, generator=generator),
    }
    for name in NAMES:
        values[name] = torch.randn(batch, depth, generator=generator) / depth**0.5
        values[f"va_{name}"] = torch.rand(batch, 2, generator=generator)
    moved = {
        key: value.to(device) if key.startswith("va_") else value.to(device, dtype)
        for key, value in values.items()
    }
    for key in ("logits", "similarity", *NAMES):
        moved[key].requires_grad_()
    return moved


LOSS = UniVALoss(temperature=TEMPERATURE, radius=RADIUS, alpha=ALPHA, prior="norm", self_weight=0.0)


def ours(values: Inputs) -> Tensor:
    """This library."""
    return LOSS(
        values["logits"],
        values["labels"],
        {name: values[name] for name in NAMES},
        {name: values[f"va_{name}"] for name in NAMES},
        values["similarity"],
    ).total


@cache
def diagonal(size: int, device: torch.device) -> Tensor:
    """Pairs of a row with itself; the same in every step."""
    return torch.eye(size, dtype=torch.bool, device=device)


def vectorised(values: Inputs) -> Tensor:
    """What a careful user writes: all modalities at once, no loop, no synchronisation."""
    rows = torch.stack([values[name] for name in NAMES])  # [3, B, D]
    va = torch.stack([values[f"va_{name}"] for name in NAMES])  # [3, B, 2]
    own = diagonal(rows.shape[1], rows.device)
    logits = rows @ rows.transpose(1, 2) / TEMPERATURE
    positive = (torch.cdist(va, va) < RADIUS) & ~own
    count = positive.sum(2)
    log_z = logits.masked_fill(own, -torch.inf).logsumexp(2)
    losses = log_z - (logits * positive).sum(2) / count.clamp(min=1)
    some = count > 0
    contrastive = losses.where(some, 0).sum(1) / some.sum(1).clamp(min=1)
    log_probability = values["logits"].log_softmax(1)
    target = values["labels"].softmax(1)
    divergence = 1000 * (target * (target.log() - log_probability)).mean()
    gaps = log_probability[:, :, None] - log_probability[:, None, :]
    squares = gaps.square().sum(0)
    zero = squares == 0
    distance = squares.masked_fill(zero, 1).sqrt().masked_fill(zero, 0)
    prior = (values["similarity"] * distance).sum() / len(log_probability)
    return (1 - ALPHA) * (divergence + prior) + ALPHA * contrastive.sum() / 3


CONTENDERS: dict[str, Callable[[Inputs], Tensor]] = {"univa": ours, "PyTorch": vectorised}


def step(contender: Callable[[Inputs], Tensor], values: Inputs) -> tuple[Tensor, ...]:
    """Loss and gradients of every leaf."""
    total = contender(values)
    leaves = [value for value in values.values() if value.requires_grad]
    return (total.detach(), *torch.autograd.grad(total, leaves))


def check(batch: int, depth: int, dtype: torch.dtype, device: str = "cuda") -> None:
    """Stop if a contender is wrong."""
    values = inputs(batch, depth, dtype, device)
    wide = {key: value.detach().double() for key, value in values.items()}
    for key, value in values.items():
        wide[key].requires_grad_(value.requires_grad)
    with use_backend("reference"):
        truth = step(ours, wide)
    tolerance = 1e-4 if dtype == torch.float32 else 3e-2
    for name, contender in CONTENDERS.items():
        for got, want in zip(step(contender, values), truth, strict=True):
            error = (got.double() - want).norm() / want.norm()
            if not error < tolerance:
                sys.exit(f"{name} is wrong at B={batch}, D={depth}: relative error {error:.1e}")


def eager(contender: Callable[[Inputs], Tensor], values: Inputs) -> Callable[[], float]:
    """A round of eager steps; seconds per step."""

    def run(steps: int = 200) -> float:
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(steps):
            step(contender, values)
        torch.cuda.synchronize()
        return (time.perf_counter() - start) / steps

    return run


def graphed(contender: Callable[[Inputs], Tensor], values: Inputs) -> Callable[[], float]:
    """A round of replays; seconds per step."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(contender, values)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = step(contender, values)

    def run(steps: int = 500) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(steps):
            graph.replay()
        end.record()
        torch.cuda.synchronize()
        assert kept[0].isfinite()
        return begin.elapsed_time(end) / 1000 / steps

    return run


def measure(batch: int, depth: int, dtype: torch.dtype, rounds: int) -> dict[str, dict[str, float]]:
    """Microseconds per step by way and contender."""
    check(batch, depth, dtype)
    values = inputs(batch, depth, dtype)
    result: dict[str, dict[str, float]] = {}
    for way, prepare in (("eager", eager), ("graph", graphed)):
        runs = {name: prepare(contender, values) for name, contender in CONTENDERS.items()}
        for run in runs.values():
            run()  # warm
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(rounds):
            for name, run in runs.items():
                times[name].append(run())
        result[way] = {name: 1e6 * statistics.median(own) for name, own in times.items()}
    return result


def verdicts(found: dict[str, dict[str, float]]) -> list[tuple[str, bool]]:
    """Each target's line, and whether what must be reached is; `found` as `measure` gives it."""
    lines = []
    for way, (must, aim) in TARGETS.items():
        own = found[way]["univa"]
        lines.append((f"{way}: {own:.1f} us, must be {must}, aim {aim}", own <= must, own <= aim))
    must, aim = RATIO
    ratio = found["eager"]["PyTorch"] / found["eager"]["univa"]
    line = f"against PyTorch, eager: {ratio:.1f}x, must be {must}x, aim {aim}x"
    lines.append((line, ratio >= must, ratio >= aim))
    return [
        (f"{line}: {'aim reached' if best else 'reached' if good else 'MISSED'}", good)
        for line, good, best in lines
    ]


def main() -> None:
    """Measure, print the table, write the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[12, 32, 64, 128, 256])
    parser.add_argument("--depth", type=int, default=768)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, help="also write the figures here, as JSON")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("gpu_small_batch: torch sees no CUDA device")
    device = torch.cuda.get_device_name()
    print(f"{device}, torch {torch.__version__}, {arguments.dtype}, D = {arguments.depth}")
    print("| B | eager us | PyTorch eager us | ratio | graph us | PyTorch graph us | ratio |")
    print("|---|---|---|---|---|---|---|")
    figures = {}
    for batch in arguments.batch:
        dtype = getattr(torch, arguments.dtype)
        found = measure(batch, arguments.depth, dtype, arguments.rounds)
        figures[str(batch)] = found
        cells = [f"{batch}"]
        for way in ("eager", "graph"):
            own, plain = found[way]["univa"], found[way]["PyTorch"]
            cells += [f"{own:.1f}", f"{plain:.1f}", f"{plain / own:.1f}"]
        print("| " + " | ".join(cells) + " |", flush=True)
    if arguments.out is not None:
        what = {"device": device, "torch": torch.__version__, "dtype": arguments.dtype}
        text = json.dumps({**what, "depth": arguments.depth, "microseconds": figures}, indent=2)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text + "\n")
    if "32" in figures and arguments.depth == 768 and arguments.dtype == "float32":
        judged = verdicts(figures["32"])
        for line, _ in judged:
            print(f"B = 32, {line}")
        if not all(good for _, good in judged):
            sys.exit("gpu_small_batch: a figure misses what it must reach")


if __name__ == "__main__":
    main()
