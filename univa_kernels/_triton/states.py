"""The reduction state of one row of pairs, as csrc/include/univa/reduction.h.

(maximum, sum_e, sum_es, sum_k, sum_ks): the sums are relative to `maximum`, or to 0 while it is
-inf. sum_es is kept for a learned temperature only. Any number at or above the greatest logit, and
not far above it, may stand for the maximum.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def finite(maximum):
    """What sums are relative to."""
    return tl.where(maximum == float("-inf"), 0.0, maximum)


@triton.jit
def moved(total, weights, distance):
    """A sum of weighted logits relative to a shift `distance` lower; without weights, as it was."""
    return tl.where(weights == 0, total, total + weights * distance)


@triton.jit
def merged(m, e, es, k, ks, m2, e2, es2, k2, ks2, LEARNED: tl.constexpr):
    """Two states as one."""
    top = tl.maximum(m, m2)
    shift = finite(top)
    mine = tl.exp(m - shift)
    theirs = tl.exp(m2 - shift)
    down = finite(m) - shift
    down2 = finite(m2) - shift
    if LEARNED:
        es = moved(es, e, down) * mine + moved(es2, e2, down2) * theirs
    ks = moved(ks, k, down) + moved(ks2, k2, down2)
    e = e * mine + e2 * theirs
    return top, e, es, k + k2, ks


@triton.jit
def reduced(logits, counted, weights, AXIS: tl.constexpr, LEARNED: tl.constexpr):
    """The state of every row (AXIS 1) or column (AXIS 0) of a tile, for logits of any size."""
    m = tl.max(counted, AXIS)
    shift = tl.expand_dims(finite(m), AXIS)
    above = logits - shift
    e = tl.exp(counted - shift)
    sum_e = tl.sum(e, AXIS)
    sum_es = sum_e
    if LEARNED:
        sum_es = tl.sum(tl.where(e == 0, 0.0, e * above), AXIS)
    sum_k = tl.sum(weights, AXIS)
    sum_ks = tl.sum(tl.where(weights == 0, 0.0, weights * above), AXIS)
    return m, sum_e, sum_es, sum_k, sum_ks


@triton.jit
def stored(states, stride, mask, m, e, es, k, ks, LEARNED: tl.constexpr):
    """Write states to pointers `states`, field after field `stride` apart."""
    tl.store(states, m, mask=mask)
    tl.store(states + stride, e, mask=mask)
    tl.store(states + 2 * stride, k, mask=mask)
    tl.store(states + 3 * stride, ks, mask=mask)
    if LEARNED:
        tl.store(states + 4 * stride, es, mask=mask)


@triton.jit
def read(states, stride, mask, LEARNED: tl.constexpr):
    """The states at pointers `states`; those of no pair where not `mask`."""
    m = tl.load(states, mask=mask, other=float("-inf"))
    e = tl.load(states + stride, mask=mask, other=0.0)
    k = tl.load(states + 2 * stride, mask=mask, other=0.0)
    ks = tl.load(states + 3 * stride, mask=mask, other=0.0)
    es = e
    if LEARNED:
        es = tl.load(states + 4 * stride, mask=mask, other=0.0)
    return m, e, es, k, ks


@triton.jit
def folded(m, e, es, k, ks, LEARNED: tl.constexpr):
    """States [slots, n] merged along the slots, all at once."""
    top = tl.max(m, 0)
    shift = finite(top)[None, :]
    scale = tl.exp(m - shift)
    down = finite(m) - shift
    sum_es = top
    if LEARNED:
        sum_es = tl.sum(moved(es, e, down) * scale, 0)
    ks = tl.sum(moved(ks, k, down), 0)
    return top, tl.sum(e * scale, 0), sum_es, tl.sum(k, 0), ks
