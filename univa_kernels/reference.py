"""The losses in plain PyTorch: the definition that every other backend has to agree with.

Works on every device and floating dtype, in blocks of rows, so that memory stays linear in the
number of samples, and can be differentiated twice (the second time with quadratic memory). It
imports nothing of this package.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "accumulate_dtype",
    "contrastive",
    "correlation_prior",
    "objective",
    "tied_contrastive",
    "with_own_rows",
]

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
    learned_temperature: Tensor | None,
    temperature: float,
    radius: float,
    sigma: float,
    self_weight: float,
    self_offset: int | None,
    exclude_groups: bool,
    normalize: bool,
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
        learned_temperature: one element in the accumulate dtype, instead of `temperature`, or None.
        temperature: positive.
        radius: positives are strictly closer than this.
        sigma: above 0, k_ij = exp(-|u_i - v_j|^2 / (2 sigma^2)) instead of the radius rule.
        self_weight: weight of the self pair, in [0, 1].
        self_offset: row i's own copy is contrast row i + self_offset; None when there is none.
        exclude_groups: pairs of one group are no pairs at all, instead of positives.
        normalize: scale every row to unit L2 norm first.

    Returns:
        losses [N] and stats [4, N] (log Z, n, mean positive logit, expected logit under softmax
        minus that mean; other backends may leave the last one out unless the temperature learns),
        both float64 for float64 embeddings, else float32. A row with n = 0 has loss 0; n below
        2^-100 (2^-960 in float64) is 0. Only `losses` is differentiable, with respect to anchors,
        contrast and the learned temperature, also twice.
    """
    with torch.autocast(anchors.device.type, enabled=False):
        if normalize:  # unit rows in half precision would not be of unit length
            dtype = accumulate_dtype(anchors.dtype)
            anchors = F.normalize(anchors.to(dtype), dim=1)
            contrast = None if contrast is None else F.normalize(contrast.to(dtype), dim=1)
        options = _Options(temperature, radius, sigma, self_weight, self_offset, exclude_groups)
        losses, stats = _contrastive(
            anchors,
            contrast,
            anchor_coordinates,
            contrast_coordinates,
            anchor_groups,
            contrast_groups,
            learned_temperature,
            options,
        )
    return losses, stats


def with_own_rows(anchors: Tensor, contrast: Tensor, self_offset: int) -> Tensor:
    """The contrast set [M, D] with the anchors [N, D] themselves in place of their copies."""
    end = self_offset + len(anchors)
    return torch.cat((contrast[:self_offset], anchors, contrast[end:]))


