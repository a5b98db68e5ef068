"""The contrastive loss of every backend against a float64 truth over all pairs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import univa_kernels
from tests.kernels import truth
from tests.kernels.cases import BACKENDS, Case, cases, relative_error
from univa_kernels import VASupConLoss, contrastive_terms, use_backend, va_supcon_loss

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
    return losses.detach(), count, {name: leaf.grad for name, leaf in leaves.items()}


def in_plain_pytorch(case, dtype, compute):
    """The formula over all pairs for inputs rounded to `dtype`, computed in dtype `compute`."""
    rounded = case.inputs(dtype)
    leaves = {name: leaf.detach().to(compute) for name, leaf in rounded.items()}
    leaves = {name: leaf.requires_grad_() for name, leaf in leaves.items()}
    losses, count = case.call(truth.contrastive_losses, leaves)
    losses.backward(upstream(len(losses)).to(compute))
    grads = {name: leaf.grad.to(rounded[name].dtype) for name, leaf in leaves.items()}
    return losses.detach(), count, grads


def expected(case, dtype):
    """The truth: float64 throughout."""
    rounded = case.inputs(dtype)
    leaves = {name: leaf.detach().double().requires_grad_() for name, leaf in rounded.items()}
    losses, count = case.call(truth.contrastive_losses, leaves)
    losses.backward(upstream(len(losses)))
    return losses.detach(), count, {name: leaf.grad for name, leaf in leaves.items()}


def naive_error(case, dtype, want):
    """Errors of the same formula in plain PyTorch at float32 (what a user would write)."""
    losses, _, grads = in_plain_pytorch(case, dtype, torch.float32)
    return (
        relative_error(losses, want[0]),
        {name: relative_error(grad, want[2][name]) for name, grad in grads.items()},
    )


# A few units in the last place of the result's own dtype.
HAIR = {
    torch.float64: 1e-12,
    torch.float32: 2e-6,
    torch.bfloat16: 2**-8,
    torch.float16: 2**-10,
}


def largest_logit(case):
    """Size of what a loss is the difference of."""
    temperature = case.options.get("temperature") or case.extra["temperature"].item()
    rows = [case.embeddings, case.extra.get("contrast_embeddings", case.embeddings)]
    if case.options.get("normalize"):
        return 1 / temperature
    return (rows[0] @ rows[1].T).abs().amax().item() / temperature


def spread(case, name):
    """Size of the terms that a gradient sums: where they cancel, rounding is relative to it."""
    temperature = case.options.get("temperature") or case.extra["temperature"].item()
    if name == "temperature":
        return len(case.embeddings) * largest_logit(case) / temperature
    contrast = case.extra.get("contrast_embeddings", case.embeddings)
    if case.options.get("normalize"):
        rows = case.embeddings if name == "embeddings" else contrast
        return 1 / temperature / rows.norm(dim=1).clamp(min=1e-3).min().item()
    if name == "contrast_embeddings":
        contrast = case.embeddings
    return contrast.abs().amax().item() / temperature


def check(case, backend, dtype, device="cpu"):
    """The relative oracle: no worse than plain PyTorch's own float32 error, plus a hair."""
    want = expected(case, dtype)
    losses, count, grads = evaluate(case, backend, dtype, device)
    # exp(-x) of float32 x is as exact as x.
    far = 1e-4 if case.options.get("sigma") else 1e-6
    torch.testing.assert_close(count.double().cpu(), want[1], rtol=far, atol=1e-37)
    loss_bound, grad_bounds = 0.0, dict.fromkeys(grads, 0.0)
    if dtype != torch.float64:
        loss_bound, grad_bounds = naive_error(case, dtype, want)
    # The loss itself is kept in float32 whatever the inputs' dtype.
    hair = HAIR[torch.float64] if dtype == torch.float64 else HAIR[torch.float32]
    size = want[0].abs().amax().item()
    error = (losses.double().cpu() - want[0]).abs().amax().item()
    # A loss is a difference: where it cancels, rounding is relative to what it is made of.
    assert error <= 2 * loss_bound * size + hair * max(size, 0.1 * largest_logit(case))
    for name, grad in grads.items():
        kept = torch.promote_types(dtype, torch.float32) if name == "temperature" else dtype
        assert grad.dtype == kept
        true = want[2][name]
        error = (grad.double().cpu() - true).abs().amax().item() if true.numel() else 0.0
        # That of the temperature is a difference of two expected logits.
        terms = (0.1 if name == "temperature" else 1e-3) * spread(case, name)
        size = max(true.abs().amax().item(), terms) if true.numel() else 0.0
        # Not `error > bound`: NaN has to fail.
        assert error <= 2 * grad_bounds[name] * size + HAIR[dtype] * size, name


