"""The gradient of the losses with respect to one tile of inner products.

h_ij = (sum over the roles of the pair of g (p - k / n)) x what turns products into logits. A role
is "i contrasts j" or, contrasting a set with itself, also "j contrasts i". The kernels that use it
differ in what they do with the tile.
"""

from __future__ import annotations

import triton
import triton.language as tl

from univa_kernels._triton.pairs import (
    SAME_IS_NO_PAIR,
    counted_logits,
    meets_self,
    pair_scale,
    positive_weights,
)


@triton.jit
def shares(logits, log_z, upstream, at, AXIS: tl.constexpr):
    """g_i p_ij of the tile, with the rows' or the columns' losses."""
    whole = tl.expand_dims(tl.load(log_z + at), AXIS)
    return tl.expand_dims(tl.load(upstream + at), AXIS) * tl.exp(logits - whole)


@triton.jit
def coefficients(
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
    column_tile,
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
    P: tl.constexpr,
    ROWS_CONTRAST: tl.constexpr,
    COLUMNS_CONTRAST: tl.constexpr,
    NORMALIZED: tl.constexpr,
    WIDE: tl.constexpr,
    GAUSSIAN: tl.constexpr,
    GROUPS: tl.constexpr,
    HAS_SELF: tl.constexpr,
    KEEP_SELF: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """h of a tile, [BLOCK_M, BLOCK_N] float32.

    log_z, upstream and share are per sample that contrasts: log Z (inf without positives), g and
    g / n (0 without positives), n as positive_weights scales it.
    """
    of_products = pair_scale(row_inverse, column_inverse, scale, row_at, column_at, NORMALIZED)
    logits = products * of_products
    edge = (column_tile + 1) * BLOCK_N > columns
    if HAS_SELF:
        meets = meets_self(row_tile, column_tile, self_offset, BLOCK_M, BLOCK_N)
        edge = edge | meets
        near = near | meets
    if GROUPS == SAME_IS_NO_PAIR:
        edge = True
    if edge:
        logits = counted_logits(
            logits,
            row_groups,
            column_groups,
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
    gradient = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    if ROWS_CONTRAST:
        gradient += shares(logits, row_log_z, row_upstream, row_at, 1)
    if COLUMNS_CONTRAST:
        gradient += shares(logits, column_log_z, column_upstream, column_at, 0)
    if near:
        weights = positive_weights(
            row_coordinates,
            column_coordinates,
            row_groups,
            column_groups,
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
            BLOCK_N,
            WIDE,
            GAUSSIAN,
            GROUPS,
            HAS_SELF,
            False,
        )
        if ROWS_CONTRAST:
            gradient -= weights * tl.load(row_share + row_at)[:, None]
        if COLUMNS_CONTRAST:
            gradient -= weights * tl.load(column_share + column_at)[None, :]
    return gradient * of_products
