"""What a tile of pairs is made of, shared by every kernel: logits, positives, what counts.

`logits` are s_ij; `counted` is what enters Z, -inf where the pair does not and with log(w) on the
self pair (docs/mathematics.md, 1, and csrc/include/univa/reduction.h). Logits stay in natural
units: times log2(e) beforehand, large ones would be rounded once more than plain PyTorch does.
"""

from __future__ import annotations

import triton
import triton.language as tl

INTERPRETED: bool = bool(triton.knobs.runtime.interpret)
"""Whether kernels run in Triton's interpreter, on CPU tensors (TRITON_INTERPRET=1)."""

NO_GROUPS, SAME_IS_POSITIVE, SAME_IS_NO_PAIR = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)

# A product that no fused multiply-add may swallow: it would move pairs that lie on the radius.
# The interpreter knows no assembly, and fuses nothing.
if INTERPRETED:

    @triton.jit
    def rounded_square(value, WIDE: tl.constexpr):
        return value * value

    @triton.jit
    def dot(a, b, total, PRECISION: tl.constexpr):
        # It would multiply bfloat16's bits, and sum in an order that depends on the tile's shape,
        # which tensor cores and FMAs don't: forward and backward must see the same logits.
        return total + tl.dot(a.to(tl.float64), b.to(tl.float64), out_dtype=tl.float64).to(
            tl.float32
        )

else:

    @triton.jit
    def rounded_square(value, WIDE: tl.constexpr):
        # One return only: Triton wants all of them, reached or not, of one type.
        if WIDE:
            square = tl.inline_asm_elementwise(
                "mul.rn.f64 $0, $1, $1;", "=d,d", [value], tl.float64, is_pure=True, pack=1
            )
        else:
            square = tl.inline_asm_elementwise(
                "mul.rn.f32 $0, $1, $1;", "=f,f", [value], tl.float32, is_pure=True, pack=1
            )
        return square

    @triton.jit
    def dot(a, b, total, PRECISION: tl.constexpr):
        return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def logit_scale(temperature, inverse_temperature, LEARNED: tl.constexpr):
    """1 / temperature; a learned temperature is read here, on the device."""
    if LEARNED:
        inverse_temperature = tl.div_rn(1.0, tl.load(temperature))
    return inverse_temperature