@settings(max_examples=60, deadline=None)
@given(case=cases(), dtype=st.sampled_from(DTYPES))
def test_matches_the_truth(backend, case, dtype):
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


def test_nan_in_coordinates_is_seen_where_they_weigh(backend):
    coordinates = torch.rand(5, 2)
    coordinates[1, 0] = float("nan")
    with use_backend(backend):
        # A sample nowhere is nobody's positive by radius; by gaussian weight it is NaN to all.
        _, count = contrastive_terms(torch.eye(5), coordinates, radius=2.0)
        assert count.tolist() == [3, 0, 3, 3, 3]
        assert va_supcon_loss(torch.eye(5), coordinates, sigma=0.5).isnan()


def test_nan_in_a_row_without_positives_is_not_dropped(backend):
    embeddings = torch.randn(4, 3)
    embeddings[2] = float("nan")
    with use_backend(backend):
        loss = va_supcon_loss(
            embeddings,
            torch.tensor([0.0, 0.0, 50.0, 0.0]),
            contrast_embeddings=torch.randn(5, 3),
            contrast_coordinates=torch.zeros(5),
        )
    assert loss.isnan()


@pytest.mark.parametrize("sigma", [1e-25, 1e200])
def test_extreme_widths(backend, sigma):
    rows, coordinates = torch.randn(4, 3), torch.tensor([0.0, 0.0, 1.0, 1.0])
    with use_backend(backend):
        _, count = contrastive_terms(rows, coordinates, sigma=sigma)
    assert count.tolist() == [1.0 if sigma < 1 else 3.0] * 4


def test_forward_mode_is_refused(backend):
    rows, va = torch.randn(4, 3), torch.rand(4, 2)
    with use_backend(backend), pytest.raises(RuntimeError, match=r"forward|jvp"):
        torch.func.jvp(lambda leaf: va_supcon_loss(leaf, va), (rows,), (rows,))


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


def test_the_graph_can_be_walked_twice(backend):
    embeddings = torch.randn(6, 3, requires_grad=True)
    with use_backend(backend):
        loss = va_supcon_loss(embeddings, torch.rand(6, 2), radius=0.5)
    (first,) = torch.autograd.grad(loss, embeddings, retain_graph=True)
    (second,) = torch.autograd.grad(loss, embeddings)
    assert torch.equal(first, second)


