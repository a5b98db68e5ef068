"""Forward, first half: every tile of logits once, reduced to states of its rows and columns.

A program walks along one row tile through one chunk of column tiles. It keeps the states of its
rows in registers and leaves them in slot `chunk`. Contrasting a set with itself, only tiles on and
above the diagonal are computed; one above it also leaves the states of its columns, as the rows
that they are, in the slot of its row tile. `merge.py` folds the slots. A launch covers a panel of
row tiles, as many as there are slots, so that memory is bounded whatever N.
"""

from __future__ import annotations

import triton
import triton.language as tl

from univa_kernels._triton.pairs import (
    NO_GROUPS,
    SAME_IS_NO_PAIR,
    boxes_touch,
    counted_logits,
    dot,
    inner_products,
    loaded_rows,
    logit_scale,
    meets_self,
    pair_scale,
    part_of,
    positive_weights,
)
from univa_kernels._triton.states import merged, reduced, stored

# Below this magnitude of logits, exp needs no shift: rows and columns share it.
SMALL = tl.constexpr(28.0)


@triton.jit
def part_states(
    logits,
    part,
    near,
    twice,
    place,
    anchor_inverse,
    contrast_inverse,
    anchor_coordinates,
    contrast_coordinates,
    anchor_groups,
    contrast_groups,
    row_tile,
    row_index,
    row_at,
    columns,
    self_offset,
    threshold,
    gaussian_factor,
    self_weight,
    log_self_weight,
    P: tl.constexpr,
    SYMMETRIC: tl.constexpr,
    LEARNED: tl.constexpr,
    NORMALIZED: tl.constexpr,
    WIDE: tl.constexpr,
    GAUSSIAN: tl.constexpr,
    GROUPS: tl.constexpr,
    HAS_SELF: tl.constexpr,
    KEEP_SELF: tl.constexpr,
    BOXES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """States of the rows of a part [BLOCK_M, WIDTH] of a tile; leaves those of its columns.

    `part` counts parts along all columns.
    """
    column_index = part * WIDTH + tl.arange(0, WIDTH)
    column_at = tl.minimum(column_index, columns - 1).to(tl.int64)
    if NORMALIZED:
        logits *= pair_scale(anchor_inverse, contrast_inverse, 1.0, row_at, column_at, NORMALIZED)
    interior = (part + 1) * WIDTH <= columns
    if HAS_SELF:
        meets = meets_self(row_tile, part, self_offset, BLOCK_M, WIDTH)
        interior = interior & (meets == 0)
        if BOXES:
            near = near | meets
    place += column_index
    small = False
    if GROUPS != SAME_IS_NO_PAIR:
        small = interior & (tl.max(tl.abs(logits)) < SMALL)
    if small:
        exps = tl.exp(logits)
        m2 = tl.zeros([BLOCK_M], tl.float32)
        e2 = tl.sum(exps, 1)
        es2 = e2
        k2 = tl.zeros([BLOCK_M], tl.float32)
        ks2 = tl.zeros([BLOCK_M], tl.float32)
        if SYMMETRIC:
            cm = tl.zeros([WIDTH], tl.float32)
            ce = tl.sum(exps, 0)
            ces = ce
            ck = tl.zeros([WIDTH], tl.float32)
            cks = tl.zeros([WIDTH], tl.float32)
        if LEARNED:
            weighted = exps * logits
            es2 = tl.sum(weighted, 1)
            if SYMMETRIC:
                ces = tl.sum(weighted, 0)
        if near:
            weights = positive_weights(
                anchor_coordinates,
                contrast_coordinates,
                anchor_groups,
                contrast_groups,
                row_index,
                column_index,
                row_at,
                column_at,
                columns,
                self_offset,
                threshold,
                gaussian_factor,
                self_weight,
                P,
                BLOCK_M,
                WIDTH,
                WIDE,
                GAUSSIAN,
                GROUPS,
                HAS_SELF,
                True,
            )
            attracted = weights * logits
            k2 = tl.sum(weights, 1)
            ks2 = tl.sum(attracted, 1)
            if SYMMETRIC:
                ck = tl.sum(weights, 0)
                cks = tl.sum(attracted, 0)
        if SYMMETRIC:  # noqa: SIM102, known when compiling
            if twice:
                stored(place, columns, None, cm, ce, ces, ck, cks, LEARNED)
    else:
        counted = counted_logits(
            logits,
            anchor_groups,
            contrast_groups,
            row_index,
            column_index,
            row_at,
            column_at,
            columns,
            self_offset,
            log_self_weight,
            GROUPS,
            HAS_SELF,
            KEEP_SELF,
        )
        weights = positive_weights(
            anchor_coordinates,
            contrast_coordinates,
            anchor_groups,
            contrast_groups,
            row_index,
            column_index,
            row_at,
            column_at,
            columns,
            self_offset,
            threshold,
            gaussian_factor,
            self_weight,
            P,
            BLOCK_M,
            WIDTH,
            WIDE,
            GAUSSIAN,
            GROUPS,
            HAS_SELF,
            False,
        )
        m2, e2, es2, k2, ks2 = reduced(logits, counted, weights, 1, LEARNED)
        if SYMMETRIC:  # noqa: SIM102, known when compiling
            if twice:
                cm, ce, ces, ck, cks = reduced(logits, counted, weights, 0, LEARNED)
                real = column_index < columns
                stored(place, columns, real, cm, ce, ces, ck, cks, LEARNED)
    return m2, e2, es2, k2, ks2


@triton.jit(
    do_not_specialize=[
        "rows",
        "columns",
        "first_tile",
        "first_column_tile",
        "tiles_per_chunk",
        "self_offset",
        "threshold",
    ]
)
def partial_states(
    anchors,
    contrast,
    anchor_inverse,
    contrast_inverse,
    anchor_coordinates,
    contrast_coordinates,
    anchor_groups,
    contrast_groups,
    anchor_boxes,
    contrast_boxes,
    temperature,
    row_states,  # [batch, chunks, fields, row tiles x BLOCK_M]
    column_states,  # [batch, row tiles, fields, columns]
    rows,
    columns,
    first_tile,
    first_column_tile,
    tiles_per_chunk,
    self_offset,
    threshold,
    inverse_temperature,
    gaussian_factor,
    self_weight,
    log_self_weight,
    D: tl.constexpr,
    P: tl.constexpr,
    SYMMETRIC: tl.constexpr,
    LEARNED: tl.constexpr,
    NORMALIZED: tl.constexpr,
    WIDE: tl.constexpr,
    GAUSSIAN: tl.constexpr,
    GROUPS: tl.constexpr,
    HAS_SELF: tl.constexpr,
    KEEP_SELF: tl.constexpr,
    BOXES: tl.constexpr,
    RESIDENT: tl.constexpr,
    PARTS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """States of a panel of row tiles; see the module."""
    SQUARE: tl.constexpr = BLOCK_M if BLOCK_M > BLOCK_N else BLOCK_N  # blocks on the diagonal
    FIELDS: tl.constexpr = 5 if LEARNED else 4
    local_tile = tl.program_id(0)
    row_tile = first_tile + local_tile
    chunk = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    anchors += batch * rows * D
    contrast += batch * columns * D
    anchor_coordinates += batch * rows * P
    contrast_coordinates += batch * columns * P
    if NORMALIZED:
        anchor_inverse += batch * rows
        contrast_inverse += batch * columns
    if GROUPS != NO_GROUPS:
        anchor_groups += batch * rows
        contrast_groups += batch * columns
    if BOXES:
        anchor_boxes += batch * tl.cdiv(rows, BLOCK_M) * (2 * P)
        contrast_boxes += batch * tl.cdiv(columns, BLOCK_N) * (2 * P)
    scale = logit_scale(temperature, inverse_temperature, LEARNED)
    row_index = row_tile * BLOCK_M + tl.arange(0, BLOCK_M)
    row_at = tl.minimum(row_index, rows - 1).to(tl.int64)
    if RESIDENT:
        own_rows = loaded_rows(anchors, row_at, D, BLOCK_D)

    begin = first_column_tile + chunk * tiles_per_chunk
    end = tl.minimum(begin + tiles_per_chunk, tl.cdiv(columns, BLOCK_N))
    if SYMMETRIC:
        begin = tl.maximum(begin, row_tile * BLOCK_M // SQUARE * SQUARE // BLOCK_N)
    m = tl.full([BLOCK_M], float("-inf"), tl.float32)
    e = tl.zeros([BLOCK_M], tl.float32)
    es = tl.zeros([BLOCK_M], tl.float32)
    k = tl.zeros([BLOCK_M], tl.float32)
    ks = tl.zeros([BLOCK_M], tl.float32)
    for tile in range(begin, end):
        column_index = tile * BLOCK_N + tl.arange(0, BLOCK_N)
        column_at = tl.minimum(column_index, columns - 1).to(tl.int64)
        if RESIDENT:
            others = loaded_rows(contrast, column_at, D, BLOCK_D)
            products = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
            products = dot(own_rows, tl.trans(others), products, PRECISION)
        else:
            products = inner_products(
                anchors, contrast, row_at, column_at, D, BLOCK_M, BLOCK_N, BLOCK_D, PRECISION
            )
        logits = products * scale
        near = True
        if BOXES:
            near = boxes_touch(anchor_boxes, contrast_boxes, row_tile, tile, threshold, P, WIDE)
        twice = False  # whether the columns take the tile's pairs too
        place = column_states
        if SYMMETRIC:
            twice = tile * BLOCK_N // SQUARE > row_tile * BLOCK_M // SQUARE
            slot = batch * tl.num_programs(0) + local_tile
            place = column_states + slot * FIELDS * columns
        # A part at a time: a whole tile's temporaries do not fit the registers.
        for part in tl.static_range(PARTS):
            m2, e2, es2, k2, ks2 = part_states(
                part_of(logits, part, PARTS, BLOCK_M, BLOCK_N),
                tile * PARTS + part,
                near,
                twice,
                place,
                anchor_inverse,
                contrast_inverse,
                anchor_coordinates,
                contrast_coordinates,
                anchor_groups,
                contrast_groups,
                row_tile,
                row_index,
                row_at,
                columns,
                self_offset,
                threshold,
                gaussian_factor,
                self_weight,
                log_self_weight,
                P,
                SYMMETRIC,
                LEARNED,
                NORMALIZED,
                WIDE,
                GAUSSIAN,
                GROUPS,
                HAS_SELF,
                KEEP_SELF,
                BOXES,
                BLOCK_M,
                BLOCK_N // PARTS,
            )
            m, e, es, k, ks = merged(m, e, es, k, ks, m2, e2, es2, k2, ks2, LEARNED)
    panel_rows = tl.num_programs(0) * BLOCK_M
    slot = batch * tl.num_programs(1) + chunk
    places = row_states + slot * FIELDS * panel_rows + local_tile * BLOCK_M
    stored(places + tl.arange(0, BLOCK_M), panel_rows, None, m, e, es, k, ks, LEARNED)
