"""`univa figures RUN [RUN2]`: draw what a run learned, or two runs side by side.

univa figures runs/demo
univa figures runs/demo-without-va-cl runs/demo     # the slides' Figure 4
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from univa.batch import Modality
from univa.console import note
from univa.errors import UserError
from univa.figures import curves, maps, matrices
from univa.figures.extra import require_figures
from univa.figures.quality import MapQuality, measure
from univa.figures.sample import Sample, load_corpora, sample_training
from univa.figures.style import THEMES, Theme, shorten, themed
from univa.files import atomic_folder, atomic_write_json
from univa.finished import FinishedRun, check_comparable, names_of, read_run
from univa.processes import choose_device, cpu_threads

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Figures", "measure_sample", "notes_of", "quality_table", "run_figures"]


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
        with atomic_folder(output) as folder:
            for theme in THEMES:
                with themed(theme):
                    for name, figure in _all(runs, names, theme, sample, quality, places, shown):
                        save(figure, folder / f"{name}-{theme.name}")
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
    places = [
        {name: maps.lay_out(values[shown]) for name, values in one.items()}
        for one in sample.embeddings
    ]
    return places, shown


def quality_table(names: Sequence[str], quality: Sequence[dict[Modality, MapQuality]]) -> str:
    """Lay out the numbers, a line for each run and modality."""
    rows = [["run", "modality", "purity", "chance", "rank correlation"]]
    for name, found in zip(names, quality, strict=True):
        for modality, one in found.items():
            rho = "-" if one.rank_correlation is None else f"{one.rank_correlation:.3f}"
            purity, chance = f"{100 * one.purity:.1f} %", f"{100 * one.chance:.1f} %"
            rows.append([name, modality, purity, chance, rho])
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines = [
        "  ".join(
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    one = next(one for found in quality for one in found.values())
    lines.append(
        f"purity: share of the {one.neighbors} nearest neighbours within {one.radius:g} in "
        f"valence-arousal; {one.utterances} training utterances, {one.pairs} pairs"
    )
    return "\n".join(lines)


def notes_of(runs: Sequence[FinishedRun], sample: Sample) -> list[str]:
    """What is left out, and why."""
    notes = [
        f"{name} has no valence-arousal scores: it has no map by valence-arousal and no numbers"
        for name in sample.unscored
    ]
    if all(run.similarity is None for run in runs):
        notes.append("no emotion correlation: the model has no prior")
    return notes


def run_figures(
    runs: Sequence[FinishedRun], names: Sequence[str], theme: Theme
) -> Iterator[tuple[str, Figure]]:
    """The figures that need nothing but the run folders: name, figure."""
    labels = runs[0].label_names
    correlations = matrices.correlations(runs, names)
    if correlations:
        yield "correlation", matrices.draw_correlations(correlations, labels, theme)
    yield "training", curves.draw_training(runs, names, theme)
    yield "thresholds", curves.draw_thresholds(runs, names, theme)
    together = {"true": matrices.co_occurrence(runs[0].labels)}
    for run, name in zip(runs, names, strict=True):
        title = "predicted" if len(runs) == 1 else f"predicted by {shorten(name)}"
        together[title] = matrices.co_occurrence(run.predictions)
    yield "co-occurrence", matrices.draw_co_occurrence(together, labels, theme)


def _all(
    runs: Sequence[FinishedRun],
    names: Sequence[str],
    theme: Theme,
    sample: Sample,
    quality: Sequence[dict[Modality, MapQuality]],
    places: maps.Maps,
    shown: Any,
) -> Iterator[tuple[str, Figure]]:
    labels = sample.labels[shown]
    scored = [name for name in sample.modalities if name in sample.coordinates]
    for name, modalities, by_va in (
        ("map-emotion", list(sample.modalities), False),
        ("map-valence-arousal", scored, True),
    ):
        if modalities:
            points = {one: sample.coordinates[one][shown] for one in scored} if by_va else None
            yield (
                name,
                maps.draw_map(
                    places,
                    names,
                    modalities,
                    quality,
                    theme,
                    labels=labels,
                    label_names=runs[0].label_names,
                    coordinates=points,
                ),
            )
    yield from run_figures(runs, names, theme)


def save(figure: Figure, stem: Path) -> None:
    """Write `stem`.png (300 dpi) and `stem`.svg."""
    figure.savefig(stem.with_name(f"{stem.name}.png"), dpi=300, metadata={"Software": None})
    figure.savefig(stem.with_name(f"{stem.name}.svg"), metadata={"Date": None})


def _check_ours(folder: Path) -> None:
    """UserError where replacing the folder would destroy what is not figures of ours."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder}: this is a file; give another --output")
    entries = list(folder.iterdir())
    ours = all(path.suffix in (".png", ".svg") or path.name == "figures.json" for path in entries)
    if entries and not (ours and (folder / "figures.json").exists()):
        raise UserError(
            f"{folder}: holds other files than figures of this command; give another --output"
        )