@pytest.mark.parametrize("anchor_views", ["all", "one"])
@pytest.mark.parametrize("sample_weights", [False, True])
def test_views_are_more_samples_at_the_same_place(backend, anchor_views, sample_weights):
    generator = torch.Generator().manual_seed(2)
    views = torch.randn(7, 3, 5, generator=generator).double().requires_grad_()
    va = torch.rand(7, 2, generator=generator)
    groups = torch.arange(7) // 2
    weights = torch.rand(7, generator=generator).double() if sample_weights else None
    options = {"temperature": 0.4, "radius": 0.3, "groups": groups, "anchor_views": anchor_views}
    with use_backend(backend):
        rows = va_supcon_loss(views, va, reduction="none", **options)
        mean = va_supcon_loss(views, va, sample_weights=weights, **options)
    order = [(sample, view) for view in range(3) for sample in range(7)]
    flat = torch.stack([views[sample, view] for sample, view in order])
    where = torch.tensor([sample for sample, _ in order])
    losses, count = truth.contrastive_losses(
        flat, va[where], temperature=0.4, radius=0.3, groups=groups[where]
    )
    assert count.gt(0).all()
    if anchor_views == "all":
        expected_rows = losses.view(3, 7).T
        expected_weights = None if weights is None else weights[:, None].expand(7, 3)
    else:
        expected_rows, expected_weights = losses[:7], weights
    torch.testing.assert_close(rows, expected_rows)
    if expected_weights is None:
        torch.testing.assert_close(mean, expected_rows.mean())
    else:
        average = (expected_weights * expected_rows).sum() / expected_weights.sum()
        torch.testing.assert_close(mean, average)


def test_sample_weights_scale_losses_and_divide_the_mean(backend):
    rows, weights = torch.randn(4, 3), torch.tensor([2.0, 0.0, 1.0, 5.0])
    coordinates = torch.tensor([0.0, 0.0, 0.0, 9.0])  # the last one has no positive
    with use_backend(backend):
        plain = va_supcon_loss(rows, coordinates, reduction="none")
        options = {"sample_weights": weights}
        each = va_supcon_loss(rows, coordinates, reduction="none", **options)
        total = va_supcon_loss(rows, coordinates, reduction="sum", **options)
        skip = va_supcon_loss(rows, coordinates, **options)
        zero = va_supcon_loss(rows, coordinates, no_positives="zero", **options)
        nothing = va_supcon_loss(rows, coordinates, sample_weights=torch.zeros(4))
    torch.testing.assert_close(each, plain * weights)
    torch.testing.assert_close(total, (plain * weights).sum())
    torch.testing.assert_close(skip, (plain * weights).sum() / 3)
    torch.testing.assert_close(zero, (plain * weights).sum() / 8)
    assert nothing.item() == 0


def test_class_multilabel_and_vad_constructors(backend):
    rows = torch.randn(12, 6).double()
    with use_backend(backend):
        classes = torch.arange(12) % 3
        got = VASupConLoss.for_classes(0.5, reduction="none")(rows, classes)
        want, _ = truth.contrastive_losses(
            rows, classes[:, None].double(), temperature=0.5, radius=0.5
        )
        torch.testing.assert_close(got, want)

        bits = torch.randint(0, 2, (12, 6))
        apart = (bits[:, None] != bits[None]).sum(2)
        for limit in (0, 1, 2):
            _, count = contrastive_terms(rows, bits, radius=(limit + 0.5) ** 0.5)
            assert count.tolist() == ((apart <= limit).sum(1) - 1).tolist()
            loss = VASupConLoss.for_multilabel(0.5, max_hamming=limit)
            assert loss.radius == (limit + 0.5) ** 0.5

        vad = torch.rand(12, 3)
        got = VASupConLoss(0.5, 0.4, reduction="none")(rows, vad)
        want, _ = truth.contrastive_losses(rows, vad, temperature=0.5, radius=0.4)
        torch.testing.assert_close(got, want)


def test_a_loss_of_zero_is_not_left_out(backend):
    # Two samples, each the other's only pair: the loss is log 1 = 0, and it counts in the mean.
    rows = torch.randn(4, 3).double()
    groups = torch.tensor([0, 0, 0, 0])
    coordinates = torch.tensor([0.0, 0.0, 4.0, 5.0])
    with use_backend(backend):
        losses, count = contrastive_terms(rows[:2], coordinates[:2])
        assert count.tolist() == [1, 1]
        torch.testing.assert_close(losses, torch.zeros(2).double())
        loss = va_supcon_loss(rows, torch.tensor([0.0, 0.0, 5.0, 5.0]), no_positives="error")
        assert loss > 0
        _, none_left = contrastive_terms(rows, coordinates, groups=groups, group_pairs="exclude")
    assert none_left.tolist() == [0, 0, 0, 0]


