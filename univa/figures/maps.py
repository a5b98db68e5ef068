"""Two-dimensional maps of the embeddings of each modality (the slides' Figure 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from univa.batch import Modality
from univa.errors import UserError
from univa.figures.quality import MapQuality
from univa.figures.style import COLUMN_WIDTH, MARKERS, Theme, shape_of, shorten, va_colors

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

__all__ = ["Maps", "draw_map", "lay_out", "show_emotion"]

Maps = list[dict[Modality, NDArray[np.float64]]]
"""For each run, modality -> [P, 2] places on the map."""

SEED = 1111
FEWEST = 5


def lay_out(embeddings: Tensor, *, seed: int = SEED) -> NDArray[np.float64]:
    """Place embeddings on a plane by t-SNE (perplexity 30, cosine), always the same way.

    Args:
        embeddings: [P, D], P at least 5.
        seed: of t-SNE.

    Returns:
        [P, 2], centred, the larger extent being [-1, 1].

    Raises:
        UserError: there are fewer than 5.
    """
    count = len(embeddings)
    if count < FEWEST:
        raise UserError(f"a map needs at least {FEWEST} training utterances, there are {count}")
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    unit = normalize(embeddings.float(), dim=1).numpy()
    perplexity = min(30.0, (count - 1) / 3)
    method = TSNE(2, perplexity=perplexity, init="pca", random_state=seed, n_jobs=1)
    with threadpool_limits(1):  # the order of sums decides the picture
        places = method.fit_transform(unit).astype(np.float64)
    places -= (places.max(axis=0) + places.min(axis=0)) / 2
    extent = np.abs(places).max()
    return places / extent if extent > 0 else places


def show_emotion(labels: Tensor) -> Tensor:
    """One emotion to colour each utterance by: the one of its own that fewest utterances have.

    Args:
        labels: [P, L] bool.

    Returns:
        [P] int64, -1 for an utterance without any.
    """
    counts = labels.sum(dim=0)
    rarity = torch.where(labels, -counts, -labels.numel() - 1)  # [P, L]
    return torch.where(labels.any(dim=1), rarity.argmax(dim=1), -1)


def draw_map(
    maps: Maps,
    run_names: Sequence[str],
    modalities: Sequence[Modality],
    quality: Sequence[dict[Modality, MapQuality]],
    theme: Theme,
    *,
    labels: Tensor,
    label_names: Sequence[str],
    coordinates: dict[Modality, Tensor] | None,
) -> Figure:
    """Draw the maps: one run in a row, several side by side with a row for each modality.

    Args:
        maps: places, for each run and modality.
        run_names: of the runs.
        modalities: which to draw.
        quality: for each run, modality -> numbers to write on its map.
        theme: the paper.
        labels: [P, L] bool.
        label_names: the L emotions.
        coordinates: modality -> [P, 2] normalised, to colour by; None colours by emotion.
    """
    from matplotlib.figure import Figure

    several = len(maps) > 1
    rows, columns = (len(modalities), len(maps)) if several else (1, len(modalities))
    side = min(COLUMN_WIDTH / columns, 1.6)
    columns_of_names = _columns(label_names)
    lines = -(-(len(label_names) + 1) // columns_of_names)
    legend = 0.08 + 0.14 * lines if coordinates is None else 0.95
    heights = [side + 0.3] * rows + [legend]
    figure = Figure(figsize=(COLUMN_WIDTH, sum(heights) + 0.3), layout="constrained")
    cast("ConstrainedLayoutEngine", figure.get_layout_engine()).set(
        w_pad=0.03, h_pad=0.05, hspace=0.0, wspace=0.0
    )
    grid = figure.add_gridspec(rows + 1, columns, height_ratios=heights)
    for place, modality in enumerate(modalities):
        for run, name in enumerate(run_names):
            axes = figure.add_subplot(grid[place, run] if several else grid[0, place])
            if several:
                axes.set_ylabel(modality if run == 0 else "", fontsize=8, fontweight="bold")
                axes.set_title(shorten(name) if place == 0 else "")
            else:
                axes.set_title(modality)
            _draw_one(
                axes,
                maps[run].get(modality),
                quality[run].get(modality),
                theme,
                labels=labels,
                colors=None if coordinates is None else coordinates[modality],
            )
    foot = figure.add_subplot(grid[rows, :])
    if coordinates is None:
        _emotion_legend(foot, label_names, theme)
    else:
        _va_legend(foot, theme)
    return figure


def _draw_one(
    axes: Axes,
    places: NDArray[np.float64] | None,
    quality: MapQuality | None,
    theme: Theme,
    *,
    labels: Tensor,
    colors: Tensor | None,
) -> None:
    axes.set(xticks=[], yticks=[], xlim=(-1.06, 1.06), ylim=(-1.06, 1.06), aspect="equal")
    axes.spines[:].set(visible=True, color=theme.faint)
    if places is None:
        axes.text(0, 0, "not in this run", ha="center", va="center")
        return
    size = float(np.clip(2500 / len(places), 1.5, 10))
    if colors is not None:
        axes.scatter(
            places[:, 0],
            places[:, 1],
            s=size,
            c=va_colors(colors.double().numpy(), theme),
            linewidths=0,
        )
    else:
        shown = show_emotion(labels).numpy()
        none = places[shown < 0]
        axes.scatter(none[:, 0], none[:, 1], s=size, c=theme.faint, linewidths=0)
        for label in range(labels.shape[1]):
            one = places[shown == label]
            marker = MARKERS[shape_of(label)]
            axes.scatter(
                one[:, 0], one[:, 1], s=size, c=theme.color(label), marker=marker, linewidths=0
            )
    if quality is not None:
        said = f"purity {100 * quality.purity:.0f} % ({100 * quality.chance:.0f} %)"
        if quality.rank_correlation is not None:
            said += f"\n\N{GREEK SMALL LETTER RHO} {quality.rank_correlation:.2f}"
        axes.set_xlabel(said, labelpad=2, linespacing=1.15)


def _columns(names: Sequence[str]) -> int:
    """How many columns of the legend fit side by side; a letter of 7 pt has about 0.063 inches."""
    widest = 0.3 + 0.063 * max(len(shorten(name)) for name in (*names, "none"))
    return max(1, min(4, int(COLUMN_WIDTH / widest)))


def _emotion_legend(axes: Axes, names: Sequence[str], theme: Theme) -> None:
    from matplotlib.lines import Line2D

    axes.axis("off")
    handles = [
        Line2D([], [], ls="", marker=MARKERS[shape_of(i)], ms=4, mew=0, color=theme.color(i))
        for i in range(len(names))
    ]
    handles.append(Line2D([], [], ls="", marker="o", ms=4, mew=0, color=theme.faint))
    axes.legend(
        handles,
        [*(shorten(name) for name in names), "none"],
        loc="center",
        ncols=_columns(names),
        handletextpad=0.1,
        columnspacing=1.0,
        borderpad=0,
    )


def _va_legend(axes: Axes, theme: Theme) -> None:
    """The plane itself, in its colours."""
    steps = np.linspace(-2, 2, 64)
    plane = np.stack(np.meshgrid(steps, steps), axis=-1)
    axes.imshow(va_colors(plane, theme), origin="lower", extent=(-2, 2, -2, 2), aspect="equal")
    axes.set(xticks=[-2, 0, 2], yticks=[-2, 0, 2])
    axes.set_xlabel("valence (standard deviations)", labelpad=1)
    axes.set_ylabel("arousal", labelpad=1)
    axes.spines[:].set_visible(False)