@triton.jit
def loaded_rows(embeddings, at, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Whole rows `at` (int64), [len(at), BLOCK_D], with zeros beyond D."""
    depth = tl.arange(0, BLOCK_D)
    places = embeddings + at[:, None] * D + depth[None, :]
    if BLOCK_D == D:
        return tl.load(places)
    return tl.load(places, mask=depth[None, :] < D, other=0.0)


@triton.jit
def inner_products(
    anchors,
    contrast,
    row_at,
    column_at,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """a_i . c_j of a tile, [BLOCK_M, BLOCK_N] float32, in steps of BLOCK_D along the rows."""
    depth = tl.arange(0, BLOCK_D)
    left = anchors + row_at[:, None] * D + depth[None, :]
    right = contrast + column_at[None, :] * D + depth[:, None]
    products = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for first in range(0, D, BLOCK_D):
        if D % BLOCK_D == 0:
            a = tl.load(left)
            b = tl.load(right)
        else:
            a = tl.load(left, mask=depth[None, :] < D - first, other=0.0)
            b = tl.load(right, mask=depth[:, None] < D - first, other=0.0)
        products = dot(a, b, products, PRECISION)
        left += BLOCK_D
        right += BLOCK_D
    return products


@triton.jit
def pair_scale(row_inverse, column_inverse, scale, row_at, column_at, NORMALIZED: tl.constexpr):
    """What turns inner products into logits: a number, or 1 / (|a_i| |c_j|) of each pair too."""
    if NORMALIZED:
        rows = tl.load(row_inverse + row_at) * scale
        factor = rows[:, None] * tl.load(column_inverse + column_at)[None, :]
    else:
        factor = scale
    return factor


@triton.jit
def self_pairs(row_index, column_index, self_offset):
    """Where a sample meets its own copy."""
    return (row_index + self_offset)[:, None] == column_index[None, :]


@triton.jit
def same_group(row_groups, column_groups, row_at, column_at):
    """Where both samples are of one group."""
    return tl.load(row_groups + row_at)[:, None] == tl.load(column_groups + column_at)[None, :]


@triton.jit
def counted_logits(
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
    GROUPS: tl.constexpr,
    HAS_SELF: tl.constexpr,
    KEEP_SELF: tl.constexpr,
):
    """The logits of what counts in Z; -inf elsewhere."""
    out = (column_index >= columns)[None, :]
    if GROUPS == SAME_IS_NO_PAIR:
        out = out | same_group(row_groups, column_groups, row_at, column_at)
    counted = tl.where(out, float("-inf"), logits)
    if HAS_SELF:
        # Padding may look like a self pair where the offset reaches beyond the columns.
        own = self_pairs(row_index, column_index, self_offset) & (column_index < columns)[None, :]
        weighted = logits + log_self_weight if KEEP_SELF else float("-inf")
        counted = tl.where(own, weighted, counted)
    return counted


@triton.jit
def radius_limit(threshold):
    """The least squared distance that is no positive, from its bits as `threshold_bits` has them.

    Bits of a subnormal number look like a 32-bit integer to Triton.
    """
    return threshold.to(tl.int64).to(tl.float64, bitcast=True)


@triton.jit
def positive_weights(
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
    P: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WIDE: tl.constexpr,
    GAUSSIAN: tl.constexpr,
    GROUPS: tl.constexpr,
    HAS_SELF: tl.constexpr,
    INTERIOR: tl.constexpr,
):
    """k_ij.

    threshold holds the bits of a float64: the least squared distance that is no positive.
    INTERIOR tiles have neither self pairs nor padding.
    """
    squared = tl.zeros([BLOCK_M, BLOCK_N], tl.float64 if WIDE else tl.float32)
    for axis in range(P):
        u = tl.load(row_coordinates + row_at * P + axis)
        v = tl.load(column_coordinates + column_at * P + axis)
        squared += rounded_square(u[:, None] - v[None, :], WIDE)
    if GAUSSIAN:
        weights = tl.exp2(squared.to(tl.float32) * gaussian_factor)
    else:
        limit = radius_limit(threshold).to(squared.dtype)
        weights = tl.where(squared < limit, 1.0, 0.0)
    if GROUPS != NO_GROUPS:
        same = same_group(row_groups, column_groups, row_at, column_at)
        weights = tl.where(same, 1.0 if GROUPS == SAME_IS_POSITIVE else 0.0, weights)
    if not INTERIOR:
        if HAS_SELF:
            own = self_pairs(row_index, column_index, self_offset)
            weights = tl.where(own, self_weight, weights)
        weights = tl.where((column_index < columns)[None, :], weights, 0.0)
    return weights


@triton.jit
def meets_self(row_tile, column_tile, self_offset, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """Whether a tile may hold self pairs."""
    first = row_tile * BLOCK_M + self_offset
    return (first < (column_tile + 1) * BLOCK_N) & (first + BLOCK_M > column_tile * BLOCK_N)


@triton.jit
def boxes_touch(
    row_boxes,
    column_boxes,
    row_tile,
    column_tile,
    threshold,
    P: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Whether a positive may lie in the tile, from the coordinates' boxes ([tiles, P, 2]).

    Differences, squares and sums round monotonically, so no pair is closer than its boxes.
    """
    left = row_boxes + row_tile * (2 * P)
    right = column_boxes + column_tile * (2 * P)
    squared = tl.zeros([], tl.float64 if WIDE else tl.float32)
    for axis in range(P):
        above = tl.load(right + 2 * axis) - tl.load(left + 2 * axis + 1)
        below = tl.load(left + 2 * axis) - tl.load(right + 2 * axis + 1)
        gap = tl.maximum(tl.maximum(above, below), 0.0)
        squared += rounded_square(gap, WIDE)
    limit = radius_limit(threshold).to(squared.dtype)
    return (squared < limit) | (squared != squared)


@triton.jit
def halves(tile, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """The left and the right half of a tile [ROWS, WIDTH]; its numbers stay in their registers."""
    return tl.split(tl.permute(tl.reshape(tile, (ROWS, 2, WIDTH // 2)), (0, 2, 1)))


@triton.jit
def part_of(tile, PART: tl.constexpr, PARTS: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Columns of a tile: part PART of PARTS, which is 1, 2, 4 or 8."""
    piece = tile
    if PARTS > 1:
        left, right = halves(tile, ROWS, WIDTH)
        piece = left if PART < PARTS // 2 else right
        if PARTS > 2:
            HALF: tl.constexpr = PART % (PARTS // 2)
            piece = part_of(piece, HALF, PARTS // 2, ROWS, WIDTH // 2)
    return piece
