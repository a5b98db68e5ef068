"""What an evaluation prints and saves beside the metrics: figures per label, threshold curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from univa.metrics import Metrics, compute_metrics, decide, threshold_grid
from univa.runs.layout import RunFolder
from univa.runs.predictions import SplitResult, write_predictions
from univa.utils.console import table
from univa.utils.files import atomic_write_json, make_folder

__all__ = [
    "curve_table",
    "label_figures",
    "label_table",
    "metrics_table",
    "threshold_curves",
    "write_reports",
]


def metrics_table(rows: Mapping[str, Metrics], *, title: str = "split") -> str:
    """Lay out metrics as the paper does: per cent, the Hamming loss as a fraction."""
    names = list(next(iter(rows.values())).label_f1)
    lines = [[title, "Acc", "HL", "miF1", "maF1", *names]]
    for split, metrics in rows.items():
        shares = [metrics.micro_f1, metrics.macro_f1, *metrics.label_f1.values()]
        lines.append(
            [
                split,
                f"{100 * metrics.accuracy:.1f}",
                f"{metrics.hamming_loss:.3f}",
                *(f"{100 * share:.1f}" for share in shares),
            ]
        )
    return table(lines)


def label_figures(
    predictions: Tensor, labels: Tensor, names: Sequence[str]
) -> dict[str, dict[str, float]]:
    """How each label does.

    Args:
        predictions: [N, L] of 0 and 1.
        labels: [N, L] of 0 and 1.
        names: L names.

    Returns:
        label -> precision, recall, f1 (each 0 where it is 0 / 0), and the numbers of utterances
        that have it (`present`) and that it is predicted for (`predicted`).
    """
    predicted, true = predictions.bool(), labels.bool()
    figures = {}
    for column, name in enumerate(names):
        hits = int((predicted[:, column] & true[:, column]).sum())
        present, said = int(true[:, column].sum()), int(predicted[:, column].sum())
        figures[name] = {
            "precision": hits / max(1, said),
            "recall": hits / max(1, present),
            "f1": 2 * hits / max(1, present + said),
            "present": present,
            "predicted": said,
        }
    return figures


def label_table(figures: Mapping[str, Mapping[str, float]]) -> str:
    """Lay out what `label_figures` gives; shares in per cent."""
    head = ["label", "precision", "recall", "F1", "present", "predicted"]
    lines = [head] + [
        [
            name,
            *(f"{100 * one[key]:.1f}" for key in ("precision", "recall", "f1")),
            *(f"{one[key]:.0f}" for key in ("present", "predicted")),
        ]
        for name, one in figures.items()
    ]
    return table(lines)


def threshold_curves(
    probabilities: Tensor, labels: Tensor, names: Sequence[str], *, grid: Tensor | None = None
) -> dict[str, Any]:
    """Every metric as a function of one threshold for all labels.

    Args:
        probabilities: [N, L] in [0, 1].
        labels: [N, L] of 0 and 1.
        names: L names.
        grid: [K] thresholds; `threshold_grid()` when None.

    Returns:
        "threshold", "accuracy", "hamming_loss", "micro_f1", "macro_f1": K numbers each, and
        "label_f1": label -> K numbers.
    """
    grid = threshold_grid() if grid is None else grid
    points = [
        compute_metrics(decide(probabilities, t.expand(len(names))), labels, names) for t in grid
    ]
    curves: dict[str, Any] = {"threshold": [round(t, 6) for t in grid.tolist()]}
    for key in ("accuracy", "hamming_loss", "micro_f1", "macro_f1"):
        curves[key] = [getattr(point, key) for point in points]
    curves["label_f1"] = {name: [point.label_f1[name] for point in points] for name in names}
    return curves


def curve_table(probabilities: Tensor, labels: Tensor, names: Sequence[str]) -> str:
    """Lay out every metric at the thresholds 0.1 to 0.9, one for all labels."""
    rows = {
        f"{float(t):.1f}": compute_metrics(
            decide(probabilities, t.expand(len(names))), labels, names
        )
        for t in threshold_grid(0.1)
    }
    return metrics_table(rows, title="threshold")


def write_reports(
    folder: Path, results: Mapping[str, SplitResult], names: Sequence[str], *, predictions: bool
) -> None:
    """Write `labels.json` and `threshold_curves.json`, each by split.

    Args:
        folder: made if need be.
        results: split -> what a model says about it.
        names: the labels.
        predictions: write `predictions-SPLIT.jsonl` too.

    Raises:
        UserError: the folder cannot be written.
    """
    make_folder(folder)
    atomic_write_json(
        RunFolder(folder).label_figures,
        {
            split: label_figures(result.predictions, result.labels, names)
            for split, result in results.items()
        },
    )
    atomic_write_json(
        RunFolder(folder).threshold_curves,
        {
            split: threshold_curves(result.probabilities, result.labels, names)
            for split, result in results.items()
        },
    )
    if predictions:
        for split, result in results.items():
            write_predictions(folder / f"predictions-{split}.jsonl", result)
