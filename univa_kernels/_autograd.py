"""Derivatives of the compiled operators, and a short way to them in eager mode.

The formulas serve twice. `ops` registers them with torch.library, for torch.compile and whatever
else traces. In eager mode that registration runs through several layers of Python, which cost more
than the kernels at a training batch's size; there, `eager_contrastive` and its siblings are plain
autograd functions around the same operators (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = [
    "contrastive_grad",
    "contrastive_setup",
    "eager_contrastive",
    "eager_objective",
    "eager_prior",
    "eager_tied",
    "in_plain_eager_mode",
    "no_double_backward",
    "no_vmap",
    "objective_grad",
    "objective_setup",
    "own_copies",
    "prior_grad",
    "prior_setup",
]


def in_plain_eager_mode(tensor: Tensor) -> bool:
    """Whether nobody traces, fakes or watches a call with this tensor."""
    return (
        not torch.compiler.is_compiling()
        and type(tensor) in (Tensor, torch.nn.Parameter)
        and torch._C._len_torch_dispatch_stack() == 0
    )


_operators: dict[str, Callable[..., Any]] = {}  # looking one up takes microseconds


def _run(name: str, *arguments: Any) -> Any:
    """Call an operator of ours past its registered derivative."""
    operator = _operators.get(name)
    if operator is None:
        operator = _operators[name] = getattr(torch.ops.univa, name).default
    with torch._C._AutoDispatchBelowAutograd():
        return operator(*arguments)


def no_double_backward(*_: Any) -> Any:
    """Say why there is no second derivative."""
    raise RuntimeError(
        "univa_kernels: the compiled losses can be differentiated once only; wrap the call in "
        'univa_kernels.use_backend("reference") for second derivatives'
    )


def no_vmap(*_: Any) -> Any:
    """Say why there is no batching rule."""
    raise RuntimeError(
        "univa_kernels: the losses do not run under torch.vmap; a loss couples all rows of a "
        "batch, so call it once per batch instead"
    )


class _Once(torch.autograd.Function):
    """A gradient that cannot be differentiated again, and says so."""

    vmap = staticmethod(no_vmap)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        no_double_backward()

    @staticmethod
    def forward(compute: Callable[..., tuple[Tensor, ...]], *tensors: Any) -> tuple[Tensor, ...]:
        return compute(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Keep nothing."""


_once: Callable[..., Any] = _Once.apply


def _gradients(compute: Callable[..., tuple[Tensor, ...]], *tensors: Tensor | None) -> Any:
    """Call `compute(*tensors)`, through `_Once` where a second derivative could be asked for."""
    if not torch.is_grad_enabled():
        return compute(*tensors)
    return _once(compute, *tensors)


