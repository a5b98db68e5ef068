"""The Triton kernels: on a GPU where there is one, else in Triton's interpreter on CPU tensors."""

import math
import struct

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import univa_kernels
from tests.kernels import oracle
from tests.kernels.cases import Case, cases
from univa_kernels import backends, contrastive_terms, univa_loss, use_backend, va_supcon_loss

pytest.importorskip("triton")
pytestmark = [
    pytest.mark.skipif(
        univa_kernels.available_backends()["triton"] is not None,
        reason=f"triton: {univa_kernels.available_backends()['triton']}",
    ),
    pytest.mark.filterwarnings("ignore:.*encountered in"),  # numpy's, on -inf
]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROUNDOFF = {torch.bfloat16: 2.0**-9, torch.float16: 2.0**-12}


def random_case(n: int, d: int, options: dict, *, m: int | None = None, seed: int = 0) -> Case:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, d, generator=generator, dtype=torch.float64) / d**0.5
    extra = {}
    if m is not None:
        other = torch.randn(m, d, generator=generator, dtype=torch.float64) / d**0.5
        extra = {
            "contrast_embeddings": other,
            "contrast_coordinates": torch.rand(m, 2, generator=generator),
        }
    return Case(rows, torch.rand(n, 2, generator=generator), options, extra)


@settings(max_examples=16, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=cases(max_n=34, max_d=20))
def test_every_option_matches_the_truth(case):
    oracle.check(case, "triton", torch.float32, DEVICE)


def check(case: Case, dtype: torch.dtype) -> None:
    """The oracle; in half precision, with room for the rounding of the gradient's coefficients."""
    if dtype == torch.float32:
        oracle.check(case, "triton", dtype, DEVICE)
        return
    want = oracle.expected(case, dtype)
    naive = oracle.in_plain_pytorch(case, dtype, torch.float32)
    got = oracle.evaluate(case, "triton", dtype, DEVICE)
    bound = oracle._allowance(naive.losses, want.losses)
    size = max(oracle._largest(want.losses), 0.25 * oracle._logit_size(case))
    assert oracle._error(got.losses, want.losses) <= bound + oracle.HAIR[torch.float32] * size
    for name, grad in got.grads.items():
        if name == "temperature":
            continue
        # h is rounded to the dtype, as every fused attention does: the coefficients of a row sum
        # to at most 2 |g| <= 4 in either role, so do their rounding errors by the unit roundoff.
        bound = oracle._allowance(naive.grads[name], want.grads[name])
        bound += oracle.HAIR[dtype] * oracle._largest(want.grads[name])
        bound += 8 * ROUNDOFF[dtype] * oracle._term_size(case, name)
        assert oracle._error(grad, want.grads[name]) <= bound


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=cases(max_n=34, max_d=20), dtype=st.sampled_from(list(ROUNDOFF)))
def test_half_precision_matches_the_truth(case, dtype):
    check(case, dtype)


