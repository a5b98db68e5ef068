"""The five plots of a run, in one SVG: time, memory, share of the bare product, small, training."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from benchmarks.contrastive import BARE, BARE_OUT, TILES
from benchmarks.results import BOTH, PEAK, Run, paired
from benchmarks.training import PER_UTTERANCE
from univa.utils.files import atomic_path

# Okabe and Ito's colours and two more, one for each contender; and black for the yardstick.
_COLOURS: tuple[str, ...] = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#999999",
    "#f0e442",
)
_COLOURS += ("#7a3e00", "#5b2a86")
_ASIDE = (BARE_OUT, TILES)


def draw(run: Run, path: Path) -> bool:
    """Draw what was measured; False where matplotlib is missing."""
    try:
        import matplotlib as mpl
    except ImportError:
        return False
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams["svg.hashsalt"] = "univa"  # the same file for the same numbers
    figure, axes = plt.subplots(2, 3, figsize=(14, 8), layout="constrained")
    seen = dict.fromkeys(
        result.contender
        for result in run.results
        if result.values and run.workloads[result.workload]["kind"] in _WITH_COLOUR
    )
    names = [name for name in seen if name != BARE and name not in _ASIDE]
    colours = {BARE: "black"} | {n: _COLOURS[k % len(_COLOURS)] for k, n in enumerate(names)}
    dims = [run.workloads[name]["facts"]["dim"] for name in run.names("contrastive")]
    widest = max(dims, default=768)
    _lines(axes[0, 0], run, colours, "contrastive", BOTH, min(dims, default=128))
    _lines(axes[0, 1], run, colours, "contrastive", BOTH, widest)
    _lines(axes[0, 2], run, colours, "memory", PEAK, None)
    _share(axes[1, 0], run, colours, widest)
    _small(axes[1, 1], run, colours)
    _training(axes[1, 2], run)
    handles: dict[str, Any] = {}
    for place in axes.flat:
        for handle, label in zip(*place.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5)
    with atomic_path(path) as part:
        figure.savefig(part, metadata={"Date": None})
    plt.close(figure)
    return True


_WITH_COLOUR = ("contrastive", "memory", "objective")


def _points(
    run: Run, kind: str, figure: str, name: str, dim: int | None
) -> list[tuple[int, float]]:
    """(N, median) of a contender."""
    found = []
    for workload in run.names(kind):
        facts = run.workloads[workload]["facts"]
        result = run.measured(workload, name, figure)
        if result is not None and dim in (None, facts["dim"]):
            found.append((facts["size"], result.median))
    return sorted(found)


def _lines(
    axes: Any, run: Run, colours: dict[str, str], kind: str, figure: str, dim: int | None
) -> None:
    for name, colour in colours.items():
        if points := _points(run, kind, figure, name, dim):
            axes.plot(*zip(*points, strict=True), marker="o", color=colour, label=name)
    if kind == "memory":
        axes.set(title="peak memory above the inputs", ylabel="MiB")
    else:
        axes.set(title=f"{figure}, D = {dim}", ylabel="seconds")
    axes.set(xlabel="N", yscale="log")
    axes.set_xscale("log", base=2)
    axes.grid(alpha=0.3)


def _share(axes: Any, run: Run, colours: dict[str, str], dim: int) -> None:
    """Bare product over contender: 100 % would be the speed of one product."""
    for name, colour in colours.items():
        points = []
        for workload in run.names("contrastive"):
            facts = run.workloads[workload]["facts"]
            bare, own = run.measured(workload, BARE), run.measured(workload, name)
            if facts["dim"] == dim and bare and own and name != BARE and paired(own, bare):
                share = 100 / statistics.median(paired(own, bare))
                points.append((facts["size"], share))
        if points:
            axes.plot(*zip(*sorted(points), strict=True), marker="o", color=colour, label=name)
    axes.set(title=f"bare product's time over {BOTH}'s, D = {dim}", xlabel="N", ylabel="%")
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)


def _small(axes: Any, run: Run, colours: dict[str, str]) -> None:
    for name, colour in colours.items():
        points = []
        for workload in run.names("objective"):
            result = run.measured(workload, name)
            if result is not None:
                batch = run.workloads[workload]["facts"]["batch"]
                points.append((batch, 1e6 * result.median))
        if points:
            axes.plot(*zip(*sorted(points), strict=True), marker="o", color=colour, label=name)
    axes.set(title=f"whole objective, {BOTH}, D = 768", xlabel="B", ylabel="us", yscale="log")
    axes.grid(alpha=0.3)


def _training(axes: Any, run: Run) -> None:
    bars = []
    for kind in ("training", "epoch"):
        for workload in run.names(kind):
            for name in run.contenders(workload):
                if each := run.measured(workload, name, PER_UTTERANCE):
                    bars += [(f"{kind}\n{name}", 1 / each.median)]
    if bars:
        axes.bar(*zip(*bars, strict=True), color="#0072b2")
    axes.set(title="training throughput", ylabel="utterances/s")
    axes.grid(alpha=0.3, axis="y")
