"""The contrastive loss on a GPU beside the bare matrix product, all in one run.

    python -m benchmarks.gpu                # writes benchmarks/results/<gpu>-kernels.json
    python -m benchmarks.gpu --backends triton --rows 4096 --dim 256
    python -m benchmarks.gpu --tune --largest   # measures tile sizes first, and the largest N too

Times are medians over launches between CUDA events, on random unit rows in bfloat16. The bare
product is torch.mm(X, X.T). The file is written anew after every figure, so that a run that is
stopped leaves what it had. Exit status 1: a figure of the `triton` backend misses what it must
reach at the default size. No run on a GPU has been recorded yet.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import univa_kernels

TEMPERATURE, RADIUS = 0.5, 0.1
ROWS, DIM = 16384, 768
RESULTS = Path(__file__).parent / "results"
# What an H200 must reach and should, at ROWS and DIM; times are better low, the rest high.
TARGETS = {
    "forward / bare product": (1.0, 0.7),
    "forward + backward / bare product": (3.5, 2.5),
    "speed-up over torch.compile": (2.5, 4),
    "largest N at D = 256 in 16 GB": (1 << 20, 1 << 22),
}
Figures = dict[str, float]


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


def largest(backend: str, dim: int, budget: int) -> Iterator[Figures]:
    """The largest power of two of rows whose forward and backward stay within `budget` bytes."""
    rows = 1 << 15
    while rows <= 1 << 22:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        try:
            with univa_kernels.use_backend(backend):
                ours(*inputs(rows, dim)).backward()
            torch.cuda.synchronize()
        except torch.OutOfMemoryError:
            return
        if torch.cuda.max_memory_allocated() > budget:
            return
        yield {f"largest N at D = {dim} in {budget >> 30} GB": rows}
        rows *= 2


def measure(backend: str, rows: int, dim: int) -> Iterator[Figures]:
    """Times in ms and the ratios of them, as they come."""
    embeddings, coordinates = inputs(rows, dim)
    matrix = embeddings.detach()

    def both(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(loss(embeddings, coordinates), embeddings)

    bare = milliseconds(lambda: torch.mm(matrix, matrix.T))
    yield {"bare product": bare}
    with univa_kernels.use_backend(backend):
        forward = milliseconds(lambda: ours(matrix, coordinates))
        yield {"forward": forward, "forward / bare product": forward / bare}
        whole = milliseconds(both(ours))
        yield {"forward + backward": whole, "forward + backward / bare product": whole / bare}
    try:
        compiled = milliseconds(both(torch.compile(vectorised)), 5)
    except torch.OutOfMemoryError:
        print("the vectorised loss does not fit", file=sys.stderr)
        return
    yield {
        "torch.compile, forward + backward": compiled,
        "speed-up over torch.compile": compiled / whole,
    }


def verdict(name: str, value: float) -> tuple[bool, str]:
    """Whether a figure reaches what it must, and that in words."""
    if name not in TARGETS:
        return True, ""
    must, aim = TARGETS[name]
    sign = -1 if must > aim else 1
    reached, best = sign * value >= sign * must, sign * value >= sign * aim
    word = "reached" if reached else "MISSED"
    return reached, f"must {must:g}: {word}; aim {aim:g}: {'reached' if best else 'missed'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backends", nargs="+", default=["triton", "cuda"])
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--dim", type=int, default=DIM)
    parser.add_argument("--largest", action="store_true", help="find the largest N in 16 GB too")
    parser.add_argument("--tune", action="store_true", help="univa_kernels.triton_tune first")
    parser.add_argument("--out", type=Path, help="instead of benchmarks/results/<gpu>-kernels.json")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks.gpu: torch sees no CUDA device")
    gpu = torch.cuda.get_device_name()
    # Not <gpu>.json, which is the benchmark suite's.
    name = f"{gpu.replace(' ', '-').lower()}-kernels.json"
    path = options.out or RESULTS / name
    result: dict[str, Any] = {
        "gpu": gpu,
        "torch": torch.__version__,
        "rows": options.rows,
        "dim": options.dim,
        "tuned": options.tune,
    }
    judged = (options.rows, options.dim) == (ROWS, DIM)
    missed: list[str] = []
    for backend in options.backends:
        if reason := univa_kernels.available_backends()[backend]:
            print(f"{backend}: {reason}", file=sys.stderr)
            continue
        steps = [measure(backend, options.rows, options.dim)]
        if backend == "triton":
            if options.tune:
                univa_kernels.triton_tune(options.rows, options.dim)
            if options.largest:  # minutes by the others
                steps.append(largest(backend, 256, 16 << 30))
        print(f"{backend} at N = {options.rows}, D = {options.dim}, bfloat16, on {gpu}")
        figures: Figures = result.setdefault(backend, {})
        for new in itertools.chain(*steps):
            figures |= new
            write(path, result)
            for name, value in new.items():
                reached, words = (
                    verdict(name, value) if backend == "triton" and judged else (True, "")
                )
                print(f"  {name:36} {value:12.3f}  {words}".rstrip(), flush=True)
                if name.startswith("largest"):  # of a growing number the last one counts
                    missed = [other for other in missed if other != name]
                missed += [] if reached else [name]
    print(path)
    if missed:
        sys.exit(f"benchmarks.gpu: missed: {', '.join(missed)}")


def write(path: Path, result: dict[str, Any]) -> None:
    """Replace the file as a whole."""
    path.parent.mkdir(exist_ok=True)
    scratch = path.with_suffix(".part")
    scratch.write_text(json.dumps(result, indent=1) + "\n")
    scratch.replace(path)


if __name__ == "__main__":
    main()
