"""The phases of the CPU loss in seconds, and how fast their products are beside a bare one.

    python -m benchmarks.profile

A phase's products are run alone (benchmarks/tiles.py); what the loss takes beyond them is the pass
over the tiles: distances, positives, exponentials, sums, coefficients.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.contenders import inputs, ours
from benchmarks.tiles import backward_products, forward_products, tile_side

_ROUNDS = {2048: 15, 8192: 5}


def one_round(size: int, dim: int, seed: int) -> dict[str, float]:
    """Seconds of each phase, on fresh inputs."""
    rows, points = inputs(size, dim, seed)
    data, there = rows.detach(), torch.zeros(size, size)
    loss: list[torch.Tensor] = []
    phases: dict[str, Callable[[], object]] = {
        "bare": lambda: torch.mm(data, data.T, out=there),
        "forward products": lambda: forward_products(data),
        "backward products": lambda: backward_products(data),
        "forward": lambda: loss.append(ours(rows, points)),
        "backward": lambda: loss[0].backward(),
    }
    taken = {}
    for name, call in phases.items():
        start = time.perf_counter()
        call()
        taken[name] = time.perf_counter() - start
    return taken


def operations(size: int, dim: int, phase: str) -> float:
    """Of the phase's products: every pair on and above the diagonal tiles, so many times."""
    side = tile_side(size)
    tiles = size // side
    above, on = tiles * (tiles - 1) // 2, tiles
    # Backward: logits, and into the gradient twice; once for a tile on the diagonal.
    products = above + on if phase == "forward" else 3 * above + 2 * on
    return 2.0 * products * side * side * dim


def main() -> None:
    """Print a row for each size and phase."""
    print("| N | D | phase | products, s | all, s | rest of all | products, GFLOP/s (bare) |")
    print("|---|---|---|---|---|---|---|")
    for size, rounds in _ROUNDS.items():
        for dim in (128, 768):
            one_round(size, dim, 0)  # warms up
            every = [one_round(size, dim, seed) for seed in range(1, rounds + 1)]
            median = {name: statistics.median(each[name] for each in every) for name in every[0]}
            bare = 2e-9 * size * size * dim / median["bare"]
            for phase in ("forward", "backward"):
                products, everything = median[f"{phase} products"], median[phase]
                cells = (
                    f"{size} | {dim} | {phase} | {products:.4f} | {everything:.4f}",
                    f"{100 * (everything - products) / everything:.0f} %",
                    f"{1e-9 * operations(size, dim, phase) / products:.0f} ({bare:.0f})",
                )
                print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
