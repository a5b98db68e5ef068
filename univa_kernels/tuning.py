"""Tile sizes of the Triton backend, measured on the GPU in hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from univa_kernels._triton.configs import Config

__all__ = ["triton_tune"]


def triton_tune(
    rows: int,
    dim: int,
    dtype: torch.dtype = torch.bfloat16,
    *,
    device: torch.device | str = "cuda",
    timer: Callable[[Callable[[], Any]], float] | None = None,
    show: Callable[[str], None] = print,
) -> dict[str, Config]:
    """Measure the tile sizes of the Triton kernels for calls of one size, and keep the best.

    A warm-up call, to be made before training: it compiles and times a handful of configurations
    of the forward and the backward kernel, a set contrasted with itself. The winners go into
    `triton-<gpu>.json` under UNIVA_CACHE_DIR or ~/.cache/univa_kernels, from where every later
    call whose D and N fall into the same buckets takes them, in every process. Without it the
    documented defaults serve; nothing is ever measured while training.

    Args:
        rows: N, at least 1. Beyond 65536, that many are timed.
        dim: D, at least 1.
        dtype: of the embeddings: float32 (by torch's setting of TF32), bfloat16 or float16.
        device: whose GPU.
        timer: takes a call without arguments and returns what it costs, in ms; CUDA events by
            default.
        show: takes each line of the report.

    Returns:
        The winners by kernel, kind of product and buckets of D and N, as the file names them.

    Raises:
        ValueError: `rows` or `dim` below 1.
        RuntimeError: the Triton backend does not serve such tensors here, saying why; or no
            configuration of a kernel runs.
    """
    from univa_kernels import backends

    if rows < 1 or dim < 1:
        raise ValueError(f"triton_tune: rows and dim must be at least 1, not {rows} and {dim}")
    place = torch.device(device)
    if reason := backends.refusal("triton", place, dtype):
        raise RuntimeError(f"univa_kernels: triton_tune cannot run: {reason}")
    from univa_kernels._triton import tuning

    if place.type == "cuda":
        with torch.cuda.device(place):
            return tuning.tune(rows, dim, dtype, place, timer or tuning.milliseconds, show)
    if timer is None:
        raise RuntimeError("univa_kernels: triton_tune needs a timer in Triton's interpreter")
    return tuning.tune(rows, dim, dtype, place, timer, show)
