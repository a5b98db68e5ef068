"""Curves of a run: its training, and its metrics as a function of the threshold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from univa.figures.style import COLUMN_WIDTH, Theme, shorten
from univa.runs.read import FinishedRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_thresholds", "draw_training"]

METRICS = {
    "micro_f1": "micro-F1",
    "macro_f1": "macro-F1",
    "accuracy": "accuracy",
    "hamming_loss": "Hamming loss",
}
_DASHES = ("-", "--")


def draw_training(runs: Sequence[FinishedRun], names: Sequence[str], theme: Theme) -> Figure:
    """Terms of the loss by step, and validation metrics by epoch; a second run is dashed.

    Args:
        runs: one or two.
        names: of the runs.
        theme: the paper.
    """
    from matplotlib.figure import Figure

    terms = [key for key in runs[0].steps[0] if key == "prior" or key.startswith("contrastive_")]
    for run in runs[1:]:
        terms += [
            key for key in run.steps[0] if key.startswith("contrastive_") and key not in terms
        ]
    figure = Figure(figsize=(COLUMN_WIDTH, 4.6), layout="constrained")
    loss, parts, metrics = figure.subplots(3, 1)
    for run, dash in zip(runs, _DASHES, strict=False):
        steps = [line["step"] for line in run.steps]
        for place, key in enumerate(("loss", "classification")):
            loss.plot(*_smooth(steps, run, key), dash, color=theme.color(place), lw=_width(place))
        for place, key in enumerate(terms):
            if key in run.steps[0]:
                parts.plot(*_smooth(steps, run, key), dash, color=theme.color(place))
        epochs = [line["epoch"] for line in run.epochs]
        for place, key in enumerate(("micro_f1", "macro_f1", "accuracy")):
            values = [100 * line["valid"][key] for line in run.epochs]
            look = {"color": theme.color(place), "lw": _width(place)}
            metrics.plot(epochs, values, dash, marker="o", ms=2.5, **look)
        metrics.axvline(run.metrics["best_epoch"], ls=dash, color=theme.faint, lw=1, zorder=0)
    loss.set_title("loss")
    _legend(loss, ["total", "classification"], theme, columns=2, room=0.25)
    parts.set_title("its other terms")
    parts.set_xlabel("step", labelpad=1)
    _legend(parts, [key.replace("contrastive_", "contrast, ") for key in terms], theme, columns=2)
    metrics.set_title("validation, per cent")
    metrics.set_xlabel("epoch; the best is marked", labelpad=1)
    metrics.xaxis.get_major_locator().set_params(integer=True)
    names_shown = [METRICS[key] for key in ("micro_f1", "macro_f1", "accuracy")]
    _legend(metrics, names_shown, theme, columns=3, room=0.2)
    _name_runs(figure, names, theme)
    return figure


def draw_thresholds(runs: Sequence[FinishedRun], names: Sequence[str], theme: Theme) -> Figure:
    """Metrics on validation and test when one threshold decides for all labels.

    Args:
        runs: one or two.
        names: of the runs.
        theme: the paper.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(COLUMN_WIDTH, 3.5), layout="constrained")
    both = figure.subplots(2, 1, sharex=True)
    for split, axes in zip(("valid", "test"), both, strict=True):
        for run, dash in zip(runs, _DASHES, strict=False):
            curves = run.threshold_curves[split]
            for place, key in enumerate(METRICS):
                values = 100 * np.array(curves[key])
                color = theme.color(place)
                axes.plot(curves["threshold"], values, dash, color=color, lw=_width(place))
            for chosen in sorted(set(run.metrics["thresholds"].values())):
                axes.axvline(chosen, ls=dash, color=theme.faint, lw=1, zorder=0)
        axes.set_title({"valid": "validation", "test": "test"}[split] + ", per cent")
        axes.set(xlim=(0, 1), ylim=(0, None))
    both[1].grid(axis="y")
    _legend(both[0], list(METRICS.values()), theme, columns=2, room=0.35)
    both[1].set_xlabel("threshold; the one chosen on validation is marked", labelpad=1)
    _name_runs(figure, names, theme)
    return figure


def _smooth(
    steps: Sequence[int], run: FinishedRun, key: str, *, most: int = 120
) -> tuple[np.ndarray, np.ndarray]:
    """Means of equally many consecutive steps, so that at most `most` points are drawn."""
    values = np.array([line[key] for line in run.steps])
    width = -(-len(values) // most)
    starts = np.arange(0, len(values), width)
    counts = np.diff(np.append(starts, len(values)))
    return (
        np.add.reduceat(np.array(steps, dtype=float), starts) / counts,
        np.add.reduceat(values, starts) / counts,
    )


def _width(place: int) -> float:
    """The first curve is thick, so that one on top of it does not hide it."""
    return 2.4 if place == 0 else 1.1


def _legend(
    axes: Axes, names: Sequence[str], theme: Theme, *, columns: int = 1, room: float = 0.45
) -> None:
    """A legend at the top right, above the curves: `room` is its share of their height."""
    from matplotlib.lines import Line2D

    axes.grid(axis="y")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + room * (high - low))
    handles = [
        Line2D([], [], color=theme.color(place), lw=_width(place)) for place in range(len(names))
    ]
    axes.legend(
        handles,
        names,
        loc="upper right",
        handlelength=1.2,
        ncols=columns,
        borderpad=0,
        borderaxespad=0.1,
        labelspacing=0.3,
        columnspacing=1.2,
    )


def _name_runs(figure: Figure, names: Sequence[str], theme: Theme) -> None:
    if len(names) < 2:
        return
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=theme.ink, ls=dash) for dash in _DASHES]
    figure.legend(
        handles, [shorten(n, 40) for n in names], loc="outside lower center", handlelength=2.4
    )
