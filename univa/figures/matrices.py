"""Matrices over the emotions: their correlation (the slides' Figure 5), and how they co-occur."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from univa.data.lexicon import read_lexicon, similarity_matrix
from univa.figures.style import COLUMN_WIDTH, Theme, diverging, sequential, shorten
from univa.runs.read import FinishedRun

if TYPE_CHECKING:
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

__all__ = ["co_occurrence", "correlations", "draw_co_occurrence", "draw_correlations"]

_ROOM = 0.66  # inches for names on the left, at least


def correlations(runs: Sequence[FinishedRun], names: Sequence[str]) -> dict[str, NDArray]:
    """The emotion correlation matrix before training, and after each run that has one.

    Args:
        runs: of one label set.
        names: of the runs.

    Returns:
        title -> [L, L]; empty where no run has a prior.

    Raises:
        UserError: the lexicon that the run was trained with cannot be read.
    """
    with_prior = [
        (run, name) for run, name in zip(runs, names, strict=True) if run.similarity is not None
    ]
    if not with_prior:
        return {}
    data = with_prior[0][0].config.data
    lexicon = None if data.lexicon is None else read_lexicon(data.lexicon)
    found = {"before training": similarity_matrix(runs[0].label_names, lexicon).numpy()}
    for run, name in with_prior:
        assert run.similarity is not None
        after = "after training" if len(runs) == 1 else f"after {shorten(name, 30)}"
        found[after] = run.similarity.double().numpy()
    return found


def co_occurrence(labels: Tensor) -> NDArray[np.float64]:
    """How often emotions come together.

    Args:
        labels: [N, L] of 0 and 1.

    Returns:
        [L, L]: the share of the utterances with the emotion of the row that have the emotion of
        the column too; NaN in the row of an emotion that no utterance has. The diagonal is 1.
    """
    both = labels.double().T @ labels.double()  # [L, L]
    alone = both.diagonal()[:, None]
    return torch.where(alone > 0, both / alone, torch.nan).numpy()


def draw_correlations(
    matrices: dict[str, NDArray], label_names: Sequence[str], theme: Theme
) -> Figure:
    """Heat maps of what `correlations` gives, one below the other, on one scale.

    Args:
        matrices: title -> [L, L].
        label_names: the L emotions.
        theme: the paper.
    """
    most = max(1.0, *(float(np.abs(matrix).max()) for matrix in matrices.values()))
    return _draw(
        matrices, label_names, theme, colors=diverging(theme), low=-most, high=most, factor=1
    )


def draw_co_occurrence(
    matrices: dict[str, NDArray], label_names: Sequence[str], theme: Theme
) -> Figure:
    """Heat maps of what `co_occurrence` gives, in per cent, one below the other.

    Args:
        matrices: title -> [L, L].
        label_names: the L emotions.
        theme: the paper.
    """
    return _draw(matrices, label_names, theme, colors=sequential(theme), low=0, high=1, factor=100)


def _draw(
    matrices: dict[str, NDArray],
    label_names: Sequence[str],
    theme: Theme,
    *,
    colors: Colormap,
    low: float,
    high: float,
    factor: int,
) -> Figure:
    from matplotlib.figure import Figure

    count = len(label_names)
    # As large as the column allows, but cells no larger than needed.
    shown = [shorten(name) for name in label_names]
    room = max(_ROOM, 0.12 + 0.063 * max(map(len, shown)))
    side = min(COLUMN_WIDTH - room - 0.1, 0.4 * count)
    cell = side / count
    numbers = cell >= (0.19 if factor == 100 else 0.28)  # inches that the longest takes
    tall = max(side, 0.115 * count)  # a line of letters for each name
    height = len(matrices) * (tall + (0.72 if numbers else 1.1))
    figure = Figure(figsize=(COLUMN_WIDTH, height), layout="constrained")
    grid = figure.subplots(len(matrices), 1, squeeze=False)[:, 0]
    for axes, (title, matrix) in zip(grid, matrices.items(), strict=True):
        mesh = axes.pcolormesh(
            np.ma.masked_invalid(matrix),
            cmap=colors,
            vmin=low,
            vmax=high,
            edgecolors=theme.paper,
            linewidth=0.8 if numbers else 0.2,
        )
        axes.set_title(title, pad=4)
        axes.set(aspect="equal" if tall == side else "auto", ylim=(count, 0))
        places = np.arange(count) + 0.5
        if cell >= 0.2:
            axes.set_xticks(places, shown, rotation=35, ha="right", rotation_mode="anchor")
        else:  # slanted ones would lie on each other; where upright ones do, every second
            every = 1 if cell >= 0.11 else 2
            axes.set_xticks(places[::every], shown[::every], rotation=90)
        axes.set_yticks(places, shown)
        axes.tick_params(length=0, pad=2)
        axes.spines[:].set_visible(False)
        if not numbers:
            bar = figure.colorbar(mesh, ax=axes, location="bottom", aspect=30, pad=0.02)
            bar.outline.set_visible(False)
            ends = [low, 0, high] if low else [0, high]
            bar.set_ticks(ends, labels=[_cell(end, factor) for end in ends])
            continue
        for row in range(count):
            for column in range(count):
                value = matrix[row, column]
                said = "\N{EN DASH}" if np.isnan(value) else _cell(value, factor)
                paper = theme.paper if _strong(value, low, high) else theme.ink
                axes.text(column + 0.5, row + 0.53, said, ha="center", va="center", color=paper)
    return figure


def _cell(value: float, factor: int) -> str:
    if factor == 100:
        return f"{100 * value:.0f}"
    said = f"{value:.2f}"
    return "0.00" if said == "-0.00" else said.replace("-", "\N{MINUS SIGN}")


def _strong(value: float, low: float, high: float) -> bool:
    """True where the cell's colour is far from the paper's."""
    return bool(abs(value) > 0.62 * max(abs(low), abs(high)))