def test_learned_temperature_trains_a_module(backend):
    loss = VASupConLoss(0.5, 0.5, learn_temperature=True, normalize=True)
    rows, va = torch.randn(20, 8), torch.rand(20, 2)
    with use_backend(backend):
        loss(rows, va).backward()
        small = 1e-2
        changed = [
            va_supcon_loss(
                rows.double(),
                va,
                temperature=0.5 * 2.718281828 ** (sign * small),
                radius=0.5,
                normalize=True,
            )
            for sign in (-1, 1)
        ]
    slope = (changed[1] - changed[0]) / (2 * small)
    torch.testing.assert_close(loss.log_temperature.grad.double(), slope, rtol=1e-3, atol=1e-5)
    assert [name for name, _ in loss.named_parameters()] == ["log_temperature"]


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_autocast_leaves_the_loss_alone(backend, kind):
    linear, va = torch.nn.Linear(6, 5), torch.rand(9, 2)
    rows = torch.randn(9, 6)
    with use_backend(backend), torch.autocast("cpu", kind):
        hidden = linear(rows)
        assert hidden.dtype == kind
        inside = va_supcon_loss(hidden, va, radius=0.5)
        full = va_supcon_loss(rows, va, radius=0.5)
    with use_backend(backend):
        assert torch.equal(inside, va_supcon_loss(hidden, va, radius=0.5))
        assert torch.equal(full, va_supcon_loss(rows, va, radius=0.5))
    inside.backward()
    assert linear.weight.grad.isfinite().all()
    assert inside.dtype == torch.float32


def test_vmap_is_refused_clearly(backend):
    with use_backend(backend), pytest.raises(RuntimeError, match=r"do not run under torch\.vmap"):
        torch.vmap(va_supcon_loss)(torch.randn(2, 4, 3), torch.rand(2, 4, 2))


@pytest.mark.parametrize("normalize", [False, True])
def test_all_rows_identical_and_one_row_far_away(backend, normalize):
    generator = torch.Generator().manual_seed(4)
    same = torch.ones(20, 6).double()
    far = torch.cat((torch.randn(19, 6, generator=generator), torch.full((1, 6), 1e4))).double()
    for rows in (same, far):
        options = {"temperature": 0.1, "radius": 0.5, "normalize": normalize}
        case = Case(rows, torch.rand(20, 2, generator=generator), options)
        check(case, backend, torch.float64)
        check(case, backend, torch.float32)


def test_no_row_of_the_gradient_is_lost(backend):
    generator = torch.Generator().manual_seed(6)
    case = Case(
        torch.randn(1100, 9, generator=generator).double(),
        torch.rand(1100, 2, generator=generator),
        {"temperature": 0.5, "radius": 0.2},
    )
    _, _, grads = evaluate(case, backend, torch.float32)
    _, _, true = expected(case, torch.float32)
    sizes = grads["embeddings"].norm(dim=1).double() / true["embeddings"].norm(dim=1)
    torch.testing.assert_close(sizes, torch.ones(1100).double(), rtol=1e-3, atol=0)


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
            leaves = case.inputs(torch.float64)
            assert torch.autograd.gradcheck(
                lambda *values, case=case, names=tuple(leaves): case.call(
                    contrastive_terms, dict(zip(names, values, strict=True))
                )[0],
                tuple(leaves.values()),
            )


def test_second_derivatives_work_or_are_refused(backend):
    embeddings = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    coordinates = torch.rand(5, 2)
    temperature = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    def loss(leaf, tau):
        return va_supcon_loss(leaf, coordinates, radius=0.7, temperature=tau, normalize=True)

    with use_backend(backend):
        if backend == "reference":
            assert torch.autograd.gradgradcheck(loss, (embeddings, temperature))
        else:
            value = loss(embeddings, 0.7)
            (first,) = torch.autograd.grad(value, embeddings, create_graph=True)
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
