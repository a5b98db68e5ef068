"""Derivatives of the compiled operators, and a short way to them in eager mode.

The formulas serve twice. `ops` registers them with torch.library, for torch.compile and whatever
else traces. In eager mode that registration runs through several layers of Python, which cost more
than the kernels at a training batch's size; there, `eager_contrastive` and its siblings are plain
autograd functions around the same operators (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = [
    "contrastive_grad",
    "contrastive_setup",
    "eager_contrastive",
    "eager_objective",
    "eager_prior",
    "in_plain_eager_mode",
    "objective_grad",
    "objective_setup",
    "prior_grad",
    "prior_setup",
]


def in_plain_eager_mode() -> bool:
    """Whether no tracer and no function transform wants to see the registered operators."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
    )


_operators: dict[str, Callable[..., Any]] = {}  # looking one up takes microseconds


def _run(name: str, *arguments: Any) -> Any:
    """Call an operator of ours, past its registered derivative where none is asked for."""
    operator = _operators.get(name)
    if operator is None:
        operator = _operators[name] = getattr(torch.ops.univa, name).default
    if torch.is_grad_enabled():
        return operator(*arguments)
    with torch._C._AutoDispatchBelowAutograd():
        return operator(*arguments)


def contrastive_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """Keep what `contrastive_grad` needs of a call of `univa::contrastive_forward`."""
    ctx.save_for_backward(*inputs[:7], output[1])
    ctx.options = inputs[7:]
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def contrastive_grad(ctx: Any, grad: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
    """Gradients of the 14 inputs, from that of the losses [N]."""
    if grad is None:
        return (None,) * 14
    saved = ctx.saved_tensors
    contrast, learned, stats = saved[1], saved[6], saved[7]
    grad_anchors, grad_contrast = _run("contrastive_backward", grad, *saved, *ctx.options)
    of_temperature = None
    if learned is not None:
        # The forward kept sum_j (p_ij - k_ij / n_i) s_ij: no second pass (docs/mathematics.md, 1).
        change = (grad * stats[3]).sum()  # 0 in rows without positives
        of_temperature = -change.reshape(learned.shape) / learned
    return (
        grad_anchors,
        None if contrast is None else grad_contrast,
        *(None,) * 4,
        of_temperature,
        *(None,) * 7,
    )


def prior_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Keep what `prior_grad` needs of a call of `univa::correlation_prior_forward`."""
    ctx.save_for_backward(*inputs[:2])
    ctx.form = inputs[2]


def prior_grad(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of predictions, similarity and form."""
    return (*_run("correlation_prior_backward", grad, *ctx.saved_tensors, ctx.form), None)


def objective_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """Keep what `objective_grad` needs of a call of `univa::objective_forward`."""
    logits, labels, similarity, embeddings, coordinates, weights, learned, *options = inputs
    _keep_objective(
        ctx, (logits, labels, similarity, learned, output[1], *embeddings, *coordinates)
    )
    ctx.weights, ctx.options = weights, options
    ctx.mark_non_differentiable(output[1])


def objective_grad(ctx: Any, grad: Tensor | None, _: Any) -> tuple[Any, ...]:
    """Gradients of the 16 inputs, lists as lists, from that of the terms [3 + M]."""
    count = len(ctx.weights)
    no_rows: list[Tensor | None] = [None] * count
    no_weights: list[Tensor] | None = None if count else []  # as torch flattens the inputs
    if grad is None:
        return (None, None, None, no_rows, no_rows, no_weights, *(None,) * 10)
    of = _objective_grads(ctx, grad, ctx.weights, ctx.options)
    return (
        of.logits,
        None,
        of.similarity,
        of.embeddings,
        no_rows,
        no_weights,
        of.temperature,
        *(None,) * 9,
    )


class _ObjectiveGrads(NamedTuple):
    logits: Tensor
    similarity: Tensor | None
    temperature: Tensor | None
    embeddings: list[Tensor]


def _keep_objective(ctx: Any, tensors: tuple[Tensor | None, ...]) -> None:
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


def _objective_grads(ctx: Any, grad: Tensor, weights: Any, options: Any) -> _ObjectiveGrads:
    logits, labels, similarity, learned, stats, *rows = ctx.saved_tensors
    count = len(weights)
    of_logits, of_similarity, of_temperature, of_embeddings = _run(
        "objective_backward",
        grad,
        logits,
        labels,
        similarity,
        rows[:count],
        rows[count:],
        learned,
        stats,
        weights,
        *options,
    )
    used = similarity is not None and options[-1] != "none"
    return _ObjectiveGrads(
        of_logits,
        of_similarity if used else None,
        None if learned is None else of_temperature.reshape(learned.shape),
        of_embeddings,
    )


class _Contrastive(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        output: tuple[Tensor, Tensor] = _run("contrastive_forward", *inputs)
        contrastive_setup(ctx, inputs, output)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        return contrastive_grad(ctx, *grads)


class _Prior(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        eta: Tensor = _run("correlation_prior_forward", *inputs)
        prior_setup(ctx, inputs, eta)
        return eta

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        return prior_grad(ctx, *grads)


class _Objective(torch.autograd.Function):
    """Tensors one by one, as autograd wants them; terms one by one, of which most need no grad."""

    @staticmethod
    def forward(ctx: Any, weights: Any, options: Any, *tensors: Any) -> tuple[Tensor, ...]:
        logits, labels, similarity, learned, *rows = tensors
        count = len(weights)
        ctx.weights, ctx.options = weights, options
        embeddings, coordinates = rows[:count], rows[count:]
        terms, stats = _run(
            "objective_forward",
            logits,
            labels,
            similarity,
            embeddings,
            coordinates,
            weights,
            learned,
            *options,
        )
        _keep_objective(ctx, (logits, labels, similarity, learned, stats, *rows))
        each: tuple[Tensor, ...] = terms.unbind(0)
        return each

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        count = len(ctx.weights)
        given = [grad for grad in grads if grad is not None]
        if not given:
            return (None,) * (6 + 2 * count)
        if len(given) == 1:  # as in training: the total alone
            index = next(i for i, grad in enumerate(grads) if grad is not None)
            around = (index, len(grads) - 1 - index)
            terms = torch.constant_pad_nd(given[0].reshape(1), around)
        else:
            zero = torch.zeros_like(given[0])
            terms = torch.stack([zero if grad is None else grad for grad in grads])
        of = _objective_grads(ctx, terms, ctx.weights, ctx.options)
        nothing = (None,) * count
        return (
            None,
            None,
            of.logits,
            None,
            of.similarity,
            of.temperature,
            *of.embeddings,
            *nothing,
        )


eager_contrastive: Callable[..., tuple[Tensor, Tensor]] = _Contrastive.apply
eager_prior: Callable[..., Tensor] = _Prior.apply
eager_objective: Callable[..., tuple[Tensor, ...]] = _Objective.apply
