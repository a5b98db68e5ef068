"""One call of the contrastive loss as the kernels see it: tensors, flags, launch arguments."""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import triton
from torch import Tensor

from univa_kernels._triton import choice, configs
from univa_kernels._triton.boxes import coordinate_boxes
from univa_kernels._triton.configs import Config
from univa_kernels._triton.pairs import INTERPRETED

# Boxes cost a launch or two: worth it only where there are many tiles.
_PAIRS_FOR_BOXES = 1 if INTERPRETED else 1 << 24


class Problem(NamedTuple):
    """Contiguous tensors of a batch of S independent sets, and the options."""

    anchors: Tensor  # [S, N, D] as the kernels multiply them
    contrast: Tensor  # [S, M, D]
    anchor_inverse: Tensor | None  # [S, N] 1 / length, where the kernels are to scale by it
    contrast_inverse: Tensor | None  # [S, M]
    anchor_coordinates: Tensor  # [S, N, p]
    contrast_coordinates: Tensor  # [S, M, p]
    anchor_groups: Tensor | None  # [S, N]
    contrast_groups: Tensor | None  # [S, M]
    temperature: Tensor | None
    inverse_temperature: float
    radius: float
    sigma: float
    self_weight: float
    self_offset: int | None
    exclude_groups: bool
    symmetric: bool
    launcher: Callable[[Any], Any]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """S, N, M, D."""
        return (*self.anchors.shape[:2], self.contrast.shape[1], self.anchors.shape[2])

    def swapped(self) -> Problem:
        """The same pairs with the contrast set as rows."""
        return self._replace(
            anchors=self.contrast,
            contrast=self.anchors,
            anchor_inverse=self.contrast_inverse,
            contrast_inverse=self.anchor_inverse,
            anchor_coordinates=self.contrast_coordinates,
            contrast_coordinates=self.anchor_coordinates,
            anchor_groups=self.contrast_groups,
            contrast_groups=self.anchor_groups,
            self_offset=None if self.self_offset is None else -self.self_offset,
        )

    def of_set(self, index: int) -> Problem:
        """Set `index` alone."""
        fields: dict[str, Any] = {
            name: None if (value := getattr(self, name)) is None else value[index : index + 1]
            for name in self._fields[:8]
        }
        return self._replace(**fields)

    def flags(self, config: Config) -> dict[str, Any]:
        """The compile-time arguments that all kernels of pairs share."""
        groups = 0 if self.anchor_groups is None else 2 if self.exclude_groups else 1
        return {
            "D": self.shape[3],
            "P": self.anchor_coordinates.shape[2],
            "LEARNED": self.temperature is not None,
            "NORMALIZED": self.anchor_inverse is not None,
            "WIDE": self.anchor_coordinates.dtype == torch.float64,
            "GAUSSIAN": self.sigma > 0,
            "GROUPS": groups,
            "HAS_SELF": self.self_offset is not None,
            "KEEP_SELF": self.self_weight > 0,
            "BOXES": self.with_boxes(),
            "PRECISION": dot_precision(self.anchors.dtype),
            "BLOCK_M": config.block_m,
            "BLOCK_N": config.block_n,
            "BLOCK_D": config.block_d,
            "num_warps": config.warps,
            "num_stages": config.stages,
        }

    def pairs(self) -> tuple[Any, ...]:
        """Anchors and contrast set with what belongs to their rows; absent ones are never read."""
        none = self.anchors
        return (
            self.anchors,
            self.contrast,
            none if self.anchor_inverse is None else self.anchor_inverse,
            none if self.contrast_inverse is None else self.contrast_inverse,
            self.anchor_coordinates,
            self.contrast_coordinates,
            none if self.anchor_groups is None else self.anchor_groups,
            none if self.contrast_groups is None else self.contrast_groups,
        )

    def with_boxes(self) -> bool:
        """Whether coordinate boxes can tell tiles without positives."""
        near_only = self.sigma == 0 and (self.anchor_groups is None or self.exclude_groups)
        return near_only and self.shape[1] * self.shape[2] >= _PAIRS_FOR_BOXES

    def boxes(self, config: Config) -> tuple[Tensor, Tensor]:
        """Boxes of the row tiles and of the column tiles."""
        if not self.with_boxes():
            return self.anchor_coordinates, self.anchor_coordinates
        rows = _boxes(self.anchor_coordinates, config.block_m, self.launcher)
        if self.symmetric and config.block_m == config.block_n:
            return rows, rows
        return rows, _boxes(self.contrast_coordinates, config.block_n, self.launcher)

    def numbers(self) -> tuple[int, int, float, float, float, float]:
        """Offset, threshold, 1 / temperature, gaussian factor, self weight and its log."""
        wide = self.anchor_coordinates.dtype == torch.float64
        return (
            self.self_offset or 0,
            threshold_bits(float(self.radius), wide),
            self.inverse_temperature,
            gaussian_factor(float(self.sigma)) if self.sigma > 0 else 0.0,
            self.self_weight,
            math.log(self.self_weight) if self.self_weight > 0 else 0.0,
        )


