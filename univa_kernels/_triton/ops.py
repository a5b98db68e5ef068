"""The Triton operators: registration, autograd, and the calls that `backends.py` makes.

`univa_triton::contrastive_forward` and `_backward` take a batch of independent sets [S, N, D], so
that the modalities of the objective share their launches. torch.compile traces through them down to
the kernels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from univa_kernels import reference
from univa_kernels._autograd import contrastive_grad, contrastive_setup, in_plain_eager_mode
from univa_kernels._triton import problem as problems
from univa_kernels._triton.pairs import INTERPRETED
from univa_kernels._triton.sorting import backward as run_backward
from univa_kernels._triton.sorting import forward as run_forward
from univa_kernels.ops import _refuse_forward_mode

__all__ = [
    "INTERPRETED",
    "contrastive",
    "contrastive_sets",
    "correlation_prior",
    "objective",
    "tied_contrastive",
]


def _on_device(device: torch.device) -> AbstractContextManager[Any]:
    """Triton launches on the current device, whichever its tensors are on."""
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return contextlib.nullcontext()
    return torch.cuda.device(device)


def _forward(problem: problems.Problem) -> tuple[Tensor, Tensor]:
    with _on_device(problem.anchors.device):
        return run_forward(problem)


@torch.library.triton_op("univa_triton::contrastive_forward", mutates_args={})
def contrastive_forward(
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
    """Losses [S, N] and statistics [S, 4, N] of S independent sets, float32.

    Statistics: log Z, n, mean positive logit, and expected logit minus positive mean. The last is
    NaN in rows with positives unless `learned_temperature` is given: nothing else needs it, and the
    sum behind it would cost every call registers. The `cpu` and `cuda` operators always fill it.
    """
    return _forward(
        problems.make(
            anchors,
            contrast,
            anchor_coordinates,
            contrast_coordinates,
            anchor_groups,
            contrast_groups,
            learned_temperature,
            temperature,
            radius,
            sigma,
            self_weight,
            self_offset,
            exclude_groups,
            normalize,
            launcher=problems.traced,
        )
    )


@torch.library.triton_op("univa_triton::contrastive_backward", mutates_args={})
def contrastive_backward(
    grad: Tensor,
    anchors: Tensor,
    contrast: Tensor | None,
    anchor_coordinates: Tensor,
    contrast_coordinates: Tensor | None,
    anchor_groups: Tensor | None,
    contrast_groups: Tensor | None,
    learned_temperature: Tensor | None,
    stats: Tensor,
    temperature: float,
    radius: float,
    sigma: float,
    self_weight: float,
    self_offset: int | None,
    exclude_groups: bool,
    normalize: bool,
    of_anchors: bool,
    of_contrast: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of anchors and contrast set; empty where not asked for."""
    problem = problems.make(
        anchors,
        contrast,
        anchor_coordinates,
        contrast_coordinates,
        anchor_groups,
        contrast_groups,
        learned_temperature,
        temperature,
        radius,
        sigma,
        self_weight,
        self_offset,
        exclude_groups,
        normalize,
        launcher=problems.traced,
    )
    return _backward(problem, grad, stats, anchors, contrast, normalize, of_anchors, of_contrast)


def _backward(
    problem: problems.Problem,
    grad: Tensor,
    stats: Tensor,
    anchors: Tensor,
    contrast: Tensor | None,
    normalize: bool,
    of_anchors: bool,
    of_contrast: bool,
) -> tuple[Tensor, Tensor]:
    grad = grad.float()
    factor = _half_factor(problem, grad) if anchors.dtype == torch.float16 else None
    if factor is not None:
        grad = grad * factor
    with _on_device(anchors.device):
        mine, theirs = run_backward(problem, grad, stats, of_anchors, of_contrast)
    return (
        _of_embeddings(mine, anchors, factor, normalize),
        _of_embeddings(theirs, anchors if contrast is None else contrast, factor, normalize),
    )


def _half_factor(problem: problems.Problem, grad: Tensor) -> Tensor:
    """What brings the gradient with respect to the inner products into the range of float16.

    A power of two; read by nobody on the host.
    """
    peak = grad.abs().amax() if grad.numel() else grad.new_zeros(())
    if problem.temperature is None:
        peak = peak * problem.inverse_temperature
    else:
        peak = peak / problem.temperature.reshape(())
    if problem.anchor_inverse is not None and problem.contrast_inverse is not None:
        peak = peak * problem.anchor_inverse.amax() * problem.contrast_inverse.amax()
    usable = (peak > 0) & (peak < torch.inf)
    exponent = 12 - peak.where(usable, 1.0).log2().ceil()
    return exponent.clamp(-100, 100).exp2().where(usable, 1.0)


def _of_embeddings(
    gradient: Tensor | None, embeddings: Tensor, factor: Tensor | None, normalize: bool
) -> Tensor:
    """The gradient of the embeddings from that of the rows that the kernels multiplied."""
    if gradient is None:
        return embeddings.new_empty(0)
    if embeddings.shape[2] == 0:
        return torch.empty_like(embeddings)
    if factor is not None:
        gradient = gradient / factor
    if normalize:
        length = problems.lengths(embeddings)[..., None]
        inverse = length.clamp(min=1e-12).reciprocal()
        unit = embeddings * inverse
        if embeddings.dtype == torch.float32:
            gradient = gradient * inverse  # half-precision kernels scaled already
        # The part along the row goes, unless the length was clamped.
        along = (gradient * unit).sum(2, keepdim=True).where(length >= 1e-12, 0.0)
        gradient = gradient - along * unit
    return gradient.to(embeddings.dtype)


