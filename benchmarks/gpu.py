"""The contrastive loss on a GPU beside the bare matrix product, all in one run.

    python -m benchmarks.gpu                # writes benchmarks/results/<gpu>.json
    python -m benchmarks.gpu --backends triton --rows 4096 --dim 256

Times are medians over launches between CUDA events, on random unit rows in bfloat16. The bare
product is torch.mm(X, X.T). No run on a GPU has been recorded yet.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import univa_kernels

TEMPERATURE, RADIUS = 0.5, 0.1


def inputs(rows: int, dim: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator("cuda").manual_seed(0)
    embeddings = torch.randn(rows, dim, generator=generator, device="cuda", dtype=torch.bfloat16)
    embeddings = torch.nn.functional.normalize(embeddings).requires_grad_()
    return embeddings, torch.rand(rows, 2, generator=generator, device="cuda")


def vectorised(embeddings: Tensor, coordinates: Tensor) -> Tensor:
    """What a careful user writes; torch.compile gets it."""
    logits = (embeddings @ embeddings.T).float() / TEMPERATURE
    own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    difference = coordinates[:, None] - coordinates[None]
    positive = (difference.square().sum(2).sqrt() < RADIUS) & ~own
    count = positive.sum(1)
    log_z = logits.masked_fill(own, -torch.inf).logsumexp(1)
    mean = (logits * positive).sum(1) / count.clamp(min=1)
    some = count > 0
    return torch.where(some, log_z - mean, 0).sum() / some.sum().clamp(min=1)


def ours(embeddings: Tensor, coordinates: Tensor) -> Tensor:
    return univa_kernels.va_supcon_loss(
        embeddings, coordinates, temperature=TEMPERATURE, radius=RADIUS
    )


def milliseconds(call: Callable[[], Any], repeats: int = 20) -> float:
    """Median time of a call on the device."""
    for _ in range(3):
        call()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def largest(backend: str, dim: int, budget: int) -> int:
    """The largest power of two of rows whose forward and backward stay within `budget` bytes."""
    rows, fits = 1 << 15, 0
    while rows <= 1 << 22:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        try:
            with univa_kernels.use_backend(backend):
                ours(*inputs(rows, dim)).backward()
            torch.cuda.synchronize()
        except torch.OutOfMemoryError:
            break
        if torch.cuda.max_memory_allocated() > budget:
            break
        fits, rows = rows, rows * 2
    return fits


def measure(backend: str, rows: int, dim: int) -> dict[str, float]:
    """Times in ms and the ratios of the issue's table."""
    embeddings, coordinates = inputs(rows, dim)
    matrix = embeddings.detach()
    compiled = torch.compile(vectorised)

    def both(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(loss(embeddings, coordinates), embeddings)

    with univa_kernels.use_backend(backend):
        figures = {
            "bare product": milliseconds(lambda: torch.mm(matrix, matrix.T)),
            "forward": milliseconds(lambda: ours(matrix, coordinates)),
            "forward + backward": milliseconds(both(ours)),
        }
    try:
        figures["torch.compile, forward + backward"] = milliseconds(both(compiled), 5)
        figures["speed-up over torch.compile"] = (
            figures["torch.compile, forward + backward"] / figures["forward + backward"]
        )
    except torch.OutOfMemoryError:
        print("the vectorised loss does not fit", file=sys.stderr)
    for name in ("forward", "forward + backward"):
        figures[f"{name} / bare product"] = figures[name] / figures["bare product"]
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backends", nargs="+", default=["triton", "cuda"])
    parser.add_argument("--rows", type=int, default=16384)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--largest", action="store_true", help="find the largest N in 16 GB too")
    parser.add_argument("--out", type=Path, help="instead of benchmarks/results/<gpu>.json")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks.gpu: torch sees no CUDA device")
    gpu = torch.cuda.get_device_name()
    result: dict[str, Any] = {
        "gpu": gpu,
        "torch": torch.__version__,
        "rows": options.rows,
        "dim": options.dim,
    }
    for backend in options.backends:
        if reason := univa_kernels.available_backends()[backend]:
            print(f"{backend}: {reason}", file=sys.stderr)
            continue
        figures = measure(backend, options.rows, options.dim)
        if options.largest and backend == "triton":  # minutes by the others
            figures["largest N at D = 256 in 16 GB"] = largest(backend, 256, 16 << 30)
        result[backend] = figures
        print(f"{backend} at N = {options.rows}, D = {options.dim}, bfloat16, on {gpu}")
        for name, value in figures.items():
            print(f"  {name:36} {value:10.3f}")
    path = (
        options.out or Path(__file__).parent / "results" / f"{gpu.replace(' ', '-').lower()}.json"
    )
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
