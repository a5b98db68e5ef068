"""Multi-label metrics and the choice of decision thresholds on the validation split.

Nothing here is rounded: every metric is in [0, 1]. The authors' tables: `round(value, 4) * 100`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor

__all__ = [
    "Metrics",
    "ThresholdObjective",
    "ThresholdSearch",
    "choose_thresholds_on_validation",
    "compute_metrics",
    "decide",
    "jaccard_accuracy",
    "threshold_grid",
]

ThresholdObjective = Literal["micro_f1", "macro_f1", "mean_f1"]
ThresholdSearch = Literal["fixed", "shared", "per-label", "either-or"]


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """What one split scores.

    Attributes:
        accuracy: sample-wise Jaccard index, see `jaccard_accuracy`.
        hamming_loss: share of the N x L decisions that are wrong.
        micro_f1: F1 of all decisions together.
        macro_f1: mean of `label_f1`.
        label_f1: F1 of each label, 0 where a label is neither present nor predicted.
    """

    accuracy: float
    hamming_loss: float
    micro_f1: float
    macro_f1: float
    label_f1: dict[str, float]

    def __str__(self) -> str:
        return (
            f"Acc {100 * self.accuracy:.1f}  HL {self.hamming_loss:.3f}  "
            f"miF1 {100 * self.micro_f1:.1f}  maF1 {100 * self.macro_f1:.1f}"
        )

    def to_dict(self) -> dict[str, float | dict[str, float]]:
        """The same as plain JSON types."""
        return asdict(self)


def jaccard_accuracy(predictions: Tensor, labels: Tensor) -> float:
    """Mean over samples of |predicted and true| / |predicted or true| (Acc in the paper).

    A sample without a label for which nothing is predicted scores 0, as in the authors' code.
    torchmetrics has the label-wise Jaccard index only, which is another number.

    Args:
        predictions: [N, L] of 0 and 1, any dtype. N is at least 1.
        labels: [N, L] of 0 and 1.

    Returns:
        A number in [0, 1].
    """
    predicted, true = predictions.bool(), labels.bool()
    both = (predicted & true).sum(dim=1, dtype=torch.float64)  # [N]
    either = (predicted | true).sum(dim=1, dtype=torch.float64)  # [N]
    return float((both / either.clamp(min=1)).mean())


def compute_metrics(predictions: Tensor, labels: Tensor, label_names: Sequence[str]) -> Metrics:
    """All metrics of one split.

    Args:
        predictions: [N, L] of 0 and 1, any dtype. N is at least 1.
        labels: [N, L] of 0 and 1.
        label_names: L names.

    Returns:
        The metrics, unrounded.

    Raises:
        ValueError: the shapes do not agree, or N is 0.
    """
    if predictions.shape != labels.shape or labels.dim() != 2:
        raise ValueError(
            f"predictions {list(predictions.shape)} and labels {list(labels.shape)} must both be "
            "[N, L]"
        )
    if labels.shape[0] == 0 or labels.shape[1] != len(label_names):
        raise ValueError(f"labels {list(labels.shape)} need N >= 1 rows, {len(label_names)} labels")
    # Here, because it takes seconds to import: it brings scipy, transformers and matplotlib.
    from torchmetrics.functional.classification import (
        multilabel_f1_score,
        multilabel_hamming_distance,
    )

    # Integers, because torchmetrics thresholds floats a second time.
    predicted, true = predictions.int(), labels.int()
    number = len(label_names)
    f1 = multilabel_f1_score(predicted, true, num_labels=number, average="none").double()
    return Metrics(
        accuracy=jaccard_accuracy(predictions, labels),
        hamming_loss=float(
            multilabel_hamming_distance(predicted, true, num_labels=number, average="micro")
        ),
        micro_f1=float(multilabel_f1_score(predicted, true, num_labels=number, average="micro")),
        macro_f1=float(f1.mean()),
        label_f1={name: float(value) for name, value in zip(label_names, f1, strict=True)},
    )


def decide(probabilities: Tensor, thresholds: Tensor) -> Tensor:
    """A label is predicted where its probability is above its threshold.

    Args:
        probabilities: [N, L] in [0, 1].
        thresholds: [L].

    Returns:
        [N, L] bool.
    """
    return probabilities > thresholds.to(probabilities)


def threshold_grid(step: float = 0.01) -> Tensor:
    """Thresholds to try: step, 2 step, ... below 1. [K] float64."""
    number = round(1 / step)
    return torch.arange(1, number, dtype=torch.float64) / number


def choose_thresholds_on_validation(
    probabilities: Tensor,
    labels: Tensor,
    *,
    search: ThresholdSearch,
    fixed: float = 0.18,
    objective: ThresholdObjective = "micro_f1",
    grid: Tensor | None = None,
) -> Tensor:
    """Thresholds that do best on the *validation* split. Never give it test data.

    "shared" tries each threshold of the grid for all labels at once. "per-label" starts there and
    then moves one label at a time to the threshold that does best, the others fixed, until no
    label moves. "either-or" is for two labels of which one holds and whose probabilities sum to 1:
    the one threshold for the second label that is right most often, the first label's being its
    complement, so that the accuracy is that of a decision between the two. Ties go to the smaller
    threshold for "shared", to the present one for "per-label" and to the middle one for
    "either-or", so the choice is deterministic.

    Args:
        probabilities: [N, L] in [0, 1], of the validation split.
        labels: [N, L] of 0 and 1, of the validation split.
        search: "fixed" returns `fixed` for every label and looks at nothing.
        fixed: the threshold without a search; 0.18 in the paper.
        objective: what to maximise; "mean_f1" is the mean of micro-F1 and macro-F1.
        grid: [K] thresholds to try; `threshold_grid()` when None.

    Returns:
        [L] float64 thresholds.
    """
    number = labels.shape[1]
    if search == "fixed":
        return torch.full((number,), fixed, dtype=torch.float64)
    grid = threshold_grid() if grid is None else grid
    if search == "either-or":
        right = (probabilities[:, 1, None] > grid) == labels[:, 1, None].bool()  # [N, K]
        counts = right.sum(dim=0)
        best = grid[counts == counts.max()]
        middle = best[len(best) // 2]  # of the thresholds that do equally well
        return torch.stack([1 - middle, middle]).double()
    true = labels.bool()
    # Counts of each label at each threshold decide every objective: the data is read once.
    above = torch.stack([decide(probabilities, t.expand(number)) for t in grid])  # [K, N, L]
    hits = (above & true).sum(dim=1).double()  # [K, L]
    sizes = (above.sum(dim=1) + true.sum(dim=0)).double()  # [K, L] predicted + true

    def score(hits: Tensor, sizes: Tensor) -> Tensor:  # [..., L] -> [...]
        micro = 2 * hits.sum(-1) / sizes.sum(-1).clamp(min=1)
        macro = (2 * hits / sizes.clamp(min=1)).mean(-1)
        return {"micro_f1": micro, "macro_f1": macro, "mean_f1": (micro + macro) / 2}[objective]

    choice = score(hits, sizes).argmax().repeat(number)  # [L] index into the grid
    if search == "shared":
        return grid[choice]
    columns = torch.arange(number)
    best = score(hits[choice, columns], sizes[choice, columns])
    moved = True
    while moved:  # each move raises the score, and there are finitely many choices
        moved = False
        for label in range(number):
            tried = choice.repeat(len(grid), 1)  # [K, L]
            tried[:, label] = torch.arange(len(grid))
            scores = score(hits[tried, columns], sizes[tried, columns])  # [K]
            if scores.max() > best:
                choice, best, moved = tried[scores.argmax()], scores.max(), True
    return grid[choice]
