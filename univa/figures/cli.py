"""`univa figures RUN [RUN2]`: draw what a run learned, or two runs side by side.

univa figures runs/demo
univa figures runs/demo-without-va-cl runs/demo     # the slides' Figure 4
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from univa.batch import Modality
from univa.errors import UserError
from univa.figures import curves, maps, matrices
from univa.figures.extra import require_figures
from univa.figures.quality import MapQuality, measure
from univa.figures.sample import Sample, load_corpora, sample_training
from univa.figures.style import THEMES, Theme, shorten, themed
from univa.runs.read import FinishedRun, check_comparable, names_of, read_run
from univa.utils.console import WIDTH, note, progress, table
from univa.utils.files import atomic_folder, atomic_write_json, check_named
from univa.utils.processes import choose_device, cpu_threads

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Drawings", "Figures", "measure_sample", "notes_of", "quality_table", "run_figures"]

Drawings = list[tuple[str, "Callable[[], Figure]"]]
"""Names of figures, and what draws them in the theme that is set."""

_NAMES = (
    *("map-emotion", "map-valence-arousal", "correlation"),
    *("training", "thresholds", "co-occurrence"),
)
_FILES = {
    f"{name}-{theme.name}.{kind}" for name in _NAMES for theme in THEMES for kind in ("png", "svg")
} | {"figures.json"}


@dataclass(kw_only=True)
class Figures:
    """Draw figures of a finished run, or of two runs side by side. As PNG and SVG, light and dark:
    maps of the embeddings, emotion correlation, training, thresholds, co-occurrence of labels."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN2]")]
    """Folder of the run; with a second one, the two side by side (the one without VA-CL first, as
    in the paper)."""
    output: Path | None = None
    """Folder for the figures; RUN/figures if left out, RUN/figures-RUN2 with two runs. Figures that
    are there are replaced."""
    points: int = 1500
    """Most training utterances on a map."""
    sample: int = 5000
    """Most training utterances that the numbers are of."""
    neighbors: int = 10
    """k of the neighbourhood purity."""
    radius: float | None = None
    """Radius of the neighbourhood purity; that of the first run's contrastive loss if left out."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes CUDA where there is a GPU."""

    def __post_init__(self) -> None:
        if len(self.runs) not in (1, 2):
            raise UserError(f"univa figures takes one or two runs, got {len(self.runs)}")
        check_sizes(self.points, self.sample, self.neighbors, self.radius)

    def run(self) -> dict[str, Any]:
        """Draw; print the numbers.

        Returns:
            "folder" of the figures, and what figures.json there holds.

        Raises:
            UserError: a run or its data cannot be read, the runs cannot be compared, a package is
                missing, or the folder holds other files. Then nothing is written.
        """
        require_figures()
        runs = [read_run(folder) for folder in self.runs]
        if len({run.folder.resolve() for run in runs}) < len(runs):
            raise UserError(f"{self.runs[1]}: the same run twice; give one, or another beside it")
        check_comparable(runs)
        names = names_of(runs)
        output = self.output
        if output is None:
            ending = f"-{runs[1].name}" if len(runs) > 1 else ""
            output = self.runs[0] / f"figures{ending}"
        _check_ours(output)
        device = choose_device(self.device)
        with cpu_threads(runs[0].config.threads):
            sample = sample_training(runs, load_corpora(runs), limit=self.sample, device=device)
        radius = runs[0].config.loss.radius if self.radius is None else self.radius
        quality = measure_sample(sample, neighbors=self.neighbors, radius=radius)
        places, shown = lay_out_sample(sample, self.points)
        drawings = [
            (theme, name, draw)
            for theme in THEMES
            for name, draw in _all(runs, names, theme, sample, quality, places, shown)
        ]
        with atomic_folder(output) as folder:
            for theme, name, draw in progress(drawings, "drawing", unit="figure"):
                with themed(theme):
                    save(draw(), folder / f"{name}-{theme.name}")
            notes = notes_of(runs, sample)
            content = {
                "runs": [str(run.folder) for run in runs],
                "utterances": {
                    "train": sample.total,
                    "measured": len(sample.utterances),
                    "on the maps": len(shown),
                },
                "quality": {
                    name: {modality: one.to_dict() for modality, one in found.items()}
                    for name, found in zip(names, quality, strict=True)
                },
                "correlation": {
                    title: matrix.tolist()
                    for title, matrix in matrices.correlations(runs, names).items()
                },
                "labels": list(runs[0].label_names),
                "notes": notes,
            }
            atomic_write_json(folder / "figures.json", content)
        if any(quality):
            print(quality_table(names, quality))
        for line in notes:
            note(line)
        print(f"figures in {output}")
        return {"folder": output, **content}


def check_sizes(points: int, sample: int, neighbors: int, radius: float | None) -> None:
    """UserError where an option of the maps is out of its range."""
    if points < maps.FEWEST:
        raise UserError(f"--points: {points} is less than {maps.FEWEST}; give more")
    if sample < points:
        raise UserError(f"--sample: {sample} is less than --points {points}; give at least as many")
    if neighbors < 1:
        raise UserError(f"--neighbors: {neighbors} is less than 1; give a positive number")
    if radius is not None and not 0 < radius < float("inf"):
        raise UserError(f"--radius: {radius:g} is not a positive number")


