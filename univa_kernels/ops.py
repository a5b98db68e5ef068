"""The compiled operators: loading, fake kernels for tracing, and autograd.

The schemas are defined in C++ (`csrc/registration.cpp`) under `torch.ops.univa`. This module
imports the extension, and adds what torch needs to trace and to differentiate the operators. It
must stay importable when there is no extension: `LOAD_ERROR` then says why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from univa_kernels import _autograd, reference
from univa_kernels.reference import accumulate_dtype

_unpack_dual: Callable[[Tensor], Any] = forward_ad.unpack_dual

__all__ = [
    "LOAD_ERROR",
    "contrastive",
    "correlation_prior",
    "extension_build_info",
    "objective",
    "tied_contrastive",
]

LOAD_ERROR: str | None = None
"""Why the compiled extension is not there, or None when it is."""

try:
    from univa_kernels import _C
except ImportError as error:
    LOAD_ERROR = str(error)
    if LOAD_ERROR.startswith(
        "UNIVA_CPU_CAPABILITY"
    ):  # what is forced and cannot be had is an error
        raise ValueError(LOAD_ERROR) from None
    if LOAD_ERROR.startswith("cannot import name '_C'"):
        LOAD_ERROR = "it was not built"
        # A build that failed leaves the compiler's first error here: see setup.py.
        reason = Path(__file__).with_name("_build_failure.txt")
        if reason.is_file():
            LOAD_ERROR += f": {reason.read_text(encoding='utf-8', errors='replace').strip()}"


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
    learned_temperature: Tensor | None,
    temperature: float,
    radius: float,
    sigma: float,
    self_weight: float,
    self_offset: int | None,
    exclude_groups: bool,
    normalize: bool,
) -> tuple[Tensor, Tensor]:
    """`univa_kernels.reference.contrastive` by the compiled kernel of the tensors' device."""
    _refuse_forward_mode(anchors, contrast, learned_temperature)
    run: Any = torch.ops.univa.contrastive_forward
    if _autograd.in_plain_eager_mode(anchors):
        run = _autograd.eager_contrastive
    result: tuple[Tensor, Tensor] = run(
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
    )
    return result


def tied_contrastive(anchors: Tensor, contrast: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """`contrastive` against a constant set, whose row i + self_offset is anchor i itself."""
    _refuse_forward_mode(anchors, contrast, rest[4])
    if not _autograd.in_plain_eager_mode(anchors):
        return contrastive(anchors, reference.with_own_rows(anchors, contrast, rest[9]), *rest)
    result: tuple[Tensor, Tensor] = _autograd.eager_tied(anchors, contrast, *rest)
    return result


def correlation_prior(predictions: Tensor, similarity: Tensor, form: str) -> Tensor:
    """`univa_kernels.reference.correlation_prior` by the compiled kernel of the device."""
    _refuse_forward_mode(predictions, similarity)
    run: Any = torch.ops.univa.correlation_prior_forward
    if _autograd.in_plain_eager_mode(predictions):
        run = _autograd.eager_prior
    eta: Tensor = run(predictions, similarity, form)
    return eta


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
    """`univa_kernels.reference.objective` in one call of the compiled kernel of the device."""
    _refuse_forward_mode(logits, similarity, learned_temperature, *embeddings)
    options = (
        temperature,
        radius,
        sigma,
        alpha,
        self_weight,
        skip_rows,
        normalize,
        classification,
        prior,
    )
    if _autograd.in_plain_eager_mode(logits):
        return _autograd.eager_objective(
            weights,
            options,
            logits,
            labels,
            similarity,
            learned_temperature,
            *embeddings,
            *coordinates,
        )
    terms: Tensor = torch.ops.univa.objective_forward(
        logits,
        labels,
        similarity,
        embeddings,
        coordinates,
        weights,
        learned_temperature,
        *options,
    )[0]
    return terms.unbind(0)


def _refuse_forward_mode(*tensors: Tensor | None) -> None:
    """The operators have no forward-mode formula, and torch would take the tangent for zero."""
    if torch.compiler.is_compiling() or forward_ad._current_level < 0:
        return
    for tensor in tensors:
        if tensor is not None and _unpack_dual(tensor).tangent is not None:
            raise RuntimeError(
                "univa_kernels: the losses have no forward-mode derivatives (jvp, jacfwd); use "
                "reverse mode"
            )


def _contrastive_fake(anchors: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    dtype = accumulate_dtype(anchors.dtype)
    count = anchors.shape[0]
    return anchors.new_empty(count, dtype=dtype), anchors.new_empty((4, count), dtype=dtype)


def _contrastive_backward_fake(
    grad: Tensor, anchors: Tensor, contrast: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor]:
    of_anchors, of_contrast = rest[-2:]

    def gradient(rows: Tensor | None) -> Tensor:
        return anchors.new_empty((0, anchors.shape[1]) if rows is None else rows.shape)

    return gradient(anchors if of_anchors else None), gradient(contrast if of_contrast else None)


def _objective_fake(
    logits: Tensor, labels: Tensor, similarity: Tensor | None, embeddings: list[Tensor], *_: Any
) -> tuple[Tensor, Tensor]:
    dtype, count = accumulate_dtype(logits.dtype), len(embeddings)
    return (
        logits.new_empty(3 + count, dtype=dtype),
        logits.new_empty((count, 4, logits.shape[0]), dtype=dtype),
    )


def _objective_backward_fake(
    grad: Tensor,
    logits: Tensor,
    labels: Tensor,
    similarity: Tensor | None,
    embeddings: list[Tensor],
    coordinates: list[Tensor],
    learned: Tensor | None,
    stats: Tensor,
    weights: list[float],
    *options: Any,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    used = similarity is not None and options[-1] != "none"
    return (
        logits.new_empty(logits.shape),
        logits.new_empty(similarity.shape if used and similarity is not None else (0,)),
        grad.new_empty((0,) if learned is None else ()),
        [rows.new_empty(rows.shape) for rows in embeddings],
    )


def _register() -> None:
    library = torch.library
    library.register_fake("univa::contrastive_forward", _contrastive_fake)
    library.register_autograd(
        "univa::contrastive_forward",
        _autograd.contrastive_grad,
        setup_context=_autograd.contrastive_setup,
    )
    library.register_fake("univa::contrastive_backward", _contrastive_backward_fake)
    library.register_fake(
        "univa::correlation_prior_forward",
        lambda predictions, similarity, form: predictions.new_empty(()),
    )
    library.register_autograd(
        "univa::correlation_prior_forward",
        _autograd.prior_grad,
        setup_context=_autograd.prior_setup,
    )
    library.register_fake(
        "univa::correlation_prior_backward",
        lambda grad, predictions, similarity, form: (
            predictions.new_empty(predictions.shape),
            similarity.new_empty(similarity.shape),
        ),
    )
    library.register_fake("univa::objective_forward", _objective_fake)
    library.register_autograd(
        "univa::objective_forward",
        _autograd.objective_grad,
        setup_context=_autograd.objective_setup,
    )
    library.register_fake("univa::objective_backward", _objective_backward_fake)
    for name in ("contrastive", "correlation_prior", "objective"):
        library.register_autograd(f"univa::{name}_backward", _autograd.no_double_backward)
        library.register_vmap(f"univa::{name}_forward", _autograd.no_vmap)


if LOAD_ERROR is None:
    try:
        _register()
    except RuntimeError as error:  # an extension left over from another version of this package
        LOAD_ERROR = f"it does not fit this Python code, rebuild it ({error})"
