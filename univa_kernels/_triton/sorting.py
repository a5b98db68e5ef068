"""Forward and backward with samples in the order of their coordinates, undone at the end.

Neighbours in the label space become neighbours in memory, so that most tiles lie apart from each
other and skip the positives (`python -m benchmarks.sorted_tiles` counts them). The loss of a row
depends on no order, its rounding aside.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from univa_kernels._triton import run_backward, run_forward
from univa_kernels._triton.pairs import INTERPRETED
from univa_kernels._triton.problem import Problem

ROWS = 30 if INTERPRETED else 32768
"""From so many rows on sorting pays, by an estimate (docs/triton.md); small ones for the tests."""

_BITS = 16


def forward(problem: Problem) -> tuple[Tensor, Tensor]:
    """`run_forward.forward`."""
    order = order_of(problem)
    if order is None:
        return run_forward.forward(problem)
    losses, stats = run_forward.forward(_sorted(problem, order))
    back = _inverse(order)
    return _taken(losses, back), _taken(stats.mT, back).mT.contiguous()


def backward(
    problem: Problem, grad: Tensor, stats: Tensor, of_anchors: bool, of_contrast: bool
) -> tuple[Tensor | None, Tensor | None]:
    """`run_backward.backward`."""
    order = order_of(problem)
    if order is None:
        return run_backward.backward(problem, grad, stats, of_anchors, of_contrast)
    mine, theirs = run_backward.backward(
        _sorted(problem, order),
        _taken(grad, order),
        _taken(stats.mT, order).mT,
        of_anchors,
        of_contrast,
    )
    return None if mine is None else _taken(mine, _inverse(order)), theirs


def order_of(problem: Problem) -> Tensor | None:
    """Rows of all sets [S x N] in their new order, along a Morton curve; None where of no use."""
    sets, rows, _, _ = problem.shape
    dims = problem.anchor_coordinates.shape[2]
    if not problem.symmetric or not problem.with_boxes() or rows < ROWS or not 1 <= dims <= 3:
        return None
    order = morton_order(problem.anchor_coordinates)
    return (order + rows * torch.arange(sets, device=order.device)[:, None]).flatten()


def morton_order(coordinates: Tensor) -> Tensor:
    """Order of samples [S, N, p] along a Morton curve through their bounding box, [S, N]."""
    # Two axes suffice: the boxes take the third into account.
    points = coordinates[..., :2]
    low, high = points.amin(1, keepdim=True), points.amax(1, keepdim=True)
    cells = ((points - low) / (high - low).clamp(min=1e-30) * ((1 << _BITS) - 1)).long()
    key = torch.zeros_like(cells[..., 0])
    for bit in range(_BITS):
        for axis in range(points.shape[2]):
            key += ((cells[..., axis] >> bit) & 1) << (2 * bit + axis)
    return key.argsort(dim=1, stable=True)


def _inverse(order: Tensor) -> Tensor:
    places = torch.arange(len(order), device=order.device)
    return torch.empty_like(order).scatter_(0, order, places)


def _taken(values: Tensor, order: Tensor) -> Tensor:
    """values [S, N, ...] with its rows in another order."""
    return values.flatten(0, 1).index_select(0, order).view(values.shape)


def _sorted(problem: Problem, order: Tensor) -> Problem:
    fields: dict[str, Any] = {}
    for ours, theirs in (
        ("anchors", "contrast"),
        ("anchor_inverse", "contrast_inverse"),
        ("anchor_coordinates", "contrast_coordinates"),
        ("anchor_groups", "contrast_groups"),
    ):
        value = getattr(problem, ours)
        fields[ours] = fields[theirs] = None if value is None else _taken(value, order)
    return problem._replace(**fields)