@pytest.mark.parametrize(
    ("n", "m", "d", "options"),
    [
        (50, None, 24, {"radius": 0.3}),  # several panels and chunks
        (50, None, 24, {"radius": 0.05}),  # tiles without positives
        (50, None, 264, {"radius": 0.3}),  # blocks and vendor products
        (37, 70, 264, {"radius": 0.3, "self_offset": 5}),
        (70, 37, 20, {"radius": 0.3, "self_offset": -20, "self_weight": 0.5}),
        (40, None, 264, {"radius": 0.3, "temperature": 0.005, "normalize": True}),
        (40, None, 20, {"sigma": 0.3, "normalize": True, "temperature": 0.07}),
        (33, 1, 17, {"radius": 0.5}),
        (1, None, 3, {"self_weight": 1.0}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sizes(n, m, d, options, dtype):
    check(random_case(n, d, options, m=m), dtype)


def test_positives_in_sorted_tiles_are_skipped_not_lost():
    """Coordinates in order, so that most boxes lie apart; and pairs exactly at the radius."""
    case = random_case(96, 16, {"radius": 0.25})
    case.coordinates = (torch.arange(96).double() / 8)[:, None]
    oracle.check(case, "triton", torch.float32, DEVICE)


@pytest.mark.parametrize("radius", [0.0, 1e-30, 0.1, 0.25, 0.3, 1.5, 1e25, 3e38])
@pytest.mark.parametrize("wide", [False, True])
def test_threshold_decides_as_the_square_root_does(radius, wide):
    from univa_kernels._triton.problem import threshold_bits

    dtype = torch.float64 if wide else torch.float32
    value = struct.unpack("<d", struct.pack("<q", threshold_bits(radius, wide)))[0]
    limit = torch.tensor(value, dtype=dtype)
    assert float(limit) == value  # exact in the coordinates' dtype
    near = [limit, torch.nextafter(limit, torch.tensor(math.inf, dtype=dtype))]
    near.append(torch.nextafter(limit, torch.tensor(0.0, dtype=dtype)))
    for squared in near:
        if squared >= 0:
            # numpy's is rounded correctly.
            close = np.sqrt(squared.numpy()) < torch.tensor(radius, dtype=dtype).numpy()
            assert bool(squared < limit) == bool(close)


def test_learned_temperature_and_its_statistics():
    rows, va = torch.randn(40, 16, device=DEVICE), torch.rand(40, 2, device=DEVICE)
    temperature = torch.tensor(0.3, device=DEVICE, requires_grad=True)
    with use_backend("reference"):
        expected = va_supcon_loss(rows, va, temperature=temperature, radius=0.4)
        (of_reference,) = torch.autograd.grad(expected, temperature)
    with use_backend("triton"):
        loss = va_supcon_loss(rows, va, temperature=temperature, radius=0.4)
        (of_ours,) = torch.autograd.grad(loss, temperature)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(of_ours, of_reference)


def test_nan_and_rows_without_positives():
    rows, va = torch.randn(40, 8, device=DEVICE), torch.arange(40.0, device=DEVICE)[:, None]
    with use_backend("triton"):
        losses, count = contrastive_terms(rows, va, radius=0.5)
        assert not losses.any()
        assert not count.any()
        rows[3, 2] = float("nan")
        assert va_supcon_loss(rows, va * 0).isnan()


@pytest.mark.parametrize("d", [16, 264])
def test_no_gradient_is_made_for_a_memory_bank(d, monkeypatch):
    from univa_kernels._triton import run_backward

    asked = []
    original = run_backward.backward
    monkeypatch.setattr(
        "univa_kernels._triton.ops.run_backward",
        lambda *arguments: asked.append(arguments[3:]) or original(*arguments),
    )
    rows = torch.randn(20, d, device=DEVICE, requires_grad=True)
    bank, va = torch.randn(30, d, device=DEVICE), torch.rand(50, 2, device=DEVICE)
    with use_backend("triton"):
        va_supcon_loss(
            rows, va[:20], radius=0.5, contrast_embeddings=bank, contrast_coordinates=va[20:]
        ).backward()
    assert asked == [(True, False)]
    assert rows.grad is not None


def test_objective_shares_launches_and_equals_the_reference(monkeypatch):
    from univa_kernels._triton import ops

    generator = torch.Generator().manual_seed(0)
    rows = {
        name: torch.randn(20, 24, generator=generator).to(DEVICE).requires_grad_()
        for name in ("text", "audio", "vision")
    }
    va = {name: torch.rand(20, 2, generator=generator).to(DEVICE) for name in rows}
    logits = torch.randn(20, 6, generator=generator).to(DEVICE).requires_grad_()
    labels = (torch.rand(20, 6, generator=generator) > 0.5).float().to(DEVICE)
    similarity = torch.rand(6, 6, generator=generator).to(DEVICE)

    def run() -> tuple:
        terms = univa_loss(
            logits, labels, rows, va, similarity, prior="norm", radius=0.4,
            modality_weights={"text": 3.0},
        )  # fmt: skip
        return (terms.total, *torch.autograd.grad(terms.total, [logits, *rows.values()]))

    with use_backend("reference"):
        expected = run()
    calls = []
    original = ops.contrastive_sets
    monkeypatch.setattr(ops, "contrastive_sets", lambda *a: calls.append(len(a[0])) or original(*a))
    with use_backend("triton"):
        got = run()
    assert calls == [3]
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_same_bits_on_every_repeat():
    rows, va = torch.randn(50, 20, device=DEVICE, requires_grad=True), torch.rand(50, 2).to(DEVICE)
    runs = []
    with use_backend("triton"):
        for _ in range(2):
            loss = va_supcon_loss(rows, va, radius=0.3)
            runs.append((loss.detach(), *torch.autograd.grad(loss, rows)))
    for first, second in zip(*runs, strict=True):
        assert torch.equal(first, second)


def test_second_derivatives_and_float64_are_refused():
    rows, va = torch.randn(6, 4, device=DEVICE, requires_grad=True), torch.zeros(6, 2).to(DEVICE)
    with use_backend("triton"):
        (grad,) = torch.autograd.grad(va_supcon_loss(rows, va), rows, create_graph=True)
        with pytest.raises(RuntimeError, match="no second derivatives"):
            grad.sum().backward()
        with pytest.raises(RuntimeError, match=r"does not serve torch\.float64"):
            va_supcon_loss(rows.double(), va)


def test_the_interpreter_is_no_automatic_choice():
    if DEVICE == "cpu":
        assert backends.select(torch.zeros(100_000, 1)).name != "triton"
