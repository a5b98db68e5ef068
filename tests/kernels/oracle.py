"""The relative oracle for the contrastive loss.

An implementation may be as far from the float64 truth as plain PyTorch in float32 is, twice, plus
what rounding of its own sums can do: a few units in the last place of the terms they are made of.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from tests.kernels import truth
from tests.kernels.cases import Case
from univa_kernels import contrastive_terms, use_backend

# A few units in the last place of the result's own dtype.
HAIR = {
    torch.float64: 1e-12,
    torch.float32: 2e-6,
    torch.bfloat16: 2**-8,
    torch.float16: 2**-10,
}


class Outcome(NamedTuple):
    """What a call gives for the upstream gradient of `upstream`."""

    losses: Tensor  # [N]
    count: Tensor  # [N]
    grads: dict[str, Tensor]  # by name of the leaf


def upstream(rows: int) -> Tensor:
    """Gradients from above that differ from row to row and change sign."""
    return torch.linspace(-1, 2, rows, dtype=torch.float64)


def evaluate(case: Case, backend: str, dtype: torch.dtype, device: str = "cpu") -> Outcome:
    """By a backend."""
    leaves = case.inputs(dtype, device)
    with use_backend(backend):
        losses, count = case.call(contrastive_terms, leaves)
        losses.backward(upstream(len(losses)).to(losses))
    return Outcome(losses.detach(), count, _grads(leaves))


def in_plain_pytorch(case: Case, dtype: torch.dtype, compute: torch.dtype) -> Outcome:
    """By the formula over all pairs for inputs rounded to `dtype`, computed in dtype `compute`."""
    rounded = case.inputs(dtype)
    leaves = {name: leaf.detach().to(compute).requires_grad_() for name, leaf in rounded.items()}
    least = 2.0 ** (-960 if dtype == torch.float64 else -100)
    losses, count = case.call(partial(truth.contrastive_losses, least_count=least), leaves)
    losses.backward(upstream(len(losses)).to(compute))
    grads = _grads(leaves)
    if compute != torch.float64:
        grads = {name: grad.to(rounded[name].dtype) for name, grad in grads.items()}
    return Outcome(losses.detach(), count, grads)


def expected(case: Case, dtype: torch.dtype) -> Outcome:
    """The truth: float64 throughout, for inputs rounded to `dtype`."""
    return in_plain_pytorch(case, dtype, torch.float64)


# Relative error of rounding once, at most.
ROUNDOFF = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


def check(case: Case, backend: str, dtype: torch.dtype, device: str = "cpu") -> None:
    """Hold a backend against the oracle: losses, counts and every gradient.

    Triton's tensor cores take the gradient's coefficients in half precision: see
    `coefficient_rounding`, which is all the room that `triton` gets beyond the others.
    """
    want = expected(case, dtype)
    got = evaluate(case, backend, dtype, device)
    # exp(-x) of float32 x is as exact as x, which is up to 70.
    far = 1e-5 if case.options.get("sigma") else 1e-6
    torch.testing.assert_close(got.count.double().cpu(), want.count, rtol=far, atol=0)
    wide = torch.promote_types(dtype, torch.float32)  # what losses are kept in
    naive = None if wide == torch.float64 else in_plain_pytorch(case, dtype, torch.float32)
    allowed = _allowance(naive.losses, want.losses) if naive else 0.0
    # A loss is a difference: where it cancels, rounding is relative to what it is made of.
    bound = allowed + HAIR[wide] * max(_largest(want.losses), 0.25 * _logit_size(case))
    error = _error(got.losses, want.losses)
    assert error <= bound, f"losses are {error} off, {bound} allowed"
    for name, grad in got.grads.items():
        kept = wide if name == "temperature" else dtype
        assert grad.dtype == kept
        allowed = _allowance(naive.grads[name], want.grads[name]) if naive else 0.0
        rounding = 0.25 * HAIR[wide] * _term_size(case, name)
        error = _error(grad, want.grads[name])
        bound = allowed + HAIR[kept] * _largest(want.grads[name]) + rounding
        if backend == "triton" and dtype in ROUNDOFF and name != "temperature":
            bound += coefficient_rounding(case, name, dtype)
        assert error <= bound, f"the gradient of {name} is {error} off, {bound} allowed"


def check_tied(
    case: Case, backend: str, dtype: torch.dtype, bank: int, offset: int, device: str = "cpu"
) -> None:
    """Hold `tie_self` against the same rows by way of `torch.cat`, which autograd goes through.

    Args:
        case: one without a contrast set; it gets `bank` rows more, the anchors among them from
            `offset` on.
        backend, dtype, device: as for `check`.
    """
    generator = torch.Generator().manual_seed(bank)
    count, depth = case.embeddings.shape

    def around(own: Tensor, others: Tensor) -> Tensor:
        return torch.cat((others[:offset].to(own), own, others[offset:].to(own)))

    others = torch.randn(bank, depth, generator=generator, dtype=torch.float64)
    others = (others * case.embeddings.std(correction=0)).to(device, dtype)
    places = torch.randint(-4, 5, (bank, case.coordinates.shape[1]), generator=generator) / 8
    extra = {"contrast_coordinates": around(case.coordinates, places)}
    if "groups" in case.extra:
        numbers = torch.randint(0, 5, (bank,), generator=generator)
        extra["contrast_groups"] = around(case.extra["groups"], numbers)
    case = dataclasses.replace(
        case,
        options={**case.options, "self_offset": offset},
        extra={**case.extra, **extra},
    )
    outcomes = []
    for tied in (False, True):
        leaves = case.inputs(dtype, device)
        contrast = around(leaves["embeddings"], others)
        with use_backend(backend):
            losses, _ = case.call(
                partial(contrastive_terms, tie_self=tied),
                {**leaves, "contrast_embeddings": contrast.detach() if tied else contrast},
            )
            losses.backward(upstream(count).to(losses))
        outcomes.append((losses.detach(), _grads(leaves)))
    (want_losses, want), (losses, got) = outcomes
    assert torch.equal(losses, want_losses)
    for name, grad in got.items():
        size = _largest(want[name]) + _term_size(case, name)
        error = _error(grad, want[name].double().cpu())
        assert error <= 4 * HAIR[grad.dtype] * size, f"the gradient of {name} is {error} off"


def coefficient_rounding(case: Case, name: str, dtype: torch.dtype) -> float:
    """What rounding the coefficients of a gradient to `dtype` can do to it, from the truth.

    The gradient of a row is sum_j h_ij c_j, h_ij the derivative by the inner product a_i . c_j. The
    kernels form h in float32, round it once to the dtype that tensor cores multiply, as every fused
    attention does with its softmax, and sum in float32. As |rounded(h) - h| <= u |h|, u the unit
    roundoff, the sum is off by no more than u sum_j |h_ij| |c_j|. Plain PyTorch in float32, whose
    error the rest of the oracle allows twice, rounds no h. A set contrasted with itself has one
    coefficient for both roles of a pair, h_ij + h_ji.

    With `normalize` the rows are unit ones, the sum is scaled by 1 / |a_i|, and its part along the
    row is taken off, which adds no more to a component than the length of what is projected.
    """
    own = {name: leaf.detach().double() for name, leaf in case.inputs(dtype).items()}
    anchors = own["embeddings"]
    contrast = own.get("contrast_embeddings", anchors)
    options, extra = dict(case.options), {**case.extra, **own}
    lengths = {"embeddings": 1.0, "contrast_embeddings": 1.0}
    if options.pop("normalize", False):
        norms = [rows.norm(dim=1, keepdim=True).clamp(min=1e-12) for rows in (anchors, contrast)]
        lengths = dict(zip(lengths, norms, strict=True))
        anchors, contrast = anchors / norms[0], contrast / norms[1]
    # Anchors whose entries are the inner products themselves, against unit vectors.
    products = (anchors @ contrast.T).requires_grad_()
    itself = "contrast_embeddings" not in own
    if itself:
        extra["contrast_coordinates"] = case.coordinates
        options["self_offset"] = 0
        if "groups" in extra:
            extra["contrast_groups"] = extra["groups"]
    extra |= {"embeddings": products, "contrast_embeddings": torch.eye(len(contrast)).double()}
    losses, _ = truth.contrastive_losses(
        coordinates=case.coordinates, least_count=2.0**-100, **options, **extra
    )
    (h,) = torch.autograd.grad(losses, products, upstream(len(losses)))
    if itself:
        h = h + h.T
    if name == "contrast_embeddings":
        h, contrast = h.T, anchors
    off = ROUNDOFF[dtype] * (h.abs() @ contrast.abs()) / lengths[name]
    if case.options.get("normalize"):
        off = off + off.norm(dim=1, keepdim=True)
    return _largest(off)


def _grads(leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    grads = {name: leaf.grad for name, leaf in leaves.items()}
    return {name: grad for name, grad in grads.items() if grad is not None}


def _largest(values: Tensor) -> float:
    return values.abs().amax().item() if values.numel() else 0.0


def _error(value: Tensor, true: Tensor) -> float:
    """The largest deviation; NaN fails every comparison."""
    return _largest(value.double().cpu() - true)


def _allowance(naive: Tensor, true: Tensor) -> float:
    """Twice the plain formula's own error; nothing where that comes out as NaN."""
    error = _error(naive, true)
    return 2 * error if error == error else 0.0