def measure_sample(
    sample: Sample, *, neighbors: int, radius: float
) -> list[dict[Modality, MapQuality]]:
    """The numbers of each run's modalities that have valence-arousal scores."""
    return [
        {
            name: measure(values, sample.coordinates[name], neighbors=neighbors, radius=radius)
            for name, values in one.items()
            if name in sample.coordinates
        }
        for one in sample.embeddings
    ]


def lay_out_sample(sample: Sample, points: int) -> tuple[maps.Maps, Any]:
    """Maps of at most so many utterances of a sample, and which they are."""
    shown = sample.first(points)
    places: maps.Maps = [{} for _ in sample.embeddings]
    every = [(run, name) for run, one in enumerate(sample.embeddings) for name in one]
    for run, name in progress(every, "laying out", unit="map"):
        places[run][name] = maps.lay_out(sample.embeddings[run][name][shown])
    return places, shown


def quality_table(names: Sequence[str], quality: Sequence[dict[Modality, MapQuality]]) -> str:
    """Lay out the numbers, a line for each run and modality."""
    rows = [["run", "modality", "purity", "chance", "rank correlation"]]
    for name, found in zip(names, quality, strict=True):
        for modality, one in found.items():
            rho = "-" if one.rank_correlation is None else f"{one.rank_correlation:.3f}"
            purity, chance = f"{100 * one.purity:.1f} %", f"{100 * one.chance:.1f} %"
            rows.append([shorten(name, 36), modality, purity, chance, rho])
    one = next(one for found in quality for one in found.values())
    said = (
        f"purity: share of the {one.neighbors} nearest neighbours within {one.radius:g} in "
        f"valence-arousal; {one.utterances} training utterances, {one.pairs} pairs"
    )
    return f"{table(rows)}\n{textwrap.fill(said, WIDTH)}"


def notes_of(runs: Sequence[FinishedRun], sample: Sample) -> list[str]:
    """What is left out, and why."""
    notes = [
        f"{name} has no valence-arousal scores: it has no map by valence-arousal and no numbers"
        for name in sample.unscored
    ]
    notes += [
        f"{runs[run].name} was trained with other valence-arousal scores of {name} than "
        f"{runs[other].name}, whose scores colour its map and give its numbers"
        for run, name, other in sample.differing
    ]
    if all(run.similarity is None for run in runs):
        notes.append("no emotion correlation: the model has no prior")
    return notes


def run_figures(runs: Sequence[FinishedRun], names: Sequence[str], theme: Theme) -> Drawings:
    """The figures that need nothing but the run folders."""
    labels = runs[0].label_names
    drawings: Drawings = []
    correlations = matrices.correlations(runs, names)
    if correlations:
        drawings.append(
            ("correlation", partial(matrices.draw_correlations, correlations, labels, theme))
        )
    together = {"true": matrices.co_occurrence(runs[0].labels)}
    for run, name in zip(runs, names, strict=True):
        title = "predicted" if len(runs) == 1 else f"predicted by {shorten(name)}"
        together[title] = matrices.co_occurrence(run.predictions)
    return [
        *drawings,
        ("training", partial(curves.draw_training, runs, names, theme)),
        ("thresholds", partial(curves.draw_thresholds, runs, names, theme)),
        ("co-occurrence", partial(matrices.draw_co_occurrence, together, labels, theme)),
    ]


def _all(
    runs: Sequence[FinishedRun],
    names: Sequence[str],
    theme: Theme,
    sample: Sample,
    quality: Sequence[dict[Modality, MapQuality]],
    places: maps.Maps,
    shown: Any,
) -> Drawings:
    scored = [name for name in sample.modalities if name in sample.coordinates]
    draw = partial(
        maps.draw_map,
        places,
        names,
        quality=quality,
        theme=theme,
        labels=sample.labels[shown],
        label_names=runs[0].label_names,
    )
    drawings: Drawings = [
        ("map-emotion", partial(draw, modalities=sample.modalities, coordinates=None))
    ]
    if scored:
        points = {one: sample.coordinates[one][shown] for one in scored}
        drawings.append(
            ("map-valence-arousal", partial(draw, modalities=scored, coordinates=points))
        )
    return [*drawings, *run_figures(runs, names, theme)]


def save(figure: Figure, stem: Path) -> None:
    """Write `stem`.png (300 dpi) and `stem`.svg."""
    figure.savefig(stem.with_name(f"{stem.name}.png"), dpi=300, metadata={"Software": None})
    figure.savefig(stem.with_name(f"{stem.name}.svg"), metadata={"Date": None})


def _check_ours(folder: Path) -> None:
    """UserError where replacing the folder would destroy what is not figures of ours."""
    check_named(folder)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder}: this is a file; give another --output")
    entries = list(folder.iterdir())
    if entries and not all(path.name in _FILES for path in entries):
        raise UserError(
            f"{folder}: holds other files than figures of this command; give another --output"
        )
