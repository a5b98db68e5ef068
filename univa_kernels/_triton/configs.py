"""Tile sizes: documented defaults, the few that tuning compares, and what it found on this GPU.

A configuration is looked up by kernel, kind of product and buckets of D and N. Nothing is measured
while training: `tuning.py` does when asked, and `cache.py` keeps what it found.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from univa_kernels._triton.pairs import INTERPRETED

RESIDENT_DEPTH = 256
"""Up to this D, rounded up to a power of two, a row tile stays on the chip."""

KERNELS = ("forward", "gradient_rows", "gradient_block")
KINDS = ("half", "tf32", "ieee")
"""How inner products are multiplied: bfloat16 and float16, and float32 in two ways."""

ROW_BUCKETS = (1024, 4096, 16384, 65536)
"""A call is of the first that holds its N, of the last where none does."""


@dataclass(frozen=True)
class Config:
    """Tile sizes of a kernel.

    Attributes:
        block_m: rows of a tile of pairs.
        block_n: its columns.
        block_d: step along D.
        warps: of a program.
        stages: loads in flight.
        parts: 1, 2, 4 or 8, in which a tile of pairs is worked off, to stay within the registers.
    """

    block_m: int
    block_n: int
    block_d: int
    warps: int
    stages: int
    parts: int = 1

    def __str__(self) -> str:
        return (
            f"{self.block_m}x{self.block_n}x{self.block_d}, {self.warps} warps, "
            f"{self.stages} stages, {self.parts} parts"
        )


# kernel, kind -> bucket of D -> configuration. Bucket 0: streamed along D.
_DEFAULTS: dict[tuple[str, str], dict[int, Config]] = {
    ("forward", "half"): {
        64: Config(128, 64, 64, 8, 3, 2),
        128: Config(128, 64, 128, 8, 3, 2),
        256: Config(128, 64, 256, 8, 2, 2),
        # 128 x 128: 64 operations for a byte from the L2 cache, of which 128 x 64 has 43.
        0: Config(128, 128, 32, 8, 4, 4),
    },
    # Of tensor cores, wgmma and tcgen05 want 64 rows at least.
    ("forward", "tf32"): {
        64: Config(64, 32, 64, 8, 2),
        128: Config(64, 32, 128, 8, 2),
        256: Config(64, 32, 256, 8, 2),
        0: Config(128, 64, 32, 8, 3, 2),
    },
    ("forward", "ieee"): {
        64: Config(32, 32, 64, 8, 1),
        128: Config(32, 32, 128, 8, 1),
        256: Config(32, 32, 256, 8, 1),
        0: Config(64, 32, 32, 8, 2),
    },
    ("gradient_rows", "half"): {
        64: Config(128, 32, 64, 8, 2),
        128: Config(128, 32, 128, 8, 2),
        256: Config(64, 32, 256, 8, 2),
    },
    ("gradient_rows", "tf32"): {
        64: Config(64, 32, 64, 8, 2),
        128: Config(64, 32, 128, 8, 2),
        256: Config(64, 16, 256, 8, 2),
    },
    ("gradient_rows", "ieee"): {
        64: Config(32, 64, 64, 8, 1),
        128: Config(32, 32, 128, 8, 1),
        256: Config(32, 32, 256, 8, 1),
    },
    ("gradient_block", "half"): {0: Config(128, 128, 64, 8, 3, 4)},
    ("gradient_block", "tf32"): {0: Config(64, 64, 32, 8, 3)},
    ("gradient_block", "ieee"): {0: Config(64, 64, 32, 8, 3)},
}
# Where an architecture would spill registers by those: kernel, kind, bucket of D.
_ELSEWHERE: dict[tuple[int, int], dict[tuple[str, str, int], Config]] = {
    (8, 0): {  # mma.sync keeps more in registers
        ("forward", "half", 64): Config(64, 64, 64, 8, 3),
        ("forward", "half", 128): Config(64, 64, 128, 8, 3),
        ("forward", "half", 256): Config(64, 64, 256, 8, 2),
        ("forward", "half", 0): Config(64, 64, 64, 8, 3),
        ("forward", "tf32", 64): Config(64, 32, 64, 8, 2, 2),
        ("forward", "tf32", 0): Config(64, 64, 32, 8, 3, 4),
        ("gradient_block", "half", 0): Config(64, 64, 64, 8, 3),
    },
    (10, 0): {
        ("forward", "half", 0): Config(128, 64, 64, 8, 3, 2),
        ("gradient_block", "half", 0): Config(128, 64, 64, 8, 3),
        ("forward", "half", 256): Config(128, 64, 256, 8, 2, 4),
        ("gradient_rows", "half", 256): Config(128, 32, 256, 8, 2),
        ("gradient_rows", "tf32", 128): Config(64, 32, 128, 4, 2),
    },
}
_ELSEWHERE[10, 3] = _ELSEWHERE[10, 0]
# Chips with 99 KB of shared memory (compute capability 8.6, 8.9, 12.x) and others not tried.
_SMALL_BLOCK = {"half": 64, "tf32": 32, "ieee": 32}


def kind(dtype: torch.dtype, precision: str) -> str:
    """The kind of product, from the embeddings' dtype and `dot_precision`."""
    return "half" if dtype.itemsize == 2 else precision