def _temperature(case: Case) -> float:
    learned = case.extra.get("temperature")
    return case.options.get("temperature", 0.7) if learned is None else learned.item()


def _logit_size(case: Case) -> float:
    """Size of what a logit sums, which its rounding is relative to."""
    if case.options.get("normalize"):
        return 1 / _temperature(case)
    rows, columns = case.embeddings, case.extra.get("contrast_embeddings", case.embeddings)
    return _largest(rows.abs() @ columns.abs().T) / _temperature(case)


def _term_size(case: Case, name: str) -> float:
    """Size of the terms that a gradient sums: where they cancel, rounding is relative to it."""
    if name == "temperature":
        # Every row's logits are rounded, each for itself: a few units of their last place.
        return len(case.embeddings) ** 0.5 * _logit_size(case) / _temperature(case)
    contrast = case.extra.get("contrast_embeddings", case.embeddings)
    # Softmax shares are as far off as logits are, which matters where those are large.
    shares = 1 + 0.1 * _logit_size(case)
    if case.options.get("normalize"):
        rows = case.embeddings if name == "embeddings" else contrast
        shortest = rows.norm(dim=1).clamp(min=1e-3).min().item()
        return shares / _temperature(case) / shortest
    other = case.embeddings if name == "contrast_embeddings" else contrast
    return shares * _largest(other) / _temperature(case)
