"""The matrix products of the CPU engine alone: what is left for everything else to add to.

The same tiles in the same order as csrc/cpu, without coordinates, exponentials and sums.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["backward_products", "forward_products", "tile_side"]


def tile_side(size: int) -> int:
    """As `tile_side` in csrc/cpu/matrix.h, for a set against itself."""
    return 512 if size >= 4096 else 256 if size >= 512 else 128


def forward_products(rows: Tensor) -> None:
    """Logits of the tiles on and above the diagonal."""
    size, side = len(rows), tile_side(len(rows))
    tile = rows.new_empty(min(side, size) ** 2)
    for i in range(0, size, side):
        for j in range(i, size, side):
            left, right = rows[i : i + side], rows[j : j + side]
            out = tile[: len(left) * len(right)].view(len(left), len(right))
            torch.mm(left, right.T, out=out)


def backward_products(rows: Tensor) -> None:
    """The logits again, and each tile multiplied into the gradients of its rows and columns."""
    size, side = len(rows), tile_side(len(rows))
    tile = rows.new_empty(min(side, size) ** 2)
    grad = torch.zeros_like(rows)
    for i in range(0, size, side):
        for j in range(i, size, side):
            left, right = rows[i : i + side], rows[j : j + side]
            out = tile[: len(left) * len(right)].view(len(left), len(right))
            torch.mm(left, right.T, out=out)
            grad[i : i + side].addmm_(out, right)
            if j > i:
                grad[j : j + side].addmm_(out.T, left)