def bucket(kernel: str, depth: int) -> int:
    """The bucket of D: the next power of two from 64 on, 0 where rows are streamed."""
    if kernel == "gradient_block" or depth > RESIDENT_DEPTH:
        return 0
    return max(64, 1 << (depth - 1).bit_length())


def row_bucket(rows: int) -> int:
    """The bucket of N."""
    return next((bound for bound in ROW_BUCKETS if rows <= bound), ROW_BUCKETS[-1])


def key(kernel: str, kind: str, depth: int, rows: int) -> str:
    """Name of an entry of the cache file."""
    return f"{kernel}/{kind}/{bucket(kernel, depth)}/{row_bucket(rows)}"


def default(kernel: str, kind: str, depth: int, capability: tuple[int, int]) -> Config:
    """The configuration that serves where nothing was measured."""
    place = bucket(kernel, depth)
    config = _DEFAULTS[kernel, kind][place]
    if capability in {(8, 0), (9, 0), (10, 0), (10, 3)}:
        return _ELSEWHERE.get(capability, {}).get((kernel, kind, place), config)
    side = _SMALL_BLOCK[kind]
    return Config(side, side, min(config.block_d, 256), 4, min(config.stages, 2))


def candidates(
    kernel: str, kind: str, depth: int, capability: tuple[int, int]
) -> tuple[Config, ...]:
    """What tuning compares, the default first: half a tile, another depth of loads."""
    if INTERPRETED:
        first = interpreted(kernel, depth)
        return first, replace(first, block_m=32, block_n=16, parts=1)
    first = default(kernel, kind, depth, capability)
    others = [replace(first, stages=first.stages + change) for change in (-1, 1)]
    others.append(replace(first, block_m=first.block_m // 2))
    if bucket(kernel, depth) == 0 and kind == "half":
        others.append(replace(first, block_d=64 if first.block_d == 32 else 32, stages=3))
        others.append(replace(first, block_m=256))
    others.append(replace(first, block_n=first.block_n // 2, parts=max(1, first.parts // 2)))
    if kernel != "gradient_rows":
        others.append(replace(first, block_n=2 * first.block_n, parts=min(4, 2 * first.parts)))
    sound = [c for c in others if c.stages and 16 <= c.block_n <= 128 and c.block_m >= 16]
    return tuple(dict.fromkeys([first, *sound]))


def interpreted(kernel: str, depth: int) -> Config:
    wide = max(16, 1 << (depth - 1).bit_length())
    # Small, unlike sides, in parts: so that tests see every path.
    columns = 32 if kernel == "forward" else 16
    return Config(16, columns, wide if bucket(kernel, depth) else 16, 4, 1, parts=2)


def for_options(kernel: str, config: Config) -> Config:
    """A configuration for calls whose options keep more in registers."""
    if kernel == "forward" and (config.block_m, config.block_n, config.block_d) == (128, 64, 256):
        return replace(config, block_n=32, stages=1, parts=2)
    if (config.block_m, config.block_n) == (128, 128):
        config = replace(config, block_n=64, parts=max(1, config.parts // 2))
    if kernel == "forward":
        return replace(config, parts=max(config.parts, min(4, config.block_n // 16)))
    if kernel == "gradient_block":
        return replace(config, block_m=min(config.block_m, 64))
    return config


def capability_of(device: torch.device) -> tuple[int, int]:
    """Compute capability; that of an H200 where a call is traced without a GPU."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return (9, 0)
    return torch.cuda.get_device_capability(device)


def table(capability: tuple[int, int] = (9, 0)) -> Iterable[tuple[str, str, int, Config]]:
    """Every default: kernel, kind, D, configuration."""
    for (kernel, kind), buckets in _DEFAULTS.items():
        for depth in buckets:
            real = depth or 768
            yield kernel, kind, real, default(kernel, kind, real, capability)
    for block in (32, 128):  # merging and boxes depend on the slots and tiles only
        yield "merge", "ieee", 0, Config(block, block, 0, 4, 1)
    for block in (32, 64, 128):
        yield "boxes", "ieee", 0, Config(block, block, 0, 4, 1)
