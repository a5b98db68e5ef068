"""The losses in plain PyTorch: the definition that every other backend has to agree with.

Works on every device and floating dtype, in blocks of rows, so that memory stays linear in the
number of samples, and can be differentiated twice (the second time with quadratic memory). It
imports nothing of this package.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

__all__ = ["accumulate_dtype", "contrastive", "correlation_prior"]

# Logits held at a time; a handful of temporaries of this size are alive in a block.
_BLOCK_ELEMENTS = 1 << 21


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that sums are kept in: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def contrastive(
    anchors: Tensor,
    contrast: Tensor | None,
    anchor_coordinates: Tensor,
    contrast_coordinates: Tensor | None,
    anchor_groups: Tensor | None,
    contrast_groups: Tensor | None,
    temperature: float,
    radius: float,
    self_weight: float,
    self_offset: int | None,
) -> tuple[Tensor, Tensor]:
    """Supervised contrastive loss of each anchor over a label space (docs/mathematics.md, 1).

    With logits s_ij = <a_i, c_j> / temperature, positives k_ij (1 where the coordinates lie closer
    than `radius` or the groups agree, `self_weight` on the self pair, else 0), n_i = sum_j k_ij and
    Z_i = sum_{j != self} exp(s_ij) + self_weight exp(s_i,self), row i is
    log Z_i - (1 / n_i) sum_j k_ij s_ij. This is the slides' L^CL with P(x_i) from VA distance.

    Args:
        anchors: [N, D] floating.
        contrast: [M, D], or None when the anchors are contrasted with themselves.
        anchor_coordinates: [N, p] float32 or float64.
        contrast_coordinates: [M, p], None exactly when `contrast` is.
        anchor_groups: [N] int64 or None.
        contrast_groups: [M] int64 or None.
        temperature: positive.
        radius: positives are strictly closer than this.
        self_weight: weight of the self pair, in [0, 1].
        self_offset: row i's own copy is contrast row i + self_offset; None when there is none.

    Returns:
        losses [N] and stats [4, N] (log Z, n, mean positive logit, expected logit under softmax),
        both float64 for float64 embeddings, else float32. A row with n = 0 has loss 0. Only
        `losses` is differentiable, with respect to anchors and contrast, also twice.
    """
    losses, stats = _Contrastive.apply(
        anchors,
        contrast,
        anchor_coordinates,
        contrast_coordinates,
        anchor_groups,
        contrast_groups,
        temperature,
        radius,
        self_weight,
        self_offset,
    )
    return losses, stats


class _Pairs:
    """Logits, weights and softmax of one block of rows against the whole contrast set."""

    def __init__(
        self,
        anchors: Tensor,  # [n, D], rows first..first+n of all anchors
        contrast: Tensor,  # [M, D]
        coordinates: tuple[Tensor, Tensor],  # [n, p], [M, p]
        groups: tuple[Tensor, Tensor] | None,  # [n], [M]
        first: int,
        temperature: float,
        radius: float,
        self_weight: float,
        self_offset: int | None,
    ) -> None:
        dtype = accumulate_dtype(anchors.dtype)
        self.logits = anchors.to(dtype) @ contrast.to(dtype).T / temperature  # [n, M]
        squared = torch.zeros(self.logits.shape, dtype=coordinates[0].dtype, device=anchors.device)
        for left, right in zip(coordinates[0].unbind(1), coordinates[1].unbind(1), strict=True):
            squared = squared + (left[:, None] - right[None, :]).square()
        positive = squared.sqrt() < radius
        if groups is not None:
            positive = positive | (groups[0][:, None] == groups[1][None, :])
        self.positives = positive.to(dtype)  # k, [n, M]
        self.counted = self.logits  # log of the terms of Z, [n, M]
        if self_offset is not None:
            rows = torch.arange(first, first + len(anchors), device=anchors.device)
            columns = torch.arange(len(contrast), device=anchors.device)
            own = rows[:, None] + self_offset == columns[None, :]
            self.positives = self.positives.masked_fill(own, self_weight)
            log_weight = math.log(self_weight) if self_weight > 0 else -math.inf
            # masked_fill, not +: an infinite own logit must not meet -inf.
            self.counted = (
                self.logits.masked_fill(own, -math.inf)
                if self_weight == 0
                else torch.where(own, self.logits + log_weight, self.logits)
            )
        self.count = self.positives.sum(1)  # n_i, [n]
        empty = torch.full_like(self.count, -math.inf)
        self.log_z = self.counted.logsumexp(1) if len(contrast) else empty

    def softmax(self) -> Tensor:
        """p_ij, [n, M]; 0 on a row without any pair."""
        finite = self.log_z.masked_fill(self.log_z == -math.inf, 0)
        return (self.counted - finite[:, None]).exp()


class _Contrastive(torch.autograd.Function):
    """Row blocks forward; the backward recomputes them, out of differentiable operations."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        blocks = []
        for _, _, pairs in _blocks(*inputs):
            # With no positive the mean is over nothing: 0, and so is the row's loss.
            some = pairs.count > 0
            mean = (pairs.positives * pairs.logits).sum(1) / pairs.count.where(some, 1)
            # An own pair that does not count has p = 0, whatever its logit.
            softmax = pairs.softmax()
            energy = (softmax * pairs.logits.where(softmax != 0, 0)).sum(1)
            loss = torch.where(some, pairs.log_z - mean, 0)
            blocks.append(torch.stack((loss, pairs.log_z, pairs.count, mean, energy)))
        dtype = accumulate_dtype(inputs[0].dtype)
        table = (
            torch.cat(blocks, 1)
            if blocks
            else torch.zeros(5, 0, dtype=dtype, device=inputs[0].device)
        )
        losses, stats = table[0].clone(), table[1:].clone()
        ctx.save_for_backward(*inputs[:6])
        ctx.options = inputs[6:]
        ctx.mark_non_differentiable(stats)
        ctx.set_materialize_grads(False)
        return losses, stats

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        grad = grads[0]
        anchors, contrast, *rest = ctx.saved_tensors
        if grad is None:
            return (None,) * 10
        temperature = ctx.options[0]
        dtype = accumulate_dtype(anchors.dtype)
        others = (anchors if contrast is None else contrast).to(dtype)
        grad_anchors: list[Tensor] = []
        grad_others = torch.zeros_like(others)
        for first, last, pairs in _blocks(anchors, contrast, *rest, *ctx.options):
            some = pairs.count > 0
            share = pairs.positives / pairs.count.where(some, 1)[:, None]
            scale = torch.where(some, grad[first:last] / temperature, 0)
            coefficient = scale[:, None] * (pairs.softmax() - share)  # [n, M]
            grad_anchors.append(coefficient @ others)
            grad_others = grad_others + coefficient.T @ anchors[first:last].to(dtype)
        total = torch.cat(grad_anchors) if grad_anchors else torch.zeros_like(anchors, dtype=dtype)
        if contrast is None:
            return ((total + grad_others).to(anchors.dtype), *(None,) * 9)
        return (total.to(anchors.dtype), grad_others.to(contrast.dtype), *(None,) * 8)


