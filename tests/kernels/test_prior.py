"""The emotion-correlation prior of every backend against its double loop in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels import truth
from tests.kernels.cases import BACKENDS, relative_error
from univa_kernels import EmotionCorrelationPrior, emotion_correlation_prior, use_backend

pytestmark = pytest.mark.parametrize("backend", BACKENDS)

# Result and gradients are rounded to the inputs' dtype; sums are kept in float32 or better.
TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 2e-6,
    torch.bfloat16: 2**-8,
    torch.float16: 2**-10,
}


def check(backend, n, labels, form, dtype, seed, device="cpu"):
    generator = torch.Generator().manual_seed(seed)
    predictions = torch.randn(n, labels, generator=generator).to(dtype)
    similarity = torch.randn(labels, labels, generator=generator).to(dtype)
    leaves = [t.to(device).requires_grad_() for t in (predictions, similarity)]
    with use_backend(backend):
        prior = emotion_correlation_prior(*leaves, form=form)
        prior.backward()
    exact = [t.double().requires_grad_() for t in (predictions, similarity)]
    want = truth.correlation_prior(*exact, form)
    grads = [torch.zeros_like(leaf) for leaf in exact]
    if want.requires_grad:
        grads = [
            zero if grad is None else grad
            for grad, zero in zip(
                torch.autograd.grad(want, exact, allow_unused=True), grads, strict=True
            )
        ]
    # The value can cancel to near 0: measure against the sum of magnitudes instead.
    size = truth.correlation_prior(predictions.double(), similarity.double().abs(), form)
    assert prior.dtype == dtype
    assert (prior.double().cpu() - want).abs() <= TOLERANCE[dtype] * max(size.item(), 1e-30)
    assert leaves[1].grad.dtype == dtype
    assert relative_error(leaves[1].grad, grads[1]) <= TOLERANCE[dtype]
    # Entries of the gradient can cancel as well.
    weights = similarity.double().abs()
    spread = max(1.0, 2 * predictions.double().abs().max().item())
    scale = 2 / n * (weights.sum(0) + weights.sum(1)).max().item() * spread
    error = (leaves[0].grad.double().cpu() - grads[0]).abs().max().item()
    assert error <= TOLERANCE[dtype] * scale


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 70),
    labels=st.integers(1, 12),
    form=st.sampled_from(["quadratic", "norm"]),
    dtype=st.sampled_from(list(TOLERANCE)),
    seed=st.integers(0, 2**31),
)
def test_matches_the_truth(backend, n, labels, form, dtype, seed):
    check(backend, n, labels, form, dtype, seed)


@pytest.mark.parametrize("form", ["quadratic", "norm"])
def test_gradient_check(backend, form):
    predictions = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    similarity = torch.randn(4, 4, dtype=torch.float64, requires_grad=True)
    with use_backend(backend):
        assert torch.autograd.gradcheck(
            lambda y, m: emotion_correlation_prior(y, m, form=form), (predictions, similarity)
        )


def test_norm_of_equal_columns_has_no_gradient(backend):
    predictions = torch.ones(4, 3, requires_grad=True)
    with use_backend(backend):
        prior = emotion_correlation_prior(predictions, torch.ones(3, 3), form="norm")
    prior.backward()
    assert prior.item() == 0
    assert predictions.grad.eq(0).all()


@pytest.mark.parametrize("form", ["quadratic", "norm"])
def test_nan_is_not_swallowed(backend, form):
    predictions = torch.randn(4, 3)
    predictions[2, 1] = float("nan")
    with use_backend(backend):
        assert emotion_correlation_prior(predictions, torch.ones(3, 3), form=form).isnan()


@pytest.mark.parametrize("form", ["quadratic", "norm"])
def test_no_rows(backend, form):
    predictions = torch.zeros(0, 3, requires_grad=True)
    with use_backend(backend):
        prior = emotion_correlation_prior(predictions, torch.ones(3, 3), form=form)
    prior.backward()
    assert prior.item() == 0
    assert predictions.grad.shape == (0, 3)


def test_module_learns_its_matrix(backend):
    module = EmotionCorrelationPrior(torch.eye(3), "norm", learnable=True)
    with use_backend(backend):
        module(torch.randn(6, 3)).backward()
    assert module.similarity.grad.abs().sum() > 0
    assert not list(EmotionCorrelationPrior(torch.eye(3)).parameters())