def tied_contrastive(anchors: Tensor, contrast: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """`contrastive` against a constant set, whose row i + self_offset is anchor i itself.

    The gradient of these rows goes to the anchors. Arguments and results are as there.
    """
    self_offset = rest[9]
    return contrastive(anchors, with_own_rows(anchors, contrast, self_offset), *rest)


class _Options(NamedTuple):
    temperature: float
    radius: float
    sigma: float
    self_weight: float
    self_offset: int | None
    exclude_groups: bool


class _Pairs:
    """Logits, weights and softmax of one block of rows against the whole contrast set."""

    def __init__(
        self,
        first: int,
        anchors: Tensor,  # [n, D], rows first..first+n of all anchors
        contrast: Tensor,  # [M, D]
        coordinates: tuple[Tensor, Tensor],  # [n, p], [M, p]
        groups: tuple[Tensor, Tensor] | None,  # [n], [M]
        temperature: Tensor | float,
        options: _Options,
    ) -> None:
        dtype = accumulate_dtype(anchors.dtype)
        self.logits = anchors.to(dtype) @ contrast.to(dtype).T / temperature  # [n, M]
        self.counted = self.logits  # log of the terms of Z, [n, M]
        own = None
        if options.self_offset is not None:
            rows = torch.arange(first, first + len(anchors), device=anchors.device)
            columns = torch.arange(len(contrast), device=anchors.device)
            own = rows[:, None] + options.self_offset == columns[None, :]

        squared = torch.zeros(self.logits.shape, dtype=coordinates[0].dtype, device=anchors.device)
        for left, right in zip(coordinates[0].unbind(1), coordinates[1].unbind(1), strict=True):
            squared = squared + (left[:, None] - right[None, :]).square()
        if options.sigma > 0:
            # Twice by sigma: its square may overflow or vanish.
            positives = (squared.to(dtype) / options.sigma / options.sigma / -2).exp()
        else:
            positives = (squared.sqrt() < options.radius).to(dtype)
        if groups is not None:
            same = groups[0][:, None] == groups[1][None, :]
            if options.exclude_groups:
                positives = positives.masked_fill(same, 0)
                left_out = same if own is None else same & ~own
                self.counted = self.counted.masked_fill(left_out, -math.inf)
            else:
                positives = positives.masked_fill(same, 1)
        if own is not None:
            positives = positives.masked_fill(own, options.self_weight)
            # masked_fill, not +: an infinite own logit must not meet -inf.
            self.counted = (
                torch.where(own, self.logits + math.log(options.self_weight), self.counted)
                if options.self_weight > 0
                else self.counted.masked_fill(own, -math.inf)
            )
        self.positives = positives  # k, [n, M]
        count = positives.sum(1)
        # Far out in the tail of gaussian positives what is left of them is rounding.
        least = 2.0 ** (-960 if count.dtype == torch.float64 else -100)
        self.count = torch.where(count < least, 0, count)  # n_i, [n]
        empty = torch.full_like(self.count, -math.inf)
        self.log_z = self.counted.logsumexp(1) if len(contrast) else empty

    def softmax(self) -> Tensor:
        """p_ij, [n, M]; 0 on a row without any pair."""
        finite = self.log_z.masked_fill(self.log_z == -math.inf, 0)
        return (self.counted - finite[:, None]).exp()

    def weighted_logits(self, weights: Tensor) -> Tensor:
        """Sum of weights x logits in each row; a pair of weight 0 counts 0, whatever its logit."""
        return (weights * self.logits.where(weights != 0, 0)).sum(1)


class _Contrastive(torch.autograd.Function):
    """Row blocks forward; the backward recomputes them, out of differentiable operations."""

    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, Tensor]:
        blocks = []
        for _, _, pairs in _blocks(*inputs):
            # With no positive the mean is over nothing: 0, and so is the row's loss.
            some = pairs.count != 0  # NaN is not nothing
            mean = pairs.weighted_logits(pairs.positives) / pairs.count.where(some, 1)
            share = pairs.positives / pairs.count.where(some, 1)[:, None]
            gap = torch.where(some, pairs.weighted_logits(pairs.softmax() - share), 0)
            # A NaN logit is told of there too.
            loss = torch.where(some | pairs.log_z.isnan(), pairs.log_z - mean, 0)
            blocks.append(torch.stack((loss, pairs.log_z, pairs.count, mean, gap)))
        dtype = accumulate_dtype(inputs[0].dtype)
        table = (
            torch.cat(blocks, 1)
            if blocks
            else torch.zeros(5, 0, dtype=dtype, device=inputs[0].device)
        )
        return table[0].clone(), table[1:].clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs[:7])
        ctx.options = inputs[7]
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        grad = grads[0]
        if grad is None:
            return (None,) * 8
        anchors, contrast, *rest = ctx.saved_tensors
        learned = rest[-1]
        with torch.autocast(anchors.device.type, enabled=False):
            dtype = accumulate_dtype(anchors.dtype)
            temperature = ctx.options.temperature if learned is None else learned
            others = (anchors if contrast is None else contrast).to(dtype)
            grad_anchors: list[Tensor] = []
            grad_others = torch.zeros_like(others)
            grad_temperature = None if learned is None else torch.zeros_like(learned)
            inputs = (anchors, contrast, *rest, ctx.options)
            for first, last, pairs in _blocks(*inputs):
                some = pairs.count != 0  # NaN is not nothing
                share = pairs.positives / pairs.count.where(some, 1)[:, None]
                scale = torch.where(some, grad[first:last], 0)
                of_logits = scale[:, None] * (pairs.softmax() - share)  # dL / ds_ij, [n, M]
                of_products = of_logits / temperature
                grad_anchors.append(of_products @ others)
                grad_others = grad_others + of_products.T @ anchors[first:last].to(dtype)
                if grad_temperature is not None:
                    change = pairs.weighted_logits(of_logits).sum() / temperature
                    grad_temperature = grad_temperature - change
            total = torch.cat(grad_anchors) if grad_anchors else torch.zeros_like(others[:0])
            if contrast is None:
                mine, theirs = (total + grad_others).to(anchors.dtype), None
            else:
                mine, theirs = total.to(anchors.dtype), grad_others.to(contrast.dtype)
        return (mine, theirs, None, None, None, None, grad_temperature, None)

    @staticmethod
    def vmap(*_: Any) -> tuple[Any, ...]:
        raise RuntimeError(
            "univa_kernels: the losses do not run under torch.vmap; a loss couples all rows of a "
            "batch, so call it once per batch instead"
        )


