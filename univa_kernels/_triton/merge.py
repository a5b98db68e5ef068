"""Forward, second half: partial states folded into losses and statistics, in a fixed order."""

from __future__ import annotations

import triton
import triton.language as tl

from univa_kernels._triton.states import finite, folded, merged, read, stored


@triton.jit(
    do_not_specialize=["rows", "first_tile", "row_tiles", "chunks", "panel_rows", "first_row"]
)
def merge_states(
    row_states,  # [batch, chunks, fields, panel_rows]
    column_states,  # [batch, row_tiles, fields, rows]
    running,  # [batch, fields, rows]: states of the rows after this panel
    losses,  # [batch, rows]
    stats,  # [batch, 4, rows]: log Z, n, mean positive logit, gap
    rows,
    first_row,
    first_tile,
    row_tiles,
    chunks,
    panel_rows,
    SYMMETRIC: tl.constexpr,
    LEARNED: tl.constexpr,
    FIRST: tl.constexpr,
    TILE: tl.constexpr,
    SQUARE: tl.constexpr,
    SLOTS: tl.constexpr,
    CHUNKS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Take in one panel of row tiles, which starts at row `first_row`.

    Rows of the panel are complete after it: their chunks, their columns of this panel and what
    earlier panels left in `running`. Later rows go on in `running`.
    """
    FIELDS: tl.constexpr = 5 if LEARNED else 4
    batch = tl.program_id(1).to(tl.int64)
    start = first_row + tl.program_id(0) * BLOCK
    index = start + tl.arange(0, BLOCK)
    real = index < rows
    m = tl.full([BLOCK], float("-inf"), tl.float32)
    e = tl.zeros([BLOCK], tl.float32)
    es = tl.zeros([BLOCK], tl.float32)
    k = tl.zeros([BLOCK], tl.float32)
    ks = tl.zeros([BLOCK], tl.float32)
    kept = running + batch * FIELDS * rows + index
    if SYMMETRIC:
        if not FIRST:
            m, e, es, k, ks = read(kept, rows, real, LEARNED)
        slot = tl.arange(0, SLOTS)
        above = (first_tile + slot)[:, None] * TILE // SQUARE < (index // SQUARE)[None, :]
        mask = (slot < row_tiles)[:, None] & above & real[None, :]
        places = (batch * row_tiles + slot) * FIELDS * rows
        m2, e2, es2, k2, ks2 = read(
            column_states + places[:, None] + index[None, :], rows, mask, LEARNED
        )
        m2, e2, es2, k2, ks2 = folded(m2, e2, es2, k2, ks2, LEARNED)
        m, e, es, k, ks = merged(m, e, es, k, ks, m2, e2, es2, k2, ks2, LEARNED)
    local = index - first_row
    if start - first_row < panel_rows:
        chunk = tl.arange(0, CHUNKS)
        left = (chunk < chunks)[:, None] & real[None, :]
        parts = (batch * chunks + chunk) * FIELDS * panel_rows
        m3, e3, es3, k3, ks3 = read(
            row_states + parts[:, None] + local[None, :], panel_rows, left, LEARNED
        )
        m3, e3, es3, k3, ks3 = folded(m3, e3, es3, k3, ks3, LEARNED)
        m, e, es, k, ks = merged(m, e, es, k, ks, m3, e3, es3, k3, ks3, LEARNED)
        # Far out in the tail of gaussian positives what is left of them is rounding.
        vanishing = k < 7.888609052210118e-31  # 2^-100
        k = tl.where(vanishing, 0.0, k)
        ks = tl.where(vanishing, 0.0, ks)
        some = k != 0  # NaN is not nothing
        weight = tl.where(some, k, 1.0)
        log_e = tl.log(e)
        mean = tl.where(some, tl.div_rn(ks, weight), 0.0)
        # A NaN logit is told of in a row without positives too.
        loss = tl.where(some, log_e - mean, tl.where(e == e, 0.0, e))
        log_z = tl.where(e == 0, float("-inf"), finite(m) + log_e)
        gap = tl.where(some, float("nan"), 0.0)
        if LEARNED:
            gap = tl.where(some, tl.div_rn(es, e) - mean, 0.0)
        place = batch * rows + index
        tl.store(losses + place, loss, mask=real)
        out = stats + batch * 4 * rows + index
        tl.store(out, log_z, mask=real)
        tl.store(out + rows, k, mask=real)
        tl.store(out + 2 * rows, tl.where(some, (finite(m) + mean), 0.0), mask=real)
        tl.store(out + 3 * rows, gap, mask=real)
    else:
        if SYMMETRIC:
            stored(kept, rows, real, m, e, es, k, ks, LEARNED)