def _blocks(
    anchors: Tensor,
    contrast: Tensor | None,
    anchor_coordinates: Tensor,
    contrast_coordinates: Tensor | None,
    anchor_groups: Tensor | None,
    contrast_groups: Tensor | None,
    temperature: float,
    radius: float,
    self_weight: float,
    self_offset: int | None,
) -> Any:
    """Yield (first, last, _Pairs) over blocks of anchors."""
    if contrast is None or contrast_coordinates is None:
        contrast, contrast_coordinates, contrast_groups = anchors, anchor_coordinates, anchor_groups
        self_offset = 0
    step = max(1, _BLOCK_ELEMENTS // max(1, len(contrast)))
    for first in range(0, len(anchors), step):
        last = min(first + step, len(anchors))
        groups = None
        if anchor_groups is not None and contrast_groups is not None:
            groups = (anchor_groups[first:last], contrast_groups)
        pairs = _Pairs(
            anchors[first:last],
            contrast,
            (anchor_coordinates[first:last], contrast_coordinates),
            groups,
            first,
            temperature,
            radius,
            self_weight,
            self_offset,
        )
        yield first, last, pairs


def correlation_prior(
    predictions: Tensor, similarity: Tensor, form: Literal["quadratic", "norm"]
) -> Tensor:
    """Emotion-correlation prior eta (docs/mathematics.md, section 2).

    "quadratic": (1/N) sum_i sum_jl M_jl (y_ij - y_il)^2. "norm": (1/N) sum_jl M_jl |y_.j - y_.l|_2
    over the batch, with gradient 0 where the norm is 0.

    Args:
        predictions: y, [N, L] floating.
        similarity: M, [L, L] of the same dtype; need not be symmetric.
        form: "quadratic" or "norm".

    Returns:
        0-dim tensor of the same dtype, differentiable any number of times; 0 when N = 0.
    """
    dtype = accumulate_dtype(predictions.dtype)
    columns = predictions.to(dtype)
    difference = columns[:, :, None] - columns[:, None, :]  # [N, L, L]
    distance = difference.square().sum(0)  # [L, L]
    if form == "norm":
        zero = distance == 0  # not `distance > 0`, which would swallow NaN
        distance = distance.masked_fill(zero, 1).sqrt().masked_fill(zero, 0)
    total = (similarity.to(dtype) * distance).sum() / max(1, len(predictions))
    return total.to(predictions.dtype)
