"""Policies, edge cases and refusals of the contrastive loss, on every backend."""

import pytest
import torch

from tests.kernels import truth
from tests.kernels.cases import BACKENDS
from univa_kernels import VASupConLoss, contrastive_terms, univa_loss, use_backend, va_supcon_loss

pytestmark = pytest.mark.parametrize("backend", BACKENDS)


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


def test_an_infinite_upstream_gradient_stays_in_its_row(backend):
    coordinates = torch.tensor([0.0, 0.0, 5.0])  # the last one has no positive
    temperature = torch.tensor(0.5, requires_grad=True)
    rows = torch.randn(3, 4, requires_grad=True)
    with use_backend(backend):
        losses, _ = contrastive_terms(rows, coordinates, temperature=temperature)
        losses.backward(torch.tensor([1.0, 2.0, float("inf")]))
    assert temperature.grad.isfinite()
    assert rows.grad.isfinite().all()


def test_function_transforms_differentiate(backend):
    rows, va = torch.randn(6, 3), torch.rand(6, 2)
    with use_backend(backend):
        by_transform = torch.func.grad(lambda leaf: va_supcon_loss(leaf, va, radius=0.5))(rows)
        leaf = rows.clone().requires_grad_()
        va_supcon_loss(leaf, va, radius=0.5).backward()
        torch.testing.assert_close(by_transform, leaf.grad)
        logits, labels = torch.randn(6, 4), torch.ones(6, 4)
        of_logits = torch.func.grad(
            lambda scores: univa_loss(scores, labels, {"text": rows}, {"text": va}).total
        )(logits)
    assert of_logits.isfinite().all()
    assert of_logits.abs().sum() > 0
