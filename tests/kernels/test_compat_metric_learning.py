"""pytorch-metric-learning's call: the package itself where its semantics are defined.

Each difference that the docstring lists has a test that shows both sides.
"""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from univa_kernels.compat.metric_learning import SupConLoss

originals = pytest.importorskip(
    "pytorch_metric_learning.losses", reason="pip install pytorch-metric-learning"
)
distances = pytest.importorskip("pytorch_metric_learning.distances")
reducers = pytest.importorskip("pytorch_metric_learning.reducers")


def rows(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def values_and_gradients(loss, embeddings, labels, ref_emb=None, ref_labels=None):
    leaves = [x.clone().requires_grad_() for x in (embeddings, ref_emb) if x is not None]
    if ref_emb is None:
        value = loss(leaves[0], labels)
    else:
        value = loss(leaves[0], labels, ref_emb=leaves[1], ref_labels=ref_labels)
    return value, torch.autograd.grad(value, leaves)


def agree(ours, theirs, *arguments, **references):
    value, gradients = values_and_gradients(ours, *arguments, **references)
    expected, expected_gradients = values_and_gradients(theirs, *arguments, **references)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-8, atol=1e-10)


@st.composite
def batches(draw):
    n, d = draw(st.integers(3, 16)), draw(st.integers(2, 8))
    embeddings = 3 * rows(n, d, seed=draw(st.integers(0, 2**31)))
    label = st.integers(-2, draw(st.integers(-1, 4)))
    labels = torch.tensor(draw(st.lists(label, min_size=n, max_size=n)))
    return embeddings, labels, draw(st.sampled_from([0.07, 0.1, 0.5, 3.0]))


def defined(positive):
    """Both kinds of pairs are there; no row has nothing but one positive, whose loss is 0."""
    return positive.any() and not positive.all() and len(positive[0]) > 2


@settings(max_examples=60, deadline=None)
@given(batches())
def test_within_a_batch(call):
    embeddings, labels, temperature = call
    positive = labels[:, None] == labels
    assume((positive.sum() > len(labels)) and defined(positive))
    agree(SupConLoss(temperature), originals.SupConLoss(temperature), embeddings, labels)


@settings(max_examples=60, deadline=None)
@given(batches(), batches())
def test_against_references(call, other):
    (embeddings, labels, temperature), (ref_emb, ref_labels, _) = call, other
    ref_emb = ref_emb[:, :1].expand(-1, embeddings.shape[1]) + rows(
        len(ref_emb), embeddings.shape[1], seed=5
    )
    assume(defined(labels[:, None] == ref_labels))
    agree(
        SupConLoss(temperature),
        originals.SupConLoss(temperature),
        embeddings,
        labels,
        ref_emb=ref_emb,
        ref_labels=ref_labels,
    )


@pytest.mark.parametrize("same", [True, False])
def test_references_with_the_labels_of_the_batch(same):
    labels = torch.tensor([0, 1, 0, 1, 2])
    ref_labels = labels if same else labels.clone()
    batch, references = rows(5, 4), rows(5, 4, seed=1)
    agree(
        SupConLoss(),
        originals.SupConLoss(),
        batch,
        labels,
        ref_emb=references,
        ref_labels=ref_labels,
    )


@pytest.mark.parametrize(
    "options",
    [
        {"reducer": reducers.MeanReducer()},
        {"reducer": reducers.SumReducer()},
        {"reducer": reducers.AvgNonZeroReducer()},
        {"distance": distances.CosineSimilarity()},
        {"distance": distances.DotProductSimilarity()},
        {"distance": distances.DotProductSimilarity(normalize_embeddings=False)},
        {"embedding_reg_weight": 2, "collect_stats": False},
    ],
)
def test_options(options):
    labels = torch.tensor([0, 1, 0, 1, 2, 3])
    agree(SupConLoss(0.2, **options), originals.SupConLoss(0.2, **options), rows(6, 4) / 2, labels)


def test_no_positives_is_zero_in_both():
    for loss in (SupConLoss(), originals.SupConLoss()):
        value, (gradient,) = values_and_gradients(loss, rows(4, 3), torch.arange(4))
        assert value == 0
        assert not gradient.any()


