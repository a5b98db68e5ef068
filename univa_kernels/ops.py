"""The compiled operators: loading, fake kernels for tracing, and autograd.

The schemas are defined in C++ (`csrc/registration.cpp`) under `torch.ops.univa`. This module
imports the extension, and adds what torch needs to trace and to differentiate the operators. It
must stay importable when there is no extension: `LOAD_ERROR` then says why.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from univa_kernels.reference import accumulate_dtype

__all__ = ["LOAD_ERROR", "contrastive", "correlation_prior", "extension_build_info"]

LOAD_ERROR: str | None = None
"""Why the compiled extension is not there, or None when it is."""

try:
    from univa_kernels import _C
except ImportError as error:
    missing = str(error).startswith("cannot import name '_C'")
    LOAD_ERROR = "it was not built" if missing else str(error)


def extension_build_info() -> dict[str, Any]:
    """What the extension says of its own build; empty when it is not there."""
    return {} if LOAD_ERROR else dict(_C.build_info())


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
    """`univa_kernels.reference.contrastive` by the compiled kernel of the tensors' device."""
    return torch.ops.univa.contrastive_forward(
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


def correlation_prior(predictions: Tensor, similarity: Tensor, form: str) -> Tensor:
    """`univa_kernels.reference.correlation_prior` by the compiled kernel of the device."""
    return torch.ops.univa.correlation_prior_forward(predictions, similarity, form)


def _contrastive_fake(anchors: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    dtype = accumulate_dtype(anchors.dtype)
    count = anchors.shape[0]
    return anchors.new_empty(count, dtype=dtype), anchors.new_empty((4, count), dtype=dtype)


def _contrastive_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:6], output[1])
    ctx.options = inputs[6:]
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _contrastive_grad(ctx: Any, grad: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 10
    anchors, contrast, *rest = ctx.saved_tensors
    grad_anchors, grad_contrast = torch.ops.univa.contrastive_backward(
        grad, anchors, contrast, *rest, *ctx.options
    )
    return (grad_anchors, None if contrast is None else grad_contrast, *(None,) * 8)


def _contrastive_backward_fake(
    grad: Tensor, anchors: Tensor, contrast: Tensor | None, *_: Any
) -> tuple[Tensor, Tensor]:
    return (
        anchors.new_empty(anchors.shape),
        anchors.new_empty((0, anchors.shape[1]))
        if contrast is None
        else contrast.new_empty(contrast.shape),
    )


def _prior_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.form = inputs[2]


def _prior_grad(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grads = torch.ops.univa.correlation_prior_backward(grad, *ctx.saved_tensors, ctx.form)
    return (*grads, None)


def _no_double_backward(*_: Any) -> None:
    raise RuntimeError(
        "univa_kernels: the compiled losses can be differentiated once only; wrap the call in "
        'univa_kernels.use_backend("reference") for second derivatives'
    )


def _register() -> None:
    library = torch.library
    library.register_fake("univa::contrastive_forward", _contrastive_fake)
    library.register_autograd(
        "univa::contrastive_forward", _contrastive_grad, setup_context=_contrastive_setup
    )
    library.register_fake("univa::contrastive_backward", _contrastive_backward_fake)
    library.register_autograd("univa::contrastive_backward", _no_double_backward)
    library.register_fake(
        "univa::correlation_prior_forward",
        lambda predictions, similarity, form: predictions.new_empty(()),
    )
    library.register_autograd(
        "univa::correlation_prior_forward", _prior_grad, setup_context=_prior_setup
    )
    library.register_fake(
        "univa::correlation_prior_backward",
        lambda grad, predictions, similarity, form: (
            predictions.new_empty(predictions.shape),
            similarity.new_empty(similarity.shape),
        ),
    )
    library.register_autograd("univa::correlation_prior_backward", _no_double_backward)


if LOAD_ERROR is None:
    _register()
