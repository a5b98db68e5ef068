"""Metrics against the authors' numbers and against a plain definition."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from univa.metrics import (
    choose_thresholds_on_validation,
    compute_metrics,
    decide,
    jaccard_accuracy,
    threshold_grid,
)

SHAPES = st.tuples(st.integers(1, 12), st.integers(2, 5))


def f1(hits: float, wrong: float) -> float:
    """2 TP / (2 TP + FP + FN), 0 where nothing is there."""
    return 2 * hits / (2 * hits + wrong) if hits + wrong else 0.0


def plain(predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The definitions, sample by sample and label by label."""
    accuracy = []
    for row, true in zip(predictions, labels, strict=True):
        either = sum(bool(a or b) for a, b in zip(row, true, strict=True))
        both = sum(bool(a and b) for a, b in zip(row, true, strict=True))
        accuracy.append(both / either if either else 0.0)
    label_f1 = [
        f1(float(np.sum(p & t)), float(np.sum(p != t)))
        for p, t in zip(predictions.T == 1, labels.T == 1, strict=True)
    ]
    hits, wrong = float(np.sum(predictions * labels)), float(np.sum(predictions != labels))
    return {
        "accuracy": float(np.mean(accuracy)),
        "hamming_loss": wrong / labels.size,
        "micro_f1": f1(hits, wrong),
        "macro_f1": float(np.mean(label_f1)),
        "label_f1": dict(enumerate(label_f1)),
    }


@settings(deadline=None)
@given(st.data())
def test_plain_definition(data):
    shape = data.draw(SHAPES)
    bits = arrays(np.int64, shape, elements=st.integers(0, 1))
    predictions, labels = data.draw(bits), data.draw(bits)
    dtype = data.draw(st.sampled_from([torch.float32, torch.bool, torch.int64]))
    metrics = compute_metrics(
        torch.from_numpy(predictions).to(dtype), torch.from_numpy(labels), range(shape[1])
    )
    expected = plain(predictions, labels)
    for name, value in metrics.to_dict().items():
        assert value == pytest.approx(expected[name], abs=1e-6), name


def test_nothing_for_nothing_scores_zero():
    empty = torch.zeros(1, 3)
    assert jaccard_accuracy(empty, empty) == 0
    assert jaccard_accuracy(torch.tensor([[0, 0], [1, 1]]), torch.tensor([[0, 0], [1, 0]])) == 0.25


@pytest.mark.parametrize(
    ("predictions", "labels"), [((3, 2), (4, 2)), ((0, 2), (0, 2)), ((3, 3), (3, 3)), ((4,), (4,))]
)
def test_mismatched_shapes(predictions, labels):
    with pytest.raises(ValueError, match="labels"):
        compute_metrics(torch.zeros(predictions), torch.zeros(labels), ("a", "b"))


def test_decision_is_strict():
    thresholds = torch.tensor([0.5, 0.25])
    decided = decide(torch.tensor([[0.5, 0.26], [0.51, 0.25]]), thresholds)
    assert decided.tolist() == [[False, True], [True, False]]


def objective_of(probabilities, labels, thresholds, objective: str) -> float:
    expected = plain(decide(probabilities, thresholds).int().numpy(), labels.int().numpy())
    expected["mean_f1"] = (expected["micro_f1"] + expected["macro_f1"]) / 2
    return expected[objective]


@settings(deadline=None, max_examples=40)
@given(
    shape=SHAPES,
    seed=st.integers(0, 10**6),
    objective=st.sampled_from(["micro_f1", "macro_f1", "mean_f1"]),
)
def test_threshold_search(shape, seed, objective):
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.rand(shape, generator=generator)
    labels = (torch.rand(shape, generator=generator) < 0.4).float()
    grid = threshold_grid(0.1)
    assert grid.tolist() == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]

    def search(kind):
        thresholds = choose_thresholds_on_validation(
            probabilities, labels, search=kind, objective=objective, grid=grid
        )
        return thresholds, objective_of(probabilities, labels, thresholds, objective)

    shared, shared_score = search("shared")
    every = [objective_of(probabilities, labels, t.expand(shape[1]), objective) for t in grid]
    assert shared_score == pytest.approx(max(every), abs=1e-12)
    assert shared.tolist() == [grid[int(np.argmax(np.round(every, 12)))]] * shape[1]

    own, own_score = search("per-label")
    assert own_score >= shared_score - 1e-12
    for label in range(shape[1]):  # no single label can do better
        for threshold in grid:
            moved = own.clone()
            moved[label] = threshold
            assert objective_of(probabilities, labels, moved, objective) <= own_score + 1e-12


def test_fixed_threshold_looks_at_nothing():
    thresholds = choose_thresholds_on_validation(
        torch.full((2, 3), torch.nan), torch.zeros(2, 3), search="fixed", fixed=0.18
    )
    assert thresholds.tolist() == [0.18] * 3
