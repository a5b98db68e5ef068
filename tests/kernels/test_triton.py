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


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=cases(max_n=34, max_d=20), dtype=st.sampled_from(list(oracle.ROUNDOFF)))
def test_half_precision_matches_the_truth(case, dtype):
    oracle.check(case, "triton", dtype, DEVICE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("d", "options"),
    [(20, {"radius": 0.3, "self_weight": 0.5}), (264, {"sigma": 0.3, "normalize": True})],
)
def test_own_copies_of_a_constant_set(d, options, dtype):
    oracle.check_tied(random_case(21, d, options), "triton", dtype, 40, 33, DEVICE)


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
    oracle.check(random_case(n, d, options, m=m), "triton", dtype, DEVICE)


def test_positives_in_sorted_tiles_are_skipped_not_lost():
    """Coordinates in order, so that most boxes lie apart; and pairs exactly at the radius."""
    case = random_case(96, 16, {"radius": 0.25})
    case.coordinates = (torch.arange(96).double() / 8)[:, None]
    oracle.check(case, "triton", torch.float32, DEVICE)


@pytest.mark.parametrize("d", [8, 264])
def test_positives_are_looked_for_only_where_boxes_touch(d, monkeypatch):
    """Told that all tiles lie apart, the kernels find positives in those of the diagonal alone."""
    from univa_kernels._triton import problem, run_backward, run_forward

    if DEVICE == "cuda":
        pytest.skip("tiles are larger there")
    rows = torch.randn(1, 48, d, generator=torch.Generator().manual_seed(d)) / d**0.5
    apart = torch.arange(48).div(16, rounding_mode="floor").float().view(1, 48, 1)
    results = []
    for points in (apart, torch.zeros_like(apart)):
        if not points.any():
            boxes = torch.tensor([0.0, 0.0]).expand(1, 48, 1, 2).contiguous()
            monkeypatch.setattr(problem.Problem, "boxes", lambda *_, b=boxes: (b, b + 9))
        options = (0.5, 0.1, 0.0, 0.0, 0, False, False)
        made = problem.make(rows, None, points, None, None, None, None, *options, problem.direct)
        losses, stats = run_forward.forward(made)
        gradient, _ = run_backward.backward(made, torch.ones(1, 48), stats, True, False)
        results.append((losses, stats[:, :3], gradient))
    assert (results[1][1][:, 1] == 15).all()
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("dims", "d"), [(1, 8), (2, 264), (3, 8)])
def test_sorted_by_coordinates_every_row_gets_its_own(dims, d):
    """Losses, statistics and gradients come back in the caller's order, for sets of their own."""
    from univa_kernels._triton import ops, problem, run_forward, sorting

    if DEVICE == "cuda":
        pytest.skip("sorting starts at 32768 rows there: test_gpu_triton.py")
    generator = torch.Generator().manual_seed(dims)
    n = 33
    rows = torch.randn(2, n, d, generator=generator) / d**0.5
    points = torch.rand(2, n, dims, generator=generator)
    groups = torch.randint(0, 9, (2, n), generator=generator)
    arguments = (rows, None, points, None, groups, None, None, 0.5, 0.2, 0.0, 0.0, 0, True, False)
    made = problem.make(*arguments, problem.direct)
    order = sorting.order_of(made)
    assert order.sort().values.tolist() == list(range(2 * n))
    assert (order != torch.arange(2 * n)).any()
    if dims == 1:
        assert (points.flatten()[order].view(2, n).diff() >= 0).all()
    plain = run_forward.forward(made)
    got = ops.contrastive_sets(*arguments)
    for ours, theirs in zip(got, plain, strict=True):
        torch.testing.assert_close(ours, theirs, equal_nan=True)
    grad = torch.rand(2, n, generator=generator)
    ours, _ = sorting.backward(made, grad, got[1], True, False)
    theirs, _ = sorting.run_backward.backward(made, grad, plain[1], True, False)
    torch.testing.assert_close(ours, theirs)


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
    from univa_kernels._triton import sorting

    asked = []
    original = sorting.backward
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


def test_kernels_are_launched_on_the_device_of_their_tensors(monkeypatch):
    """Triton takes the current one: forward and backward change it where it is another."""
    from univa_kernels._triton import ops

    entered = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device", lambda device: entered.append(device) or device)
    other = torch.device("cuda", 1)
    assert ops._on_device(other) is other
    for here in (torch.device("cuda", 0), torch.device("cpu")):
        with ops._on_device(here):
            pass
    assert entered == [other]
    guarded = []
    original = ops._on_device
    monkeypatch.setattr(ops, "_on_device", lambda where: guarded.append(where) or original(where))
    rows = torch.randn(6, 4, device=DEVICE, requires_grad=True)
    with use_backend("triton"):
        va_supcon_loss(rows, torch.zeros(6, 2, device=DEVICE)).backward()
    assert guarded == [rows.device] * 2


@pytest.mark.parametrize("d", [20, 264])
def test_strided_inputs_and_gradients_from_above(d):
    """Views that are neither contiguous nor aligned, and a gradient with stride 0."""
    base = torch.randn(d, 2 * 37 + 1, device=DEVICE)
    points = torch.rand(2, 37, device=DEVICE)
    results = []
    for rows, va in (
        (base[:, 1::2].T, points.T),
        (base[:, 1::2].T.contiguous(), points.T.contiguous()),
    ):
        leaf = rows.detach().requires_grad_()
        with use_backend("triton"):
            losses, _ = contrastive_terms(leaf, va, radius=0.3)
            results.append((losses.detach(), *torch.autograd.grad(losses.sum(), leaf)))
    for strided, plain in zip(*results, strict=True):
        assert torch.equal(strided, plain)


@pytest.mark.parametrize(
    ("n", "m", "d"), [(0, None, 4), (3, 0, 4), (0, 5, 4), (3, None, 0), (40, None, 0), (3, 5, 0)]
)
def test_nothing_to_contrast(n, m, d):
    results = []
    for backend in ("reference", "triton"):
        case = random_case(n, d or 1, {"radius": 0.5}, m=m)
        case.embeddings = case.embeddings[:, :d]
        if m is not None:
            case.extra["contrast_embeddings"] = case.extra["contrast_embeddings"][:, :d]
        results.append(oracle.evaluate(case, backend, torch.float32, DEVICE))
    torch.testing.assert_close(results[1].losses, results[0].losses)
    torch.testing.assert_close(results[1].count, results[0].count)
    assert results[1].grads.keys() == results[0].grads.keys()
    for name, grad in results[1].grads.items():
        torch.testing.assert_close(grad, results[0].grads[name])


def test_a_radius_whose_square_is_subnormal():
    """Its bits look like a 32-bit integer to Triton."""
    case = random_case(8, 4, {"radius": 1e-160})
    case.coordinates = torch.zeros(8, 2, dtype=torch.float64)
    case.coordinates[:4, 0] = 1.0
    oracle.check(case, "triton", torch.float32, DEVICE)


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
