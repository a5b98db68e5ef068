"""SupContrast's call: agreement with Khosla et al., Eq. 2, written out anchor by anchor."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from univa_kernels.compat.supcontrast import SupConLoss


def khosla(features, positive, mode, temperature, base_temperature):
    """Eq. 2: mean over anchors of -1/|P(i)| sum_p log(exp(z_i.z_p/t) / sum_a exp(z_i.z_a/t)).

    `positive[i, j]` is the weight of sample j as a positive of sample i; features are float64.
    """
    batch, views = features.shape[:2]
    rows = [(v, i) for v in range(views) for i in range(batch)]
    anchors = rows if mode == "all" else rows[:batch]
    total = features.new_zeros(())
    for v, i in anchors:
        others = [(u, j) for u, j in rows if (u, j) != (v, i)]
        weights = [float(positive[i, j]) for _, j in others]
        if sum(weights) == 0:
            continue
        logits = torch.stack([features[i, v] @ features[j, u] for u, j in others]) / temperature
        total = total - (
            torch.tensor(weights, dtype=logits.dtype) * logits.log_softmax(0)
        ).sum() / sum(weights)
    return temperature / base_temperature * total / len(anchors)


@st.composite
def calls(draw):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    batch, views = draw(st.integers(1, 7)), draw(st.integers(1, 3))
    shape = (batch, views, *draw(st.sampled_from([(1,), (5,), (2, 3)])))
    features = torch.randn(shape, generator=generator, dtype=torch.float64)
    features = features / features.flatten(2).norm(dim=2).view(batch, views, *[1] * len(shape[2:]))
    labels = torch.randint(0, draw(st.integers(1, 4)), (batch,), generator=generator)
    options = {
        "temperature": draw(st.sampled_from([0.07, 0.5, 2.0])),
        "contrast_mode": draw(st.sampled_from(["all", "one"])),
        "base_temperature": draw(st.sampled_from([0.07, 1.0])),
    }
    return features, labels, options, generator


def agree(features, positive, options, **given):
    leaves = [features.clone().requires_grad_() for _ in range(2)]
    loss = SupConLoss(**options)(leaves[0], **given)
    expected = khosla(
        leaves[1].flatten(2),
        positive,
        options["contrast_mode"],
        options["temperature"],
        options["base_temperature"],
    )
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(loss, leaves[0])
    assert torch.isfinite(gradient).all()
    if expected.requires_grad:
        (expected_gradient,) = torch.autograd.grad(expected, leaves[1])
        assert (gradient - expected_gradient).abs().max() < 1e-10


@settings(max_examples=40, deadline=None)
@given(calls())
def test_labels(call):
    features, labels, options, _ = call
    agree(features, labels[:, None] == labels[None, :], options, labels=labels)


@settings(max_examples=15, deadline=None)
@given(calls())
def test_neither_is_simclr(call):
    features, _, options, _ = call
    agree(features, torch.eye(len(features)), options)


@settings(max_examples=30, deadline=None)
@given(calls(), st.sampled_from(["classes", "any", "weights"]))
def test_mask(call, kind):
    features, labels, options, generator = call
    batch = len(features)
    mask = {
        "classes": labels[:, None] == labels[None, :],
        "any": torch.randint(0, 2, (batch, batch), generator=generator),
        "weights": torch.rand(batch, batch, generator=generator, dtype=torch.float64),
    }[kind]
    agree(features, mask, options, mask=mask)


def test_simclr_is_cross_entropy_on_the_other_view():
    views = F.normalize(torch.randn(6, 2, 4, dtype=torch.float64), dim=2)
    rows = torch.cat((views[:, 0], views[:, 1]))
    logits = (rows @ rows.T / 0.2).masked_fill(torch.eye(12, dtype=torch.bool), -math.inf)
    expected = F.cross_entropy(logits, torch.arange(12).roll(6))
    torch.testing.assert_close(SupConLoss(0.2, base_temperature=0.2)(views), expected)


def test_a_long_row_gives_a_number():
    # exp(own - largest) is 0 in float32 for every other pair: nothing is left of a sum that
    # subtracts the largest product over all.
    features = torch.randn(6, 2, 8, generator=torch.Generator().manual_seed(1)) * 30
    labels = torch.arange(6) % 2
    loss = SupConLoss(0.05)(features, labels)
    expected = khosla(features.double(), labels[:, None] == labels, "all", 0.05, 0.07)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    mask = labels[:, None] == labels
    torch.testing.assert_close(SupConLoss(0.05)(features, mask=mask), loss, rtol=1e-5, atol=0)


def test_columns_of_labels_and_half_precision():
    features = F.normalize(torch.randn(6, 2, 8), dim=2)
    labels = torch.arange(6) % 2
    loss = SupConLoss()(features, labels)
    assert torch.equal(SupConLoss()(features, labels[:, None]), loss)
    mask = labels[:, None] == labels
    for half in (
        SupConLoss()(features.bfloat16(), labels),
        SupConLoss()(features.bfloat16(), mask=mask),
    ):
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, loss, rtol=0.05, atol=0.05)


FEATURES = torch.randn(4, 2, 3)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "temperature must be", lambda: SupConLoss(0)),
        (ValueError, "base_temperature must be", lambda: SupConLoss(base_temperature=0)),
        (ValueError, "contrast_mode must be one of", lambda: SupConLoss(contrast_mode="some")),
        (ValueError, r"\[B, V, ...\]", lambda: SupConLoss()(FEATURES[:, 0])),
        (ValueError, "V >= 1", lambda: SupConLoss()(FEATURES[:, :0])),
        (TypeError, "features must be a tensor", lambda: SupConLoss()([1.0])),
        (
            ValueError,
            "exclude each other",
            lambda: SupConLoss()(FEATURES, torch.arange(4), torch.eye(4)),
        ),
        (TypeError, "labels must be integers", lambda: SupConLoss()(FEATURES, torch.rand(4))),
        (TypeError, "labels must be an integer", lambda: SupConLoss()(FEATURES, [0, 1, 0, 1])),
        (ValueError, "labels must have shape", lambda: SupConLoss()(FEATURES, torch.arange(3))),
        (ValueError, "mask must have shape", lambda: SupConLoss()(FEATURES, mask=torch.eye(3))),
        (TypeError, "mask must be a tensor", lambda: SupConLoss()(FEATURES, mask=[[1]])),
    ],
)
def test_refuses(error, message, call):
    with pytest.raises(error, match=message):
        call()
