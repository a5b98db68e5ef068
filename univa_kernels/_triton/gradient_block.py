"""Backward for long rows: one block of the gradient with respect to the inner products.

The block [block_rows, block_columns] goes into a workspace in the embeddings' dtype, from where the
vendor's matrix product takes it (`backward.py`). A block on the diagonal of a set contrasted with
itself is symmetric: its tiles above the diagonal are computed, and written twice.
"""

from __future__ import annotations

import triton
import triton.language as tl

from univa_kernels._triton.coefficients import coefficients
from univa_kernels._triton.pairs import boxes_touch, inner_products, logit_scale, part_of


@triton.jit(
    do_not_specialize=[
        "rows",
        "columns",
        "first_row",
        "first_column",
        "block_rows",
        "self_offset",
        "threshold",
    ]
)
def gradient_of_products(
    anchors,  # [rows, D]
    contrast,  # [columns, D]
    anchor_inverse,
    contrast_inverse,
    anchor_coordinates,
    contrast_coordinates,
    anchor_groups,
    contrast_groups,
    anchor_boxes,
    contrast_boxes,
    anchor_log_z,
    anchor_upstream,
    anchor_share,
    contrast_log_z,
    contrast_upstream,
    contrast_share,
    temperature,
    block,  # [block_rows, block_columns]
    rows,
    columns,
    first_row,
    first_column,
    block_rows,
    block_columns,
    self_offset,
    threshold,
    inverse_temperature,
    gaussian_factor,
    self_weight,
    log_self_weight,
    D: tl.constexpr,
    P: tl.constexpr,
    SYMMETRIC: tl.constexpr,
    MIRRORED: tl.constexpr,
    LEARNED: tl.constexpr,
    NORMALIZED: tl.constexpr,
    WIDE: tl.constexpr,
    GAUSSIAN: tl.constexpr,
    GROUPS: tl.constexpr,
    HAS_SELF: tl.constexpr,
    KEEP_SELF: tl.constexpr,
    BOXES: tl.constexpr,
    PARTS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    GROUP: tl.constexpr,
):
    """The block from (first_row, first_column) on, both multiples of the tile's sides."""
    SQUARE: tl.constexpr = BLOCK_M if BLOCK_M > BLOCK_N else BLOCK_N
    # Neighbours in time share rows and columns in the cache.
    down = tl.cdiv(block_rows, BLOCK_M)
    across = tl.cdiv(block_columns, BLOCK_N)
    program = tl.program_id(0)
    first = program // (GROUP * across) * GROUP
    height = tl.minimum(down - first, GROUP)
    local_row_tile = first + program % (GROUP * across) % height
    local_column_tile = program % (GROUP * across) // height
    diagonal = local_row_tile * BLOCK_M // SQUARE - local_column_tile * BLOCK_N // SQUARE
    if MIRRORED:  # noqa: SIM102, known when compiling
        if diagonal > 0:
            return
    row_tile = first_row // BLOCK_M + local_row_tile
    column_tile = first_column // BLOCK_N + local_column_tile
    row_index = row_tile * BLOCK_M + tl.arange(0, BLOCK_M)
    column_index = column_tile * BLOCK_N + tl.arange(0, BLOCK_N)
    row_at = tl.minimum(row_index, rows - 1).to(tl.int64)
    column_at = tl.minimum(column_index, columns - 1).to(tl.int64)
    products = inner_products(
        anchors, contrast, row_at, column_at, D, BLOCK_M, BLOCK_N, BLOCK_D, PRECISION
    )
    near = True
    if BOXES:
        near = boxes_touch(anchor_boxes, contrast_boxes, row_tile, column_tile, threshold, P, WIDE)
    scale = logit_scale(temperature, inverse_temperature, LEARNED)
    local_row = (row_index - first_row).to(tl.int64)
    WIDTH: tl.constexpr = BLOCK_N // PARTS
    # A part at a time: a whole tile's temporaries do not fit the registers.
    for part in tl.static_range(PARTS):
        column_index = (column_tile * PARTS + part) * WIDTH + tl.arange(0, WIDTH)
        h = coefficients(
            part_of(products, part, PARTS, BLOCK_M, BLOCK_N),
            anchor_inverse,
            contrast_inverse,
            anchor_coordinates,
            contrast_coordinates,
            anchor_groups,
            contrast_groups,
            anchor_log_z,
            anchor_upstream,
            anchor_share,
            contrast_log_z,
            contrast_upstream,
            contrast_share,
            scale,
            near,
            row_tile,
            column_tile * PARTS + part,
            row_index,
            column_index,
            row_at,
            tl.minimum(column_index, columns - 1).to(tl.int64),
            columns,
            self_offset,
            threshold,
            gaussian_factor,
            self_weight,
            log_self_weight,
            P,
            True,
            SYMMETRIC,
            NORMALIZED,
            WIDE,
            GAUSSIAN,
            GROUPS,
            HAS_SELF,
            KEEP_SELF,
            BLOCK_M,
            WIDTH,
        ).to(block.dtype.element_ty)
        local_column = (column_index - first_column).to(tl.int64)
        inside = (local_row < block_rows)[:, None] & (local_column < block_columns)[None, :]
        places = block + local_row[:, None] * block_columns + local_column[None, :]
        tl.store(places, h, mask=inside)
        if MIRRORED:  # noqa: SIM102, known when compiling
            if diagonal < 0:
                mirror = block + local_column[:, None] * block_columns + local_row[None, :]
                tl.store(mirror, tl.trans(h), mask=tl.trans(inside))
