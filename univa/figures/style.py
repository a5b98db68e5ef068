"""How figures look: column width, letters, and colours on white and on dark paper.

Colours are told apart by people with red or green blindness too (`tests/figures/test_style.py`
measures it), and emotions differ in the shape of their points as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.colors import Colormap

__all__ = [
    "COLUMN_WIDTH",
    "DARK",
    "LIGHT",
    "MARKERS",
    "THEMES",
    "Theme",
    "diverging",
    "sequential",
    "shape_of",
    "shorten",
    "themed",
    "va_colors",
]

COLUMN_WIDTH = 85 / 25.4
"""Width of every figure in inches: one column of a two-column paper, 85 mm."""

MARKERS = ("o", "^", "s", "D", "v", "P", "X")
"""Shapes of the points of emotions; `shape_of` says which."""


@dataclass(frozen=True, kw_only=True)
class Theme:
    """Colours for one kind of paper, as #rrggbb.

    Attributes:
        name: "light" or "dark".
        paper: background.
        ink: letters, axes.
        faint: grid lines, points without emotion.
        series: colours of curves and emotions, cyclic.
        va_lightness: OKLab lightness at the lowest and the highest arousal.
    """

    name: str
    paper: str
    ink: str
    faint: str
    series: tuple[str, ...]
    va_lightness: tuple[float, float]

    def color(self, place: int) -> str:
        """The colour of a curve or an emotion."""
        return self.series[place % len(self.series)]


def shape_of(place: int) -> int:
    """Which of `MARKERS` an emotion has: of 49 no two have the same shape and colour."""
    return (place + place // len(MARKERS)) % len(MARKERS)


LIGHT = Theme(
    name="light",
    paper="#ffffff",
    ink="#1b1f24",
    faint="#c9ced6",
    series=("#0077bb", "#b52a0c", "#009e73", "#cc79a7", "#b8860b", "#332288", "#555555"),
    va_lightness=(0.35, 0.75),
)
DARK = Theme(
    name="dark",
    paper="#14181f",
    ink="#e6e9ee",
    faint="#434b57",
    series=("#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#f0e442", "#d55e00", "#ffffff"),
    va_lightness=(0.5, 0.9),
)
THEMES = (LIGHT, DARK)


@contextmanager
def themed(theme: Theme) -> Iterator[None]:
    """Draw in a theme while the block lasts; every letter is at least 7 pt high."""
    import matplotlib as mpl
    from cycler import cycler

    inked = ("axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "legend.labelcolor")
    colors = dict.fromkeys((*inked, "text.color", "xtick.color", "ytick.color"), theme.ink)
    settings: dict[str, Any] = {
        "axes.axisbelow": True,
        "axes.facecolor": theme.paper,
        "axes.linewidth": 0.6,
        "axes.prop_cycle": cycler(color=theme.series),
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlepad": 4,
        "axes.titlesize": 8,
        "axes.titleweight": "bold",
        "figure.constrained_layout.h_pad": 0.06,
        "figure.facecolor": theme.paper,
        "font.family": "DejaVu Sans",  # comes with matplotlib: the same everywhere
        "font.size": 7,
        "axes.labelsize": 7,
        "grid.color": theme.faint,
        "grid.linewidth": 0.4,
        "legend.fontsize": 7,
        "legend.frameon": False,
        "lines.linewidth": 1.2,
        "savefig.facecolor": theme.paper,
        "svg.fonttype": "none",  # letters that can be searched and read aloud
        "svg.hashsalt": f"univa-{theme.name}",  # the same file for the same numbers
        "text.parse_math": False,  # a run or a label may be named with dollar signs
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "xtick.major.size": 2.5,
        "ytick.major.size": 2.5,
    }
    with mpl.rc_context(colors | settings):
        yield


def shorten(name: str, most: int = 24) -> str:
    """The end of a name that is too long for a heading."""
    return name if len(name) <= most else "…" + name[1 - most :]


def _oklab(lab: NDArray[np.float64]) -> NDArray[np.float64]:
    """OKLab [..., 3] -> sRGB [..., 3] in [0, 1] (Ottosson 2020), clipped to what screens show."""
    to_lms = np.array(
        [
            [1.0, 0.3963377774, 0.2158037573],
            [1.0, -0.1055613458, -0.0638541728],
            [1.0, -0.0894841775, -1.2914855480],
        ]
    )
    to_rgb = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = np.clip((lab @ to_lms.T) ** 3 @ to_rgb.T, 0, 1)
    curve: NDArray[np.float64] = np.where(
        linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055
    )
    return curve


def va_colors(points: NDArray[np.float64], theme: Theme) -> NDArray[np.float64]:
    """Colours of places in valence-arousal space: blue to orange by valence, lighter by arousal.

    The report's style sheet has the same formula (`--va` in `report.css`).

    Args:
        points: [..., 2] normalised (valence, arousal); 2 standard deviations are the end.
        theme: the paper.

    Returns:
        [..., 3] sRGB in [0, 1].
    """
    scaled = np.clip(points / 2, -1, 1)
    valence, arousal = scaled[..., 0], scaled[..., 1]
    low, high = theme.va_lightness
    lightness = low + (high - low) * (arousal + 1) / 2
    return _oklab(np.stack([lightness, 0.015 + 0.055 * valence, -0.005 + 0.125 * valence], axis=-1))


def diverging(theme: Theme) -> Colormap:
    """Blue below, paper at the middle, orange above."""
    from matplotlib.colors import LinearSegmentedColormap

    ends = ("#1f5fa8", "#c4570c") if theme.name == "light" else ("#4f9be0", "#f08a35")
    return LinearSegmentedColormap.from_list(
        f"diverging-{theme.name}", [ends[0], theme.paper, ends[1]]
    )


def sequential(theme: Theme) -> Colormap:
    """Paper at 0, blue above."""
    from matplotlib.colors import LinearSegmentedColormap

    end = "#1f5fa8" if theme.name == "light" else "#4f9be0"
    return LinearSegmentedColormap.from_list(f"sequential-{theme.name}", [theme.paper, end])