def test_single_class_has_a_loss():
    labels = torch.zeros(4, dtype=torch.long)
    value, (gradient,) = values_and_gradients(SupConLoss(), rows(4, 3), labels)
    unit = torch.nn.functional.normalize(rows(4, 3))
    off = ~torch.eye(4, dtype=torch.bool)
    logits = (unit @ unit.T / 0.1)[off].view(4, 3)
    torch.testing.assert_close(value, -logits.log_softmax(1).mean())
    assert gradient.abs().sum(1).min() > 0
    value, (gradient,) = values_and_gradients(originals.SupConLoss(), rows(4, 3), labels)
    assert value == 0
    assert not gradient.any()


def test_one_positive_and_one_negative_pair_have_a_loss():
    arguments = rows(1, 3), torch.tensor([0]), None, rows(2, 3, seed=1), torch.tensor([0, 1])
    assert SupConLoss()(*arguments) > 0
    assert originals.SupConLoss()(*arguments) == 0


def test_rows_of_zero_loss_stay_in_the_mean():
    # At this temperature the loss of the two equal rows rounds to 0 in float64.
    embeddings = torch.tensor(
        [[1.0, 0], [1, 0], [-1, 0.1], [-1, 0], [-1, 0.5], [-1, -0.5]], dtype=torch.float64
    )
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    value = SupConLoss(0.01)(embeddings, labels)
    dropped = originals.SupConLoss(0.01)(embeddings, labels)
    summed = SupConLoss(0.01, reducer=reducers.SumReducer())(embeddings, labels)
    assert summed > 0
    torch.testing.assert_close(value, summed / 6)
    torch.testing.assert_close(dropped, summed / 4)


def test_nan_stays_nan():
    embeddings, labels = rows(6, 3), torch.tensor([0, 0, 1, 1, 2, 2])
    references = {"ref_emb": rows(6, 3, seed=1), "ref_labels": labels.clone()}
    embeddings[5] = torch.nan
    assert SupConLoss()(embeddings, labels).isnan()
    assert SupConLoss()(embeddings, labels, **references).isnan()
    assert not originals.SupConLoss()(embeddings, labels, **references).isnan()


def test_labels_may_be_elsewhere_and_of_any_integer_kind():
    embeddings, labels = rows(6, 3), torch.tensor([0, 0, 1, 1, 0, 1])
    loss = SupConLoss()(embeddings, labels)
    for other in (labels.bool(), labels.int(), labels.to(torch.uint8)):
        assert torch.equal(SupConLoss()(embeddings, other), loss)
    agree(SupConLoss(), originals.SupConLoss(), embeddings, 2**40 + labels)


ROWS, LABELS = rows(4, 3), torch.tensor([0, 0, 1, 1])


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "temperature must be", lambda: SupConLoss(0)),
        (TypeError, "base_temperature", lambda: SupConLoss(base_temperature=1)),
        (ValueError, "got LpDistance", lambda: SupConLoss(distance=distances.LpDistance())),
        (
            ValueError,
            "p=2 and power=1",
            lambda: SupConLoss(distance=distances.CosineSimilarity(power=2)),
        ),
        (
            ValueError,
            "got ThresholdReducer",
            lambda: SupConLoss(reducer=reducers.ThresholdReducer(low=1)),
        ),
        (
            ValueError,
            "embedding_regularizer is not served",
            lambda: SupConLoss(embedding_regularizer=object()),
        ),
        (ValueError, "collect_stats is not served", lambda: SupConLoss(collect_stats=True)),
        (
            ValueError,
            "indices_tuple is not served",
            lambda: SupConLoss()(ROWS, LABELS, (LABELS,) * 3),
        ),
        (
            ValueError,
            "ref_emb and ref_labels go together",
            lambda: SupConLoss()(ROWS, LABELS, ref_emb=ROWS),
        ),
        (ValueError, r"embeddings must have shape", lambda: SupConLoss()(ROWS[0], LABELS)),
        (TypeError, "labels must be integers", lambda: SupConLoss()(ROWS, ROWS[:, 0])),
        (ValueError, "labels must have shape", lambda: SupConLoss()(ROWS, LABELS[:3])),
        (
            TypeError,
            "ref_labels must be integers",
            lambda: SupConLoss()(ROWS, LABELS, ref_emb=ROWS, ref_labels=ROWS[:, 0]),
        ),
    ],
)
def test_refuses(error, message, call):
    with pytest.raises(error, match=message):
        call()
