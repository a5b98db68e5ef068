"""Backward for short rows: the gradient of a row tile in one pass, kept in registers.

A program walks along the columns: logits of a tile, their gradient h in the embeddings' dtype, and
h times the columns added to the tile of gradients. Where there are too few row tiles for the GPU,
the columns are split, each part leaving a gradient of its own that `run_backward.py` adds up.
"""

from __future__ import annotations

import triton
import triton.language as tl

from univa_kernels._triton.coefficients import coefficients
from univa_kernels._triton.pairs import NO_GROUPS, boxes_touch, dot, loaded_rows, logit_scale


@triton.jit(do_not_specialize=["rows", "columns", "tiles_per_split", "self_offset", "threshold"])
def gradient_of_rows(
    embeddings,  # [batch, rows, D], whose gradient is asked for
    others,  # [batch, columns, D]
    row_inverse,
    column_inverse,
    row_coordinates,
    column_coordinates,
    row_groups,
    column_groups,
    row_boxes,
    column_boxes,
    row_log_z,
    row_upstream,
    row_share,
    column_log_z,
    column_upstream,
    column_share,
    temperature,
    gradient,  # [splits, batch, rows, D]
    rows,
    columns,
    tiles_per_split,
    self_offset,
    threshold,
    inverse_temperature,
    gaussian_factor,
    self_weight,
    log_self_weight,
    D: tl.constexpr,
    P: tl.constexpr,
    ROWS_CONTRAST: tl.constexpr,
    COLUMNS_CONTRAST: tl.constexpr,
    LEARNED: tl.constexpr,
    NORMALIZED: tl.constexpr,
    WIDE: tl.constexpr,
    GAUSSIAN: tl.constexpr,
    GROUPS: tl.constexpr,
    HAS_SELF: tl.constexpr,
    KEEP_SELF: tl.constexpr,
    BOXES: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The rows are anchors (ROWS_CONTRAST), contrast (COLUMNS_CONTRAST), or both at once."""
    row_tile = tl.program_id(0)
    batch = tl.program_id(1).to(tl.int64)
    embeddings += batch * rows * D
    others += batch * columns * D
    row_coordinates += batch * rows * P
    column_coordinates += batch * columns * P
    if NORMALIZED:
        row_inverse += batch * rows
        column_inverse += batch * columns
    if GROUPS != NO_GROUPS:
        row_groups += batch * rows
        column_groups += batch * columns
    if BOXES:
        row_boxes += batch * tl.num_programs(0) * (2 * P)
        column_boxes += batch * tl.cdiv(columns, BLOCK_N) * (2 * P)
    if ROWS_CONTRAST:
        row_log_z += batch * rows
        row_upstream += batch * rows
        row_share += batch * rows
    if COLUMNS_CONTRAST:
        column_log_z += batch * columns
        column_upstream += batch * columns
        column_share += batch * columns
    scale = logit_scale(temperature, inverse_temperature, LEARNED)
    row_index = row_tile * BLOCK_M + tl.arange(0, BLOCK_M)
    row_at = tl.minimum(row_index, rows - 1).to(tl.int64)
    own = loaded_rows(embeddings, row_at, D, BLOCK_D)
    total = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    split = tl.program_id(2).to(tl.int64)
    begin = tl.program_id(2) * tiles_per_split
    end = tl.minimum(begin + tiles_per_split, tl.cdiv(columns, BLOCK_N))
    for tile in range(begin, end):
        column_index = tile * BLOCK_N + tl.arange(0, BLOCK_N)
        column_at = tl.minimum(column_index, columns - 1).to(tl.int64)
        other = loaded_rows(others, column_at, D, BLOCK_D)
        products = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        products = dot(own, tl.trans(other), products, PRECISION)
        near = True
        if BOXES:
            near = boxes_touch(row_boxes, column_boxes, row_tile, tile, threshold, P, WIDE)
        h = coefficients(
            products,
            row_inverse,
            column_inverse,
            row_coordinates,
            column_coordinates,
            row_groups,
            column_groups,
            row_log_z,
            row_upstream,
            row_share,
            column_log_z,
            column_upstream,
            column_share,
            scale,
            near,
            row_tile,
            tile,
            row_index,
            column_index,
            row_at,
            column_at,
            columns,
            self_offset,
            threshold,
            gaussian_factor,
            self_weight,
            log_self_weight,
            P,
            ROWS_CONTRAST,
            COLUMNS_CONTRAST,
            NORMALIZED,
            WIDE,
            GAUSSIAN,
            GROUPS,
            HAS_SELF,
            KEEP_SELF,
            BLOCK_M,
            BLOCK_N,
        )
        total = dot(h.to(other.dtype), other, total, PRECISION)
    depth = tl.arange(0, BLOCK_D)
    first = (split * tl.num_programs(1) + batch) * rows
    places = gradient + (first + row_at)[:, None] * D + depth[None, :]
    tl.store(places, total, mask=(row_index < rows)[:, None] & (depth < D)[None, :])