def make(
    anchors: Tensor,
    contrast: Tensor | None,
    anchor_coordinates: Tensor,
    contrast_coordinates: Tensor | None,
    anchor_groups: Tensor | None,
    contrast_groups: Tensor | None,
    learned_temperature: Tensor | None,
    temperature: float,
    radius: float,
    sigma: float,
    self_weight: float,
    self_offset: int | None,
    exclude_groups: bool,
    normalize: bool,
    launcher: Callable[[Any], Any],
) -> Problem:
    """The problem of one call; every tensor has the sets as first dimension."""
    symmetric = contrast is None
    rows = anchors.contiguous()
    columns = rows if contrast is None else contrast.contiguous()
    if rows.shape[2] == 0:  # all logits are 0
        rows, columns = (
            rows.new_zeros((*rows.shape[:2], 1)),
            columns.new_zeros((*columns.shape[:2], 1)),
        )
    inverse = inverse_columns = None
    if normalize:
        inverse = inverse_lengths(rows)
        inverse_columns = inverse if symmetric else inverse_lengths(columns)
        if rows.dtype == torch.float32:
            rows = rows * inverse[..., None]
            columns = rows if symmetric else columns * inverse_columns[..., None]
            inverse = inverse_columns = None
    n, m = rows.shape[1], columns.shape[1]
    # An offset beyond both sets reaches nothing.
    offset = 0 if symmetric else self_offset
    if offset is not None and not -n < offset < m:
        offset = None
    points = anchor_coordinates.contiguous()
    groups = None if anchor_groups is None else anchor_groups.contiguous()
    return Problem(
        rows,
        columns,
        inverse,
        inverse_columns,
        points,
        points if contrast_coordinates is None else contrast_coordinates.contiguous(),
        groups,
        groups if symmetric or contrast_groups is None else contrast_groups.contiguous(),
        learned_temperature,
        1.0 / temperature,
        radius,
        sigma,
        self_weight,
        offset,
        exclude_groups,
        symmetric,
        launcher,
    )


def inverse_lengths(rows: Tensor) -> Tensor:
    """1 / max(|x|, 1e-12) of each row, [S, N] float32, as torch.nn.functional.normalize has it.

    Half-precision rows stay as they are, since scaled ones would not be of unit length; kernels
    scale the float32 inner products instead.
    """
    return lengths(rows).clamp(min=1e-12).reciprocal()


def lengths(rows: Tensor) -> Tensor:
    """|x| of each row, [S, N] float32."""
    length: Tensor = torch.linalg.vector_norm(rows, dim=-1, dtype=torch.float32)
    return length


def traced(kernel: Any) -> Any:
    """A kernel that torch.compile can trace; `direct` skips what that costs in eager mode."""
    return kernel if INTERPRETED else torch.library.wrap_triton(kernel)


def direct(kernel: Any) -> Any:
    """The kernel itself."""
    return kernel


def _boxes(coordinates: Tensor, block: int, launcher: Callable[[Any], Any]) -> Tensor:
    sets, rows, dims = coordinates.shape
    tiles = triton.cdiv(rows, block)
    boxes = coordinates.new_empty((sets, tiles, dims, 2))
    launcher(coordinate_boxes)[(tiles, sets)](coordinates, boxes, rows, P=dims, BLOCK=block)
    return boxes


def dot_precision(dtype: torch.dtype) -> str:
    """How float32 is multiplied: TF32 exactly where torch's own setting allows it."""
    if dtype != torch.float32:
        return "ieee"
    matmul: Any = torch.backends.cuda.matmul
    setting = getattr(matmul, "fp32_precision", None)
    if setting is None:
        return "tf32" if matmul.allow_tf32 else "ieee"
    if setting == "none":
        setting = getattr(torch.backends, "fp32_precision", "none")
    return "tf32" if setting == "tf32" else "ieee"


@functools.lru_cache(maxsize=256)
def threshold_bits(radius: float, wide: bool) -> int:
    """Bits of the least squared distance that is no positive, as a float64.

    Least x with sqrt(x) >= radius in the coordinates' dtype, as csrc/include/univa/positives.h:
    `squared < x` is then exactly `sqrt(squared) < radius`.
    """
    kind: Any = np.float64 if wide else np.float32
    with np.errstate(over="ignore", under="ignore"):
        limit, zero, infinity = kind(radius), kind(0), kind(np.inf)
        if not limit > 0:
            value = -1.0  # no squared distance lies below
        else:
            least = limit * limit
            while least > 0 and np.sqrt(np.nextafter(least, zero)) >= limit:
                least = np.nextafter(least, zero)
            while least < infinity and np.sqrt(least) < limit:
                least = np.nextafter(least, infinity)
            value = float(least)
    bits: int = struct.unpack("<q", struct.pack("<d", value))[0]
    return bits


def gaussian_factor(sigma: float) -> float:
    """-log2(e) / (2 sigma^2), kept off 0 and -inf: times a squared distance it is no NaN."""
    square = sigma * sigma
    limits = torch.finfo(torch.float32)
    factor = -0.5 * math.log2(math.e) / square if square > 0 else -math.inf
    return min(max(factor, -limits.max), -limits.tiny)


def config_for(kernel: str, problem: Problem) -> Config:
    """Tile sizes of a kernel for a problem."""
    dtype, rows = problem.anchors.dtype, problem.shape[1]
    rich = (
        problem.temperature is not None
        or problem.sigma > 0
        or problem.anchor_groups is not None
        or problem.anchor_inverse is not None
        or problem.anchor_coordinates.dtype == torch.float64
    )
    kind = configs.kind(dtype, dot_precision(dtype))
    return choice.choose(kernel, kind, problem.shape[3], rows, problem.anchors.device, rich)
