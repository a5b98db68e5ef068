"""Tile sizes: documented defaults, and what was measured on this GPU.

A configuration is looked up by kernel, width of the dtype and bucket of D. Nothing is ever measured
while training: a file per GPU overrides the defaults where it exists (`cache_file`, `write_cache`).
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from univa_kernels._triton.pairs import INTERPRETED

RESIDENT_DEPTH = 256
"""Up to this D, rounded up to a power of two, a row tile stays on the chip."""

KERNELS = ("forward", "gradient_rows", "gradient_block")


@dataclass(frozen=True)
class Config:
    """Tile sizes of a kernel.

    Attributes:
        block_m: rows of a tile of pairs.
        block_n: its columns.
        block_d: step along D.
        warps: of a program.
        stages: loads in flight.
        parts: 1, 2 or 4, in which the forward reduces a tile, to stay within the registers.
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


# kernel, bytes of an element -> bucket of D -> configuration. Bucket 0: streamed along D.
_DEFAULTS: dict[tuple[str, int], dict[int, Config]] = {
    ("forward", 2): {
        64: Config(128, 64, 64, 8, 3, 2),
        128: Config(128, 64, 128, 8, 3, 2),
        256: Config(128, 64, 256, 8, 2, 2),
        0: Config(128, 64, 64, 8, 3, 2),
    },
    ("forward", 4): {
        64: Config(32, 32, 64, 8, 1),
        128: Config(32, 32, 128, 8, 1),
        256: Config(32, 32, 256, 8, 1),
        0: Config(64, 32, 32, 8, 3),
    },
    ("gradient_rows", 2): {
        64: Config(128, 32, 64, 8, 2),
        128: Config(128, 32, 128, 8, 2),
        256: Config(64, 32, 256, 8, 2),
    },
    ("gradient_rows", 4): {
        64: Config(32, 32, 64, 8, 1),
        128: Config(32, 32, 128, 8, 1),
        256: Config(32, 32, 256, 8, 1),
    },
    ("gradient_block", 2): {0: Config(128, 64, 64, 8, 3)},
    ("gradient_block", 4): {0: Config(64, 64, 32, 8, 3)},
}
# Chips with 99 KB of shared memory (compute capability 8.6, 8.9, 12.x) and others not tried.
_SMALL_BLOCK = {2: 64, 4: 32}


def bucket(kernel: str, depth: int) -> int:
    """The bucket of D: the next power of two from 64 on, 0 where rows are streamed."""
    if kernel == "gradient_block" or depth > RESIDENT_DEPTH:
        return 0
    return max(64, 1 << (depth - 1).bit_length())


def default(kernel: str, element_size: int, depth: int, capability: tuple[int, int]) -> Config:
    """The configuration that serves where nothing was measured."""
    config = _DEFAULTS[kernel, element_size][bucket(kernel, depth)]
    if capability == (8, 0) and kernel != "gradient_rows" and element_size == 2:
        return replace(config, block_m=64, parts=1)  # mma.sync keeps more in registers
    if capability in {(8, 0), (9, 0), (10, 0), (10, 3)}:
        return config
    side = _SMALL_BLOCK[element_size]
    return Config(side, side, min(config.block_d, 256), 4, min(config.stages, 2))


def choose(kernel: str, dtype: torch.dtype, depth: int, device: torch.device) -> Config:
    """The configuration for a call: what was found for this GPU, else the default."""
    if INTERPRETED:
        wide = max(16, 1 << (depth - 1).bit_length())
        # Small, unlike sides, in parts: so that tests see every path.
        columns = 32 if kernel == "forward" else 16
        return Config(16, columns, wide if bucket(kernel, depth) else 16, 4, 1, parts=2)
    if device.type != "cuda":  # traced without a GPU
        return default(kernel, dtype.itemsize, depth, (9, 0))
    found = _measured(device.index or 0).get(key(kernel, dtype.itemsize, depth))
    if found is not None:
        return found
    return default(kernel, dtype.itemsize, depth, torch.cuda.get_device_capability(device))


def key(kernel: str, element_size: int, depth: int) -> str:
    """Name of an entry of the cache file."""
    return f"{kernel}/{element_size}/{bucket(kernel, depth)}"


def cache_file(gpu: str) -> Path:
    """Where the measured configurations of a GPU lie: under UNIVA_CACHE_DIR or ~/.cache."""
    root = os.environ.get("UNIVA_CACHE_DIR")
    folder = Path(root) if root else Path.home() / ".cache" / "univa_kernels"
    name = "".join(c if c.isalnum() else "-" for c in gpu).lower()
    return folder / f"triton-{name}.json"


def read_cache(path: Path) -> dict[str, Config]:
    """The entries of a cache file; none where it is missing or not ours."""
    try:
        entries = json.loads(path.read_text())
        return {name: Config(**entry) for name, entry in entries.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def write_cache(path: Path, entries: dict[str, Config]) -> None:
    """Replace a cache file as a whole, so that no reader sees half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(f".{os.getpid()}")
    text = json.dumps({name: asdict(config) for name, config in sorted(entries.items())}, indent=1)
    scratch.write_text(text + "\n")
    scratch.replace(path)


@functools.lru_cache
def _measured(index: int) -> dict[str, Config]:
    if not torch.cuda.is_available():
        return {}
    return read_cache(cache_file(torch.cuda.get_device_name(index)))


def forget() -> None:
    """Read the cache file again at the next call."""
    _measured.cache_clear()


def table(capability: tuple[int, int] = (9, 0)) -> Iterable[tuple[str, int, int, Config]]:
    """Every default: kernel, bytes of an element, D, configuration."""
    for (kernel, element_size), buckets in _DEFAULTS.items():
        for depth in buckets:
            real = depth or 768
            yield kernel, element_size, real, default(kernel, element_size, real, capability)
    for block in (32, 128):  # merging depends on the slots only
        yield "merge", 4, 0, Config(block, block, 0, 4, 1)
