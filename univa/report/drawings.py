"""The report's drawings: matplotlib's figures as inline SVG, and the places of the map's points."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from univa.batch import Modality
from univa.figures.cli import run_figures
from univa.figures.maps import Maps, show_emotion
from univa.figures.quality import MapQuality
from univa.figures.sample import Sample
from univa.figures.style import THEMES, themed
from univa.runs.read import FinishedRun
from univa.utils.console import progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["describe_figures", "describe_maps", "inline_svg"]

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_TITLES = {
    "correlation": "Emotion correlation",
    "training": "Training",
    "thresholds": "Thresholds",
    "co-occurrence": "Co-occurrence of emotions",
}
_CAPTIONS = {
    "correlation": "The prior's matrix: cosine of the emotions' places in valence-arousal space "
    "before training, and what training made of it.",
    "training": "Terms of the loss by step (means of neighbouring steps), metrics on validation by "
    "epoch.",
    "thresholds": "Metrics if one threshold decided for all emotions.",
    "co-occurrence": "Of the test utterances with the emotion of the row, the per cent that have "
    "the emotion of the column too.",
}


def describe_figures(runs: Sequence[FinishedRun], names: Sequence[str]) -> list[dict[str, Any]]:
    """Every figure that needs the run folders only: "title", "caption", "light" and "dark" SVG.

    Two runs share their figures; with more, each has its own.
    """
    groups = (
        [(runs, names)]
        if len(runs) <= 2
        else [([r], [n]) for r, n in zip(runs, names, strict=True)]
    )
    drawings = [
        (number, theme, name, draw)
        for number, (some, some_names) in enumerate(groups)
        for theme in THEMES
        for name, draw in run_figures(some, some_names, theme)
    ]
    found: dict[tuple[int, str], dict[str, Any]] = {}
    for number, theme, name, draw in progress(drawings, "drawing", unit="figure"):
        run = groups[number][1][0] if len(groups) > 1 else ""
        one = found.setdefault(
            (number, name), {"title": _TITLES[name], "caption": _CAPTIONS[name], "run": run}
        )
        with themed(theme):
            one[theme.name] = inline_svg(draw(), f"{name}-{theme.name}-{number}-")
    return [*found.values()]


def inline_svg(figure: Figure, prefix: str) -> str:
    """An SVG element for a page: no ids that another could have, no style of its own.

    Args:
        figure: a matplotlib figure.
        prefix: put before each id.
    """
    file = io.StringIO()
    figure.savefig(file, format="svg", facecolor="none", metadata={"Date": None})
    ET.register_namespace("", _SVG)
    ET.register_namespace("xlink", _XLINK)
    root = ET.fromstring(file.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            # A style sheet would reach the whole page.
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "id":
                element.set(key, prefix + value)
            elif key == f"{{{_XLINK}}}href" and value.startswith("#"):
                element.set(key, f"#{prefix}{value[1:]}")
            elif "url(#" in value:
                element.set(key, re.sub(r"url\(#", f"url(#{prefix}", value))
    for key in ("width", "height"):
        root.attrib.pop(key, None)
    root.set("aria-hidden", "true")  # the figure around it has the words
    return ET.tostring(root, encoding="unicode")


def describe_maps(
    sample: Sample,
    names: Sequence[str],
    quality: Sequence[dict[Modality, MapQuality]],
    places: Maps,
    shown: Tensor,
) -> dict[str, Any]:
    """The maps' points for the template, and what its script tells about them.

    Returns:
        "maps": for each run and modality its points and numbers; "utterances": text, emotions and
        scores of each point, which all maps have in common; "columns" of the page's grid.
    """
    labels = sample.labels[shown]
    emotions = show_emotion(labels).tolist()
    maps = []
    for run, name in enumerate(names):
        for modality in sample.modalities:
            scored = sample.coordinates.get(modality)
            # As `va_colors`: two standard deviations are the end of the scale.
            tint = None if scored is None else (scored[shown] / 2).clamp(-1, 1).tolist()
            points = places[run].get(modality)
            if points is None:
                continue
            maps.append(
                {
                    "modality": modality,
                    "run": name,
                    "quality": quality[run].get(modality),
                    "points": [
                        {
                            "x": round(200 + 191 * x, 1),
                            "y": round(200 - 191 * y, 1),
                            "emotion": emotions[i],
                            "va": None if tint is None else [round(value, 2) for value in tint[i]],
                        }
                        for i, (x, y) in enumerate(points.tolist())
                    ],
                }
            )
    utterances = []
    for place in shown.tolist():
        one = sample.utterances[place]
        utterances.append(
            {
                "id": one.id,
                "text": one.text,
                "emotions": [int(i) for i in sample.labels[place].nonzero()[:, 0]],
                "scores": {
                    name: [round(value, 2) for value in point]
                    for name, point in one.coordinates.items()
                },
            }
        )
    columns = len(sample.modalities) if len(sample.modalities) > 1 else max(2, len(names))
    return {"maps": maps, "utterances": utterances, "columns": columns}
