"""Bounding boxes of the coordinates of each tile, which tell tiles without positives."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["rows"])
def coordinate_boxes(coordinates, boxes, rows, P: tl.constexpr, BLOCK: tl.constexpr):
    """coordinates [batch, rows, P] to boxes [batch, tiles, P, 2], lowest and highest."""
    tile = tl.program_id(0)
    batch = tl.program_id(1).to(tl.int64)
    at = tl.minimum(tile * BLOCK + tl.arange(0, BLOCK), rows - 1).to(tl.int64)
    out = boxes + (batch * tl.num_programs(0) + tile) * (2 * P)
    for axis in range(P):
        values = tl.load(coordinates + (batch * rows + at) * P + axis)
        tl.store(out + 2 * axis, tl.min(values, 0))
        tl.store(out + 2 * axis + 1, tl.max(values, 0))