_contrastive: Callable[..., tuple[Tensor, Tensor]] = _Contrastive.apply


def _blocks(
    anchors: Tensor,
    contrast: Tensor | None,
    anchor_coordinates: Tensor,
    contrast_coordinates: Tensor | None,
    anchor_groups: Tensor | None,
    contrast_groups: Tensor | None,
    learned_temperature: Tensor | None,
    options: _Options,
) -> Iterator[tuple[int, int, _Pairs]]:
    """Yield (first, last, _Pairs) over blocks of anchors."""
    if contrast is None or contrast_coordinates is None:
        contrast, contrast_coordinates, contrast_groups = anchors, anchor_coordinates, anchor_groups
        options = options._replace(self_offset=0)
    temperature = options.temperature if learned_temperature is None else learned_temperature
    step = max(1, _BLOCK_ELEMENTS // max(1, len(contrast)))
    for first in range(0, len(anchors), step):
        last = min(first + step, len(anchors))
        groups = None
        if anchor_groups is not None and contrast_groups is not None:
            groups = (anchor_groups[first:last], contrast_groups)
        coordinates = (anchor_coordinates[first:last], contrast_coordinates)
        yield (
            first,
            last,
            _Pairs(first, anchors[first:last], contrast, coordinates, groups, temperature, options),
        )


def correlation_prior(predictions: Tensor, similarity: Tensor, form: str) -> Tensor:
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


def objective(
    logits: Tensor,
    labels: Tensor,
    similarity: Tensor | None,
    embeddings: Sequence[Tensor],
    coordinates: Sequence[Tensor],
    weights: Sequence[float],
    learned_temperature: Tensor | None,
    temperature: float,
    radius: float,
    sigma: float,
    alpha: float,
    self_weight: float,
    skip_rows: bool,
    normalize: bool,
    classification: str,
    prior: str,
) -> tuple[Tensor, ...]:
    """The UniVA objective and its terms (docs/mathematics.md, section 3).

    Args:
        logits: [B, L] floating.
        labels: [B, L] of any real dtype.
        similarity: [L, L] in the dtype of `logits`; None without a prior.
        embeddings: M tensors [B, D_m] in the dtype of `logits`.
        coordinates: M tensors [B, p] float32 or float64.
        weights: M weights.
        learned_temperature: as in `contrastive`.
        temperature: as in `contrastive`.
        radius: as in `contrastive`.
        sigma: as in `contrastive`.
        alpha: weight of the contrastive part.
        self_weight: as in `contrastive`.
        skip_rows: leave rows without positives out of a modality's mean.
        normalize: as in `contrastive`.
        classification: "kl" or "bce".
        prior: "none", "norm" or "quadratic".

    Returns:
        3 + M 0-dim tensors in the accumulate dtype: total, classification, prior, and the
        contrastive term of each modality.
    """
    with torch.autocast(logits.device.type, enabled=False):
        scores = logits.to(accumulate_dtype(logits.dtype))
        targets = labels.to(scores.dtype)
        if classification == "kl":
            # The authors average over utterances and labels.
            divergence = F.kl_div(scores.log_softmax(1), targets.softmax(1), reduction="sum")
            classified = 1000 * divergence / max(1, scores.numel())
        else:
            entropy = F.binary_cross_entropy_with_logits(scores, targets, reduction="sum")
            classified = entropy / max(1, scores.numel())
        eta = scores.new_zeros(())
        if prior != "none" and similarity is not None:
            if prior == "norm":
                predictions = scores.log_softmax(1)
            else:
                predictions = scores.softmax(1) if classification == "kl" else scores.sigmoid()
            eta = correlation_prior(predictions, similarity.to(scores.dtype), prior)
        terms = []
        for rows, points in zip(embeddings, coordinates, strict=True):
            losses, stats = contrastive(
                rows,
                None,
                points,
                None,
                None,
                None,
                learned_temperature,
                temperature,
                radius,
                sigma,
                self_weight,
                0,
                False,
                normalize,
            )
            counted = (stats[1] != 0).sum().clamp(min=1) if skip_rows else max(1, len(losses))
            terms.append(losses.sum() / counted)
        weighted = sum((w / 3 * t for w, t in zip(weights, terms, strict=True)), start=0 * eta)
        total = (1 - alpha) * (classified + eta) + alpha * weighted
        return (total, classified, eta, *terms)
