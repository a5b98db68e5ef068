"""The contrastive loss of every backend against a float64 truth over all pairs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import univa_kernels
from tests.kernels import truth
from tests.kernels.cases import BACKENDS, Case, cases, relative_error
from univa_kernels import contrastive_terms, use_backend, va_supcon_loss

pytestmark = pytest.mark.parametrize("backend", BACKENDS)

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def upstream(rows):
    """Gradients from above that differ from row to row and change sign."""
    return torch.linspace(-1, 2, rows, dtype=torch.float64)


def evaluate(case, backend, dtype, device="cpu"):
    """Losses, counts and gradients of a backend."""
    leaves = case.inputs(dtype, device)
    with use_backend(backend):
        losses, count = case.call(contrastive_terms, leaves)
        losses.backward(upstream(len(losses)).to(losses))
    return losses.detach(), count, [leaf.grad for leaf in leaves]


def expected(case, dtype):
    """The truth for inputs rounded to `dtype`."""
    leaves = tuple(
        leaf.detach().to(dtype).double().requires_grad_() for leaf in case.inputs(torch.float64)
    )
    losses, count = case.call(truth.contrastive_losses, leaves)
    losses.backward(upstream(len(losses)))
    return losses.detach(), count, [leaf.grad for leaf in leaves]


def naive_error(case, dtype, want):
    """Errors of the same formula in plain PyTorch at float32 (what a user would write)."""
    leaves = tuple(leaf.detach().to(dtype).float() for leaf in case.inputs(torch.float64))
    leaves = tuple(leaf.requires_grad_() for leaf in leaves)
    losses, _ = case.call(truth.contrastive_losses, leaves)
    losses.backward(upstream(len(losses)).float())
    grads = [leaf.grad.to(dtype) for leaf in leaves]
    return (
        relative_error(losses.detach(), want[0]),
        [relative_error(grad, true) for grad, true in zip(grads, want[2], strict=True)],
    )


# A few units in the last place of the result's own dtype.
HAIR = {
    torch.float64: 1e-12,
    torch.float32: 2e-6,
    torch.bfloat16: 2**-8,
    torch.float16: 2**-10,
}


def check(case, backend, dtype, device="cpu"):
    """The relative oracle: no worse than plain PyTorch's own float32 error, plus a hair."""
    want = expected(case, dtype)
    losses, count, grads = evaluate(case, backend, dtype, device)
    torch.testing.assert_close(count.double().cpu(), want[1], rtol=1e-6, atol=0)
    loss_bound, grad_bounds = 0.0, [0.0] * len(grads)
    if dtype != torch.float64:
        loss_bound, grad_bounds = naive_error(case, dtype, want)
    # The loss itself is kept in float32 whatever the inputs' dtype.
    hair = HAIR[torch.float64] if dtype == torch.float64 else HAIR[torch.float32]
    assert relative_error(losses, want[0]) <= 2 * loss_bound + hair
    for grad, true, bound in zip(grads, want[2], grad_bounds, strict=True):
        assert grad.dtype == dtype
        assert relative_error(grad, true) <= 2 * bound + HAIR[dtype]


@settings(max_examples=60, deadline=None)
@given(case=cases(), dtype=st.sampled_from(DTYPES))
def test_matches_the_truth(backend, case, dtype):
    if dtype == torch.float16 and case.options["temperature"] < 0.05:
        case.options["temperature"] = 0.07  # gradients beyond 65504 are infinite in any code
    check(case, backend, dtype)


@pytest.mark.parametrize(("n", "m", "d"), [(300, 300, 70), (513, 1025, 33), (1, 1, 1), (2, 2, 3)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_larger_than_a_block(backend, n, m, d, dtype, monkeypatch):
    monkeypatch.setattr(univa_kernels.reference, "_BLOCK_ELEMENTS", 1 << 17)
    generator = torch.Generator().manual_seed(n)
    case = Case(
        torch.randn(n, d, generator=generator).double(),
        torch.rand(n, 2, generator=generator),
        {"temperature": 0.5, "radius": 0.1, "self_offset": 3},
        {
            "contrast_embeddings": torch.randn(m, d, generator=generator).double(),
            "contrast_coordinates": torch.rand(m, 2, generator=generator),
        },
    )
    check(case, backend, dtype)
    check(
        Case(case.embeddings, case.coordinates, {"temperature": 0.5, "radius": 0.1}), backend, dtype
    )


@pytest.mark.parametrize("temperature", [0.005, 0.07, 100.0])
def test_unnormalised_rows_stay_finite(backend, temperature):
    generator = torch.Generator().manual_seed(7)
    rows = torch.randn(30, 16, generator=generator)
    rows = 100 * rows / rows.norm(dim=1, keepdim=True)
    options = {"temperature": temperature, "radius": 0.3}
    case = Case(rows.double(), torch.rand(30, 2, generator=generator), options)
    check(case, backend, torch.float32)


def test_own_pair_does_not_set_the_maximum(backend):
    # Orthogonal rows of norm 1000: own logits 1e7, all others 0. SupContrast gives NaN here.
    embeddings = (1000 * torch.eye(6)).requires_grad_()
    with use_backend(backend):
        loss = va_supcon_loss(embeddings, torch.zeros(6, 2), temperature=0.1)
    loss.backward()
    torch.testing.assert_close(loss.item(), torch.tensor(5.0).log().item())
    assert embeddings.grad.isfinite().all()


def test_distance_of_exactly_the_radius_is_no_positive(backend):
    for dtype in (torch.float32, torch.float64):
        coordinates = torch.tensor([[0.0, 0.0], [0.1, 0.0], [0.05, 0.0]], dtype=dtype)
        with use_backend(backend):
            _, count = contrastive_terms(torch.eye(3), coordinates, radius=0.1)
        assert count.tolist() == [1, 1, 2]


def test_nan_in_one_row_reaches_the_loss(backend):
    embeddings = torch.randn(9, 4)
    embeddings[4, 2] = float("nan")
    with use_backend(backend):
        losses, _ = contrastive_terms(embeddings, torch.zeros(9, 2))
        assert losses.isnan().all()
        assert va_supcon_loss(embeddings, torch.zeros(9, 2)).isnan()


def test_policies_for_anchors_without_positives(backend):
    embeddings = torch.randn(3, 4)
    coordinates = torch.tensor([[0.0], [0.0], [5.0]])
    with use_backend(backend):
        rows = va_supcon_loss(embeddings, coordinates, reduction="none")
        skip = va_supcon_loss(embeddings, coordinates)
        zero = va_supcon_loss(embeddings, coordinates, no_positives="zero")
        total = va_supcon_loss(embeddings, coordinates, reduction="sum")
        with pytest.raises(ValueError, match="anchor 2 has no positive"):
            va_supcon_loss(embeddings, coordinates, no_positives="error")
    assert rows[2] == 0
    torch.testing.assert_close(total, rows.sum())
    torch.testing.assert_close(skip, rows[:2].mean())
    torch.testing.assert_close(zero, rows.mean())


def test_no_positive_anywhere_is_zero_with_zero_gradient(backend):
    embeddings = torch.randn(3, 4, requires_grad=True)
    with use_backend(backend):
        loss = va_supcon_loss(embeddings, torch.arange(3.0))
    loss.backward()
    assert loss.item() == 0
    assert embeddings.grad.eq(0).all()


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0), (1, 4)])
def test_empty_and_single_inputs(backend, shape):
    embeddings = torch.randn(shape, requires_grad=True)
    with use_backend(backend):
        loss = va_supcon_loss(embeddings, torch.zeros(shape[0], 2))
    loss.backward()
    assert loss.isfinite()
    assert embeddings.grad.shape == shape


