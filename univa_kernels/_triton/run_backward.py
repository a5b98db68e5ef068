"""Backward: one pass for short rows, blocks and vendor matrix products for long ones."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from univa_kernels._triton import configs
from univa_kernels._triton.gradient_block import gradient_of_products
from univa_kernels._triton.gradient_rows import gradient_of_rows
from univa_kernels._triton.pairs import INTERPRETED
from univa_kernels._triton.problem import Problem, config_for

WORKSPACE_BYTES = 64 << 20
"""A block of the gradient with respect to the logits never takes more, whatever N."""

_ALIGNMENT = 32 if INTERPRETED else 256  # a block's sides are multiples of any tile's
_GROUP = 8
# Programs of the single pass that fill the 132 multiprocessors of an H200 twice; partial gradients
# are float32, which bounds their number.
_PROGRAMS = 8 if INTERPRETED else 264
_SPLITS = 3 if INTERPRETED else 16


def backward(
    problem: Problem, grad: Tensor, stats: Tensor, of_anchors: bool, of_contrast: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of `problem.anchors` and `problem.contrast`, float32 or in their dtype.

    Those of inner products' factors as the kernels see them: docs/triton.md says how scaling to
    unit length goes on from there. A set contrasted with itself has one gradient, the first.
    """
    terms = _terms(problem, grad, stats)
    sets, rows, columns, depth = problem.shape
    if problem.symmetric:
        of_contrast = False
    if rows == 0 or columns == 0 or sets == 0:
        return (
            torch.zeros_like(problem.anchors) if of_anchors else None,
            torch.zeros_like(problem.contrast) if of_contrast else None,
        )
    if depth <= configs.RESIDENT_DEPTH:
        mine = _single_pass(problem, terms, True, problem.symmetric) if of_anchors else None
        theirs = _single_pass(problem.swapped(), terms, False, True) if of_contrast else None
        return mine, theirs
    return _by_blocks(problem, terms, of_anchors, of_contrast)


def _terms(problem: Problem, grad: Tensor, stats: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log Z, g and g / n of the anchors, [S, N]; inf, 0 and 0 in rows without positives."""
    count = stats[:, 1]
    some = count != 0  # NaN is not nothing
    upstream = torch.where(some, grad, 0.0)
    share = upstream / count.where(some, 1.0)
    log_z = stats[:, 0].where(some, torch.inf)
    return log_z.contiguous(), upstream.contiguous(), share.contiguous()


def _single_pass(
    problem: Problem, terms: tuple[Tensor, ...], rows_contrast: bool, columns_contrast: bool
) -> Tensor:
    """The gradient of the rows of `problem`; see gradient_rows.py."""
    config = config_for("gradient_rows", problem)
    sets, rows, columns, _ = problem.shape
    dtype = problem.anchors.dtype
    parts, tiles = column_splits(rows, columns, sets, config)
    # Whatever is still to be scaled or added is rounded afterwards.
    exact = dtype == torch.float16 or problem.anchor_inverse is not None or parts > 1
    gradient = problem.anchors.new_empty(
        (parts, *problem.anchors.shape), dtype=torch.float32 if exact else dtype
    )
    problem.launcher(gradient_of_rows)[(triton.cdiv(rows, config.block_m), sets, parts)](
        *problem.pairs(),
        *problem.boxes(config),
        *terms,
        *terms,
        gradient if problem.temperature is None else problem.temperature,
        gradient,
        rows,
        columns,
        tiles,
        *problem.numbers(),
        ROWS_CONTRAST=rows_contrast,
        COLUMNS_CONTRAST=columns_contrast,
        **problem.flags(config),
    )
    return gradient[0] if parts == 1 else gradient.sum(0)


def column_splits(rows: int, columns: int, sets: int, config: configs.Config) -> tuple[int, int]:
    """Into how many parts the single pass splits the columns, and the tiles of a part.

    So many that the programs fill a large GPU; by sizes alone, so that equal calls give equal bits.
    """
    programs = triton.cdiv(rows, config.block_m) * sets
    tiles = triton.cdiv(columns, config.block_n)
    parts = max(1, min(_PROGRAMS // programs, _SPLITS, tiles))
    each = triton.cdiv(tiles, parts)
    return triton.cdiv(tiles, each), each


def block_side(extent: int, element_size: int) -> int:
    """Side of the blocks that cover `extent`: even ones, within the workspace."""
    largest = int((WORKSPACE_BYTES // element_size) ** 0.5) // _ALIGNMENT * _ALIGNMENT
    if INTERPRETED:
        largest = _ALIGNMENT
    parts = -(-extent // largest)
    return -(-extent // (parts * _ALIGNMENT)) * _ALIGNMENT


def _by_blocks(
    problem: Problem, terms: tuple[Tensor, ...], of_anchors: bool, of_contrast: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Blocks of the gradient with respect to the inner products, times the embeddings."""
    config = config_for("gradient_block", problem)
    sets, rows, columns, _ = problem.shape
    size = problem.anchors.element_size()
    height, width = block_side(rows, size), block_side(columns, size)
    workspace = problem.anchors.new_empty(min(height, rows) * min(width, columns))
    mine = theirs = None
    if of_anchors:
        mine = torch.zeros_like(problem.anchors, dtype=torch.float32)
    if of_contrast:
        theirs = torch.zeros_like(problem.contrast, dtype=torch.float32)
    for index in range(sets):
        one = problem.of_set(index)
        arguments = (*one.pairs(), *one.boxes(config), *(t[index] for t in (*terms, *terms)))
        anchors, contrast = one.anchors[0], one.contrast[0]
        for row in range(0, rows, height):
            down = min(height, rows - row)
            for column in range(row if problem.symmetric else 0, columns, width):
                across = min(width, columns - column)
                mirrored = problem.symmetric and row == column
                block = workspace[: down * across].view(down, across)
                grid = (triton.cdiv(down, config.block_m) * triton.cdiv(across, config.block_n),)
                problem.launcher(gradient_of_products)[grid](
                    *arguments,
                    block if problem.temperature is None else problem.temperature,
                    block,
                    rows,
                    columns,
                    row,
                    column,
                    down,
                    across,
                    *problem.numbers(),
                    SYMMETRIC=problem.symmetric,
                    MIRRORED=mirrored,
                    PARTS=config.parts,
                    GROUP=_GROUP,
                    **problem.flags(config),
                )
                if mine is not None:
                    _add_product(mine[index, row : row + down], block, contrast[column:][:across])
                    if problem.symmetric and not mirrored:
                        _add_product(
                            mine[index, column : column + across], block.T, anchors[row:][:down]
                        )
                if theirs is not None:
                    _add_product(
                        theirs[index, column : column + across], block.T, anchors[row:][:down]
                    )
    return mine, theirs


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, accumulated in float32."""
    if total.device.type == "cuda" and left.dtype != torch.float32:
        torch.ops.aten.addmm.dtype_out(total, left, right, torch.float32, out=total)
    else:
        total.addmm_(left.float(), right.float())