def contrastive_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """Keep what `contrastive_grad` needs of a call of `univa::contrastive_forward`."""
    ctx.save_for_backward(*inputs[:7], output[1])
    ctx.options = inputs[7:]
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _compiled_backward(
    grad: Tensor,
    saved: Sequence[Tensor | None],
    options: Sequence[Any],
    of_anchors: bool,
    of_contrast: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of anchors and contrast set by the compiled kernel."""

    def compute(*tensors: Any) -> Any:
        return _run("contrastive_backward", *tensors, *options, of_anchors, of_contrast)

    grads: tuple[Tensor, Tensor] = _gradients(compute, grad, *saved)
    return grads


def contrastive_grad(
    ctx: Any,
    grad: Tensor | None,
    _: Any,
    *,
    tied: bool = False,
    backward: Callable[..., tuple[Tensor, Tensor]] = _compiled_backward,
) -> tuple[Tensor | None, ...]:
    """Gradients of the 14 inputs, from that of the losses [..., N].

    Args:
        ctx: as `contrastive_setup` leaves it.
        grad: upstream gradient; None gives none.
        tied: add the gradient of the anchors' own copies in the contrast set to the anchors.
        backward: gradients of anchors and contrast set from `grad`, the saved tensors, the options,
            and which of the two are asked for.
    """
    if grad is None:
        return (None,) * 14
    saved = ctx.saved_tensors  # once: activation checkpointing hands them out no second time
    contrast, learned, stats = saved[1], saved[6], saved[7]
    of_anchors = bool(ctx.needs_input_grad[0])
    of_contrast = contrast is not None and bool(ctx.needs_input_grad[1])
    grad_anchors: Any = None
    grad_contrast: Any = None
    if of_anchors or of_contrast:
        grad_anchors, grad_contrast = backward(grad, saved, ctx.options, of_anchors, of_contrast)
    if tied and of_anchors:
        copies, options = own_copies(saved, ctx.options)
        grad_anchors = grad_anchors + backward(grad, copies, options, False, True)[1]
    of_temperature = None
    if learned is not None and ctx.needs_input_grad[6]:
        # The forward kept sum_j (p_ij - k_ij / n_i) s_ij: no second pass (docs/mathematics.md, 1).
        count, excess = stats.select(-2, 1), stats.select(-2, 3)
        change = (torch.where(count != 0, grad, 0) * excess).sum()
        of_temperature = -change.reshape(learned.shape) / learned
    return (
        grad_anchors if of_anchors else None,
        grad_contrast if of_contrast else None,
        *(None,) * 4,
        of_temperature,
        *(None,) * 7,
    )


def own_copies(
    saved: Sequence[Tensor | None], options: Sequence[Any]
) -> tuple[list[Tensor | None], list[Any]]:
    """What a backward is given of the anchors' own copies alone, instead of the contrast set.

    Args:
        saved: anchors [..., N, D], contrast [..., M, D], their coordinates and groups, learned
            temperature, stats.
        options: from the temperature on; the fifth is `self_offset`.
    """
    anchors, contrast, places, contrast_places, groups, contrast_groups, *rest = saved
    start = options[4]

    def own(rows: Tensor | None, dim: int) -> Tensor | None:
        if rows is None or anchors is None:
            return None
        return rows.narrow(dim, start, anchors.shape[-2])

    rows = [anchors, own(contrast, -2), places, own(contrast_places, -2), groups]
    return [*rows, own(contrast_groups, -1), *rest], [*options[:4], 0, *options[5:]]


def prior_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Keep what `prior_grad` needs of a call of `univa::correlation_prior_forward`."""
    ctx.save_for_backward(*inputs[:2])
    ctx.form = inputs[2]


def prior_grad(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of predictions, similarity and form."""
    grads = _gradients(
        lambda *tensors: _run("correlation_prior_backward", *tensors, ctx.form),
        grad,
        *ctx.saved_tensors,
    )
    return (*grads, None)


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
    count = len(weights)

    def compute(
        grad: Tensor,
        logits: Tensor,
        labels: Tensor,
        similarity: Tensor | None,
        learned: Tensor | None,
        stats: Tensor,
        *rows: Tensor,
    ) -> tuple[Tensor, ...]:
        *of, of_embeddings = _run(
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
        return (*of, *of_embeddings)

    saved = ctx.saved_tensors  # once, as above
    similarity, learned = saved[2:4]
    of_logits, of_similarity, of_temperature, *of_embeddings = _gradients(compute, grad, *saved)
    used = similarity is not None and options[-1] != "none"
    return _ObjectiveGrads(
        of_logits,
        of_similarity if used else None,
        None if learned is None else of_temperature.reshape(learned.shape),
        of_embeddings,
    )


class _Contrastive(torch.autograd.Function):
    vmap = staticmethod(no_vmap)
    setup_context = staticmethod(contrastive_setup)

    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, Tensor]:
        output: tuple[Tensor, Tensor] = _run("contrastive_forward", *inputs)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        return contrastive_grad(ctx, *grads)


class _Tied(_Contrastive):
    """The contrast set is constant, and what the anchors' own copies in it are due is theirs.

    A pair's coefficient depends on its anchor's statistics alone: the own copies' gradient is that
    of a contrast set of N rows, whatever M is.
    """

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        return contrastive_grad(ctx, *grads, tied=True)


class _Prior(torch.autograd.Function):
    vmap = staticmethod(no_vmap)
    setup_context = staticmethod(prior_setup)

    @staticmethod
    def forward(*inputs: Any) -> Tensor:
        eta: Tensor = _run("correlation_prior_forward", *inputs)
        return eta

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        return prior_grad(ctx, *grads)


class _Objective(torch.autograd.Function):
    """Tensors one by one, as autograd wants them; terms one by one, of which most need no grad."""

    vmap = staticmethod(no_vmap)

    @staticmethod
    def forward(weights: Any, options: Any, *tensors: Any) -> tuple[Tensor, ...]:
        logits, labels, similarity, learned, *rows = tensors
        count = len(weights)
        terms, stats = _run(
            "objective_forward",
            logits,
            labels,
            similarity,
            rows[:count],
            rows[count:],
            weights,
            learned,
            *options,
        )
        return (*terms.unbind(0), stats)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.weights, ctx.options, logits, labels, similarity, learned, *rows = inputs
        _keep_objective(ctx, (logits, labels, similarity, learned, output[-1], *rows))
        ctx.mark_non_differentiable(output[-1])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        count = len(ctx.weights)
        of_terms = grads[:-1]
        given = [grad for grad in of_terms if grad is not None]
        if not given:
            return (None,) * (6 + 2 * count)
        if len(given) == 1:  # as in training: the total alone
            index = next(i for i, grad in enumerate(of_terms) if grad is not None)
            around = (index, len(of_terms) - 1 - index)
            terms = torch.constant_pad_nd(given[0].reshape(1), around)
        else:
            zero = torch.zeros_like(given[0])
            terms = torch.stack([zero if grad is None else grad for grad in of_terms])
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


_objective: Callable[..., tuple[Tensor, ...]] = _Objective.apply


def eager_objective(*inputs: Any) -> tuple[Tensor, ...]:
    """The terms, from weights, options and the tensors one by one."""
    return _objective(*inputs)[:-1]


eager_contrastive: Callable[..., tuple[Tensor, Tensor]] = _Contrastive.apply
eager_tied: Callable[..., tuple[Tensor, Tensor]] = _Tied.apply
eager_prior: Callable[..., Tensor] = _Prior.apply