def _backward_of(
    grad: Tensor,
    saved: Sequence[Any],
    options: Sequence[Any],
    of_anchors: bool,
    of_contrast: bool,
) -> tuple[Tensor, Tensor]:
    # With create_graph the operator is asked, which refuses second derivatives.
    if torch.is_grad_enabled() or not in_plain_eager_mode(saved[0]):
        grads: tuple[Tensor, Tensor] = torch.ops.univa_triton.contrastive_backward(
            grad, *saved, *options, of_anchors, of_contrast
        )
        return grads
    problem = problems.make(*saved[:7], *options, problems.direct)  # type: ignore[call-arg]
    anchors, contrast, stats, normalize = saved[0], saved[1], saved[7], options[-1]
    return _backward(problem, grad, stats, anchors, contrast, normalize, of_anchors, of_contrast)


_gradients = partial(contrastive_grad, backward=_backward_of)


def _no_double_backward(ctx: Any, *_: Any) -> None:
    raise RuntimeError(
        "univa_kernels: the triton backend has no second derivatives; use "
        'univa_kernels.use_backend("reference")'
    )


contrastive_forward.register_autograd(_gradients, setup_context=contrastive_setup)
contrastive_backward.register_autograd(_no_double_backward)


class _Eager(torch.autograd.Function):
    """The operator without the dispatcher: a good part of a small call's time."""

    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, Tensor]:
        return _forward(problems.make(*inputs, problems.direct))  # type: ignore[call-arg]

    setup_context = staticmethod(contrastive_setup)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return _gradients(ctx, *grads)


class _EagerTied(_Eager):
    """As `univa_kernels._autograd._Tied`."""

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return _gradients(ctx, *grads, tied=True)


def contrastive_sets(anchors: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    """Losses [S, N] and statistics [S, 4, N] of sets [S, N, D]."""
    _refuse_forward_mode(anchors, arguments[0], arguments[5])
    run: Any = (
        _Eager.apply if in_plain_eager_mode(anchors) else torch.ops.univa_triton.contrastive_forward
    )
    result: tuple[Tensor, Tensor] = run(anchors, *arguments)
    return result


def contrastive(
    anchors: Tensor,
    contrast: Tensor | None,
    anchor_coordinates: Tensor,
    contrast_coordinates: Tensor | None,
    anchor_groups: Tensor | None,
    contrast_groups: Tensor | None,
    learned_temperature: Tensor | None,
    *options: Any,
) -> tuple[Tensor, Tensor]:
    """`univa_kernels.reference.contrastive` by the Triton kernels.

    The statistics' fourth row (expected logit minus positive mean) is kept for a learned
    temperature, and NaN otherwise.
    """
    sets = _as_sets(
        anchors,
        contrast,
        anchor_coordinates,
        contrast_coordinates,
        anchor_groups,
        contrast_groups,
    )
    losses, stats = contrastive_sets(*sets, learned_temperature, *options)  # type: ignore[arg-type]
    return losses[0], stats[0]


def _as_sets(*tensors: Tensor | None) -> list[Tensor | None]:
    """One set each."""
    return [None if tensor is None else tensor[None] for tensor in tensors]


def tied_contrastive(anchors: Tensor, contrast: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """`univa_kernels.reference.tied_contrastive` by the Triton kernels."""
    if not in_plain_eager_mode(anchors):
        return contrastive(anchors, reference.with_own_rows(anchors, contrast, rest[9]), *rest)
    _refuse_forward_mode(anchors, contrast, rest[4])
    run: Any = _EagerTied.apply
    losses, stats = run(*_as_sets(anchors, contrast, *rest[:4]), *rest[4:])
    return losses[0], stats[0]


correlation_prior = reference.correlation_prior
"""The prior is a handful of operations on [N, L]: plain PyTorch serves it."""


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
    """`univa_kernels.reference.objective`: modalities of one shape share their launches."""
    rest = reference.objective(
        logits,
        labels,
        similarity,
        (),
        (),
        (),
        None,
        1.0,
        radius,
        sigma,
        alpha,
        self_weight,
        skip_rows,
        normalize,
        classification,
        prior,
    )
    options = (temperature, radius, sigma, self_weight, 0, False, normalize)
    kinds = [
        (rows.shape, points.shape, points.dtype)
        for rows, points in zip(embeddings, coordinates, strict=True)
    ]
    terms: dict[int, Tensor] = {}
    for kind in dict.fromkeys(kinds):
        members = [index for index, other in enumerate(kinds) if other == kind]
        losses, stats = contrastive_sets(
            torch.stack([embeddings[index] for index in members]),
            None,
            torch.stack([coordinates[index] for index in members]),
            None,
            None,
            None,
            learned_temperature,
            *options,
        )
        counted = (stats[:, 1] != 0).sum(1).clamp(min=1) if skip_rows else max(1, losses.shape[1])
        for place, index in enumerate(members):
            terms[index] = (losses.sum(1) / counted)[place]
    contrasted = [terms[index] for index in range(len(kinds))]
    total = rest[0]
    for weight, term in zip(weights, contrasted, strict=True):
        total = total + alpha * (weight / 3 * term)
    return (total, rest[1], rest[2], *contrasted)
