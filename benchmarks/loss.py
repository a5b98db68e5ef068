"""The contrastive loss beside plain PyTorch, in time and in memory, on the CPU.

    python -m benchmarks.loss                         # the figures in the README
    python -m benchmarks.loss --sizes 512 2048 --dims 128 768

Times are medians of interleaved rounds in one process, forward and backward, and are printed as
ratios to one bare N x N x D matrix product of the same run. Memory is the peak of a fresh process
above what it held before the call. Every contender is checked against float64 before it is timed.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import univa_kernels

TEMPERATURE, RADIUS = 0.5, 0.1


def plain_pytorch(embeddings: Tensor, coordinates: Tensor) -> Tensor:
    """What a careful user writes: logits matrix, mask, logsumexp."""
    logits = embeddings @ embeddings.T / TEMPERATURE
    own = torch.eye(len(logits), dtype=torch.bool)
    positive = (torch.cdist(coordinates, coordinates) < RADIUS) & ~own
    count = positive.sum(1)
    log_z = logits.masked_fill(own, -torch.inf).logsumexp(1)
    mean = (logits * positive).sum(1) / count.clamp(min=1)
    return (log_z - mean)[count > 0].mean()


def ours(embeddings: Tensor, coordinates: Tensor) -> Tensor:
    """This library, on the backend that it chooses."""
    return univa_kernels.va_supcon_loss(
        embeddings, coordinates, temperature=TEMPERATURE, radius=RADIUS
    )


CONTENDERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "plain PyTorch": plain_pytorch,
    "univa_kernels": ours,
}


def inputs(size: int, dim: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random unit rows and VA points of which about 3 % of the pairs are positive."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.nn.functional.normalize(torch.randn(size, dim, generator=generator))
    return rows.requires_grad_(), torch.rand(size, 2, generator=generator)


def check(size: int, dim: int) -> None:
    """Stop if a contender is wrong."""
    rows, va = inputs(size, dim, 0)
    with univa_kernels.use_backend("reference"):
        truth = univa_kernels.va_supcon_loss(
            rows.detach().double(), va, temperature=TEMPERATURE, radius=RADIUS
        ).item()
    for name, loss in CONTENDERS.items():
        value = loss(rows, va).item()
        if abs(value - truth) > 1e-5 * abs(truth):
            sys.exit(f"{name} is wrong at N={size}, D={dim}: {value}, not {truth}")


def seconds(call: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def time_all(size: int, dim: int, rounds: int) -> dict[str, list[float]]:
    """Forward and backward of each contender and the bare product, interleaved."""
    times: dict[str, list[float]] = {name: [] for name in ("bare product", *CONTENDERS)}
    for index in range(rounds + 1):
        rows, va = inputs(size, dim, index)
        left, right = rows.detach(), rows.detach().clone().T
        took = {"bare product": seconds(lambda a=left, b=right: torch.mm(a, b))}  # type: ignore[misc]
        for name, loss in CONTENDERS.items():
            took[name] = seconds(lambda f=loss, r=rows, v=va: f(r, v).backward())  # type: ignore[misc]
        if index:  # the first round warms up
            for name, value in took.items():
                times[name].append(value)
    return times


def peak_memory(name: str, size: int, dim: int) -> float:
    """MiB that one forward and backward needs above its inputs, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.loss", "--memory-of", name, str(size), str(dim)],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def resident(field: str) -> float:
    """A field of /proc/self/status in MiB."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def measure_memory(name: str, size: int, dim: int) -> None:
    """Body of the process that `peak_memory` starts."""
    loss = CONTENDERS[name]
    small, points = inputs(64, dim, 1)
    loss(small, points).backward()  # libraries load, thread pools start
    rows, va = inputs(size, dim, 1)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here (Linux)
    before = resident("VmRSS")
    loss(rows, va).backward()
    print(resident("VmHWM") - before)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 2048, 8192])
    parser.add_argument("--dims", type=int, nargs="+", default=[128, 768])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory-size", type=int, default=16384)
    parser.add_argument("--memory-dim", type=int, default=256)
    parser.add_argument("--memory-of", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        name, size, dim = options.memory_of
        measure_memory(name, int(size), int(dim))
        return

    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}")
    print("Forward + backward, float32; the bare N x N x D product = 1 (median, range)\n")
    print("| N | D | plain PyTorch | univa_kernels | speed-up |")
    print("|---|---|---|---|---|")
    for size in options.sizes:
        for dim in options.dims:
            check(size, dim)
            times = time_all(size, dim, options.rounds)
            unit = statistics.median(times["bare product"])
            cells = [
                f"{statistics.median(t) / unit:.2f} ({min(t) / unit:.2f}-{max(t) / unit:.2f})"
                for name, t in times.items()
                if name in CONTENDERS
            ]
            plain, own = (statistics.median(times[name]) for name in CONTENDERS)
            print(f"| {size} | {dim} | {' | '.join(cells)} | {plain / own:.2f}x |", flush=True)

    size, dim = options.memory_size, options.memory_dim
    print(f"\nPeak memory above the inputs ({size * dim * 4 / 2**20:.0f} MiB), N={size}, D={dim}\n")
    for name in CONTENDERS:
        print(f"- {name}: {peak_memory(name, size, dim):.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
