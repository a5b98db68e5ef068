"""The configuration that serves a call: forced, found by tuning, or the default."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from univa_kernels._triton import cache
from univa_kernels._triton.configs import Config, capability_of, default, for_options, interpreted
from univa_kernels._triton.pairs import INTERPRETED

__all__ = ["choose", "forced"]

_forced: dict[str, Config] = {}


@contextlib.contextmanager
def forced(kernel: str, config: Config) -> Iterator[None]:
    """Let a kernel run with `config` inside a block: for tuning."""
    _forced[kernel] = config
    try:
        yield
    finally:
        del _forced[kernel]


def choose(
    kernel: str, kind: str, depth: int, rows: int, device: torch.device, rich: bool = False
) -> Config:
    """The configuration for a call: what was found for this GPU, else the default.

    Args:
        kernel: one of `KERNELS`.
        kind: one of `KINDS`.
        depth: D.
        rows: N.
        device: of the tensors.
        rich: whether options beyond the plain loss keep more in registers.
    """
    if kernel in _forced:
        return _forced[kernel]
    found = cache.found(kernel, kind, depth, rows, device)
    if found is None:
        found = _default_here(kernel, kind, depth, device)
    return for_options(kernel, found) if rich and not INTERPRETED else found


def _default_here(kernel: str, kind: str, depth: int, device: torch.device) -> Config:
    if INTERPRETED:
        return interpreted(kernel, depth)
    return default(kernel, kind, depth, capability_of(device))
