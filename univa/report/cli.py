"""`univa report RUN [RUN ...]`: one HTML page about runs.

univa report runs/demo
univa report runs/ablate-demo --output report.html
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from univa._version import __version__
from univa.errors import UserError
from univa.figures.cli import check_sizes, lay_out_sample, measure_sample, notes_of
from univa.figures.extra import require_figures
from univa.figures.sample import load_corpora, sample_training
from univa.figures.style import THEMES
from univa.report.cases import describe_cases
from univa.report.content import (
    Ablation,
    config_table,
    environment_table,
    expand,
    label_table,
    main_table,
)
from univa.runs.read import FinishedRun, check_comparable, names_of, read_run
from univa.utils.files import atomic_write_text, check_writable
from univa.utils.processes import choose_device, cpu_threads

__all__ = ["Report"]


@dataclass(kw_only=True)
class Report:
    """Write one self-contained HTML page about finished runs: figures beside the paper's, maps,
    curves, a case study, config and environment. A folder of `univa ablate` adds its tables."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Folders of runs, or of an ablation."""
    output: Path | None = None
    """The HTML file; RUN/report.html of the first run if left out."""
    points: int = 600
    """Most training utterances on a map."""
    sample: int = 2000
    """Most training utterances that the maps' numbers are of."""
    neighbors: int = 10
    """k of the neighbourhood purity."""
    radius: float | None = None
    """Radius of the neighbourhood purity; that of the first run's contrastive loss if left out."""
    cases: int = 30
    """Test utterances of the case study."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes CUDA where there is a GPU."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise UserError("univa report takes at least one run; give its folder")
        check_sizes(self.points, self.sample, self.neighbors, self.radius)
        if self.cases < 1:
            raise UserError(f"--cases: {self.cases} is less than 1; give a positive number")

    def run(self) -> dict[str, Any]:
        """Write the page and print its path.

        Returns:
            "file": the HTML file.

        Raises:
            UserError: a run or its data cannot be read, the runs cannot be compared, a package is
                missing, or the file cannot be written. Then nothing is written.
        """
        require_figures()
        from univa.report.page import render

        folders, ablations = expand(self.runs)
        runs = [read_run(folder) for folder in folders]
        check_comparable(runs)
        output = self.output or self.runs[0] / "report.html"
        check_writable(output)
        atomic_write_text(output, render(self._content(runs, ablations)))
        print(f"report in {output}")
        return {"file": output}

    def _content(
        self, runs: Sequence[FinishedRun], ablations: Sequence[Ablation]
    ) -> dict[str, Any]:
        from univa.report.drawings import describe_figures, describe_maps

        names = names_of(runs)
        corpora = load_corpora(runs)
        device = choose_device(self.device)
        with cpu_threads(runs[0].config.threads):
            sample = sample_training(runs, corpora, limit=self.sample, device=device)
        radius = runs[0].config.loss.radius if self.radius is None else self.radius
        quality = measure_sample(sample, neighbors=self.neighbors, radius=radius)
        places, shown = lay_out_sample(sample, self.points)
        maps = describe_maps(sample, names, quality, places, shown)
        return {
            "version": __version__,
            "themes": THEMES,
            "written": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
            "names": names,
            "labels": list(runs[0].label_names),
            "corpus": corpora[0].source,
            "sizes": {name: len(split) for name, split in corpora[0].splits.items()},
            "main": main_table(runs, names),
            "ablations": ablations,
            "label_rows": label_table(runs, names),
            "maps": maps["maps"],
            "columns": maps["columns"],
            "scored": bool(sample.coordinates),
            "neighbors": self.neighbors,
            "radius": radius,
            "measured": len(sample.utterances),
            "shown": len(shown),
            "utterances": maps["utterances"],
            "notes": notes_of(runs, sample),
            "figures": describe_figures(runs, names),
            "cases": describe_cases(runs, names, corpora[0].test, most=self.cases),
            "config": config_table(runs),
            "environment": environment_table(runs),
        }
