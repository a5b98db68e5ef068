"""How many tiles of pairs can hold a positive, with samples as they come and sorted by coordinates.

    python -m benchmarks.sorted_tiles

Counts tiles of the Triton forward's default size whose coordinate boxes lie nearer than the radius;
the others skip the positives. Coordinates are normalised valence and arousal (mean 0, variance 1),
the radius is 0.1, sorting is along a Morton curve. Beside the counts stands an estimate, no
measurement, of what skipping saves on an H200 and of what sorting costs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from univa_kernels._triton.sorting import morton_order

RADIUS = 0.1
TILE = (128, 64)
MATRIX_RATE, MEMORY_RATE = 790e12, 4.3e12  # operations and bytes per second, measured on an H200
# float32 operations per second of its 132 multiprocessors, 128 lanes each, at 1.7 GHz
LANE_RATE = 132 * 128 * 1.7e9
# Differences, squares, comparison, weight, product, and the sums of rows and columns.
POSITIVE_OPERATIONS = {"forward": 14, "backward": 9}
# Sorting's dozen small launches, forward, and those that undo it; a guess of 5 us each.
LAUNCHES = 15 * 5e-6


def distributions(rows: int) -> dict[str, Tensor]:
    """Normalised valence and arousal [N, 2]."""
    generator = torch.Generator().manual_seed(0)
    gaussian = torch.randn(rows, 2, generator=generator)
    # Scores of a predictor crowd around the emotions' coordinates.
    centres = torch.randn(7, 2, generator=generator)
    crowded = centres[torch.randint(7, (rows,), generator=generator)]
    crowded = crowded + 0.25 * torch.randn(rows, 2, generator=generator)
    return {"gaussian": gaussian, "seven clusters": (crowded - crowded.mean(0)) / crowded.std(0)}


def boxes(coordinates: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Lowest and highest coordinates of each tile, [tiles, 2] each."""
    tiles = coordinates.view(-1, block, 2)
    return tiles.amin(1), tiles.amax(1)


def near_share(coordinates: Tensor) -> float:
    """Share of tiles on and above the diagonal that may hold a positive."""
    rows_low, rows_high = boxes(coordinates, TILE[0])
    low, high = boxes(coordinates, TILE[1])
    near = counted = 0
    for tile in range(len(rows_low)):
        first = tile * TILE[0] // TILE[1]
        gap = torch.maximum(low[first:] - rows_high[tile], rows_low[tile] - high[first:])
        near += int((gap.clamp(min=0).square().sum(1) < RADIUS**2).sum())
        counted += len(gap)
    return near / counted


def estimate(rows: int, depth: int, skipped: float) -> tuple[float, float, float]:
    """Milliseconds of a bfloat16 forward and backward's products, saved, and spent on sorting."""
    pairs = rows * rows / 2
    products = (4 if depth > 256 else 5) * 2 * pairs * depth / MATRIX_RATE
    # The single pass of short rows meets every pair twice.
    twice = 1 if depth > 256 else 2
    operations = POSITIVE_OPERATIONS["forward"] + twice * POSITIVE_OPERATIONS["backward"]
    saved = pairs * operations * skipped / LANE_RATE
    # Embeddings, and their gradient back, read and written once more.
    spent = LAUNCHES + 4 * 2 * rows * depth / MEMORY_RATE
    return products * 1e3, saved * 1e3, spent * 1e3


def main() -> None:
    print(f"share of {TILE[0]}x{TILE[1]} tiles that skip the positives; radius {RADIUS}")
    print("estimates in ms on an H200, forward and backward: products / saved / sorting")
    for rows in (4096, 8192, 16384, 32768, 65536):
        for name, coordinates in distributions(rows).items():
            plain = 1 - near_share(coordinates)
            ordered = 1 - near_share(coordinates[morton_order(coordinates[None])[0]])
            line = f"N {rows:6} {name:15} as they come {plain:6.1%}, sorted {ordered:6.1%}"
            for depth in (256, 768):
                figures = " / ".join(f"{ms:.2f}" for ms in estimate(rows, depth, ordered - plain))
                line += f"   D {depth}: {figures}"
            print(line)


if __name__ == "__main__":
    main()