def test_an_empty_contrast_set_gives_no_loss(backend):
    with use_backend(backend):
        losses, count = contrastive_terms(
            torch.randn(3, 4),
            torch.zeros(3, 2),
            contrast_embeddings=torch.randn(0, 4),
            contrast_coordinates=torch.zeros(0, 2),
        )
    assert losses.tolist() == [0, 0, 0]
    assert count.tolist() == [0, 0, 0]


def test_integer_labels_as_coordinates(backend):
    embeddings, classes = torch.randn(12, 5), torch.arange(12) % 3
    with use_backend(backend):
        by_class = va_supcon_loss(embeddings, classes, radius=0.5)
        by_float = va_supcon_loss(embeddings, classes[:, None].double(), radius=0.5)
    torch.testing.assert_close(by_class, by_float)


def test_non_contiguous_inputs(backend):
    generator = torch.Generator().manual_seed(8)
    wide = torch.randn(10, 14, generator=generator)
    for view in (wide[:, ::2], wide.T, wide[:, :1].expand(10, 6)):
        points = torch.rand(2, len(view), generator=generator).T
        with use_backend(backend):
            a = va_supcon_loss(view, points, radius=0.4)
            b = va_supcon_loss(view.contiguous(), points.contiguous(), radius=0.4)
        # BLAS may sum in another order where rows are strided.
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_only_what_needs_a_gradient_gets_one(backend):
    anchors, others = torch.randn(5, 3), torch.randn(7, 3, requires_grad=True)
    with use_backend(backend):
        va_supcon_loss(
            anchors,
            torch.zeros(5, 2),
            contrast_embeddings=others,
            contrast_coordinates=torch.zeros(7, 2),
        ).backward()
    assert others.grad.abs().sum() > 0


def test_gradient_check(backend):
    generator = torch.Generator().manual_seed(3)
    for case in (
        Case(torch.randn(7, 3, generator=generator).double(), torch.rand(7, 2), {"radius": 0.5}),
        Case(
            torch.randn(5, 3, generator=generator).double(),
            torch.rand(5, 2),
            {"radius": 0.5, "self_weight": 0.5, "self_offset": 1},
            {
                "contrast_embeddings": torch.randn(6, 3, generator=generator).double(),
                "contrast_coordinates": torch.rand(6, 2),
            },
        ),
    ):
        with use_backend(backend):
            assert torch.autograd.gradcheck(
                lambda *leaves, case=case: case.call(contrastive_terms, leaves)[0],
                case.inputs(torch.float64),
            )


def test_second_derivatives_work_or_are_refused(backend):
    embeddings = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    coordinates = torch.rand(5, 2)

    def loss(leaf):
        return va_supcon_loss(leaf, coordinates, radius=0.7, temperature=0.7)

    with use_backend(backend):
        if backend == "reference":
            assert torch.autograd.gradgradcheck(loss, (embeddings,))
        else:
            (first,) = torch.autograd.grad(loss(embeddings), embeddings, create_graph=True)
            with pytest.raises(RuntimeError, match="differentiated once only"):
                first.sum().backward()


def test_same_bits_on_every_repeat(backend):
    embeddings = torch.randn(200, 32, requires_grad=True)
    coordinates = torch.rand(200, 2)
    results = []
    with use_backend(backend):
        for _ in range(3):
            loss = va_supcon_loss(embeddings, coordinates)
            results.append((loss, *torch.autograd.grad(loss, embeddings)))
    assert all(
        torch.equal(a, b) for run in results[1:] for a, b in zip(run, results[0], strict=True)
    )
