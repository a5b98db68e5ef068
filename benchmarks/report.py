"""The CPU table and plot, from pytest-benchmark's JSON.

    python -m benchmarks.report RAW.json benchmarks/results/cpu.json docs/figures/cpu.svg

Prints the table, and writes it beside the second file, which keeps medians, ratios and the machine;
draws the third.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import univa_kernels

OURS = "univa_kernels"
BOTH = "forward + backward"


def condense(raw: dict[str, Any]) -> dict[str, Any]:
    """What is worth keeping of a pytest-benchmark run."""
    results = []
    for entry in raw["benchmarks"]:
        facts = entry["extra_info"]
        if facts["kind"] != "memory":
            stats = entry["stats"]
            quartiles = [stats["q1"], stats["q3"]]
            facts = facts | {"median_seconds": stats["median"], "quartiles_seconds": quartiles}
        results.append(facts)
    machine = raw["machine_info"]
    return {
        "date": raw["datetime"],
        "machine": {
            "cpu": machine["cpu"].get("brand_raw", platform.processor()),
            "threads": torch.get_num_threads(),
            "system": f"{machine['system']} {machine['machine']}",
            "python": machine["python_version"],
            "torch": torch.__version__,
            "univa_kernels": univa_kernels.__version__,
            "pytorch-metric-learning": version("pytorch-metric-learning"),
            "commit": raw["commit_info"].get("id"),
        },
        "command": "make bench-cpu",
        "results": results,
    }


def find(results: Iterable[dict[str, Any]], **facts: object) -> dict[str, Any] | None:
    """The result of which all these facts are true."""
    for result in results:
        if all(result.get(key) == value for key, value in facts.items()):
            return result
    return None


def table(run: dict[str, Any]) -> str:
    """Markdown: the headline figures, then every ratio."""
    results = run["results"]

    def ratio(**facts: object) -> str:
        result = find(results, **facts)
        if result is None:
            return "-"
        low, high = result["ratio_quartiles"]
        return f"{result['ratio']:.2f} ({low:.2f}-{high:.2f})"

    def mib(name: str, size: int) -> str:
        result = find(results, kind="memory", name=name, size=size)
        return f"{result['mib']:.0f} MiB" if result else "-"

    machine = run["machine"]
    plain = "vectorised PyTorch"
    lines = [
        f"{machine['cpu']}, {machine['threads']} threads, torch {machine['torch']}, "
        f"{run['date'][:10]}",
        "",
        "Medians (quartiles), float32; 1 is one bare N x N x D `torch.mm` of the same round",
        "",
        "| figure | vectorised PyTorch | univa_kernels |",
        "|---|---|---|",
    ]
    for size, phase in ((8192, BOTH), (2048, BOTH), (8192, "forward"), (2048, "forward")):
        cells = [ratio(name=name, size=size, dim=768, phase=phase) for name in (plain, OURS)]
        lines.append(f"| {phase}, N = {size}, D = 768 | {' | '.join(cells)} |")
    lines.append(
        f"| peak memory above the inputs (16 MiB), N = 16384, D = 256 | {mib(plain, 16384)} | "
        f"{mib(OURS, 16384)} |"
    )
    lines.append(
        "| UniVALoss over vectorised PyTorch, B = 32, D = 768, 3 modalities, forward + backward "
        f"| 1 | {ratio(kind='objective', phase=BOTH)} |"
    )
    names = list(dict.fromkeys(r["name"] for r in results if r["kind"] == "time"))
    lines += ["", f"| N | D | phase | {' | '.join(names)} |", "|---|---|---|" + "---|" * len(names)]
    times = [r for r in results if r["kind"] == "time" and r["phase"] != "out="]
    keys = dict.fromkeys((r["size"], r["dim"], r["phase"]) for r in times)
    for size, dim, phase in sorted(keys):
        cells = [
            ratio(
                name=name, size=size, dim=dim, phase="out=" if name.endswith("out=") else phase
            ).split()[0]
            for name in names
        ]
        lines.append(f"| {size} | {dim} | {phase} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(run: dict[str, Any], path: Path) -> None:
    """Time and memory against N, D = 768 and 256."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams["svg.hashsalt"] = "univa"  # the same file for the same numbers
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    colours = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # Okabe and Ito
    results = run["results"]
    names = list(dict.fromkeys(r["name"] for r in results if r["kind"] == "memory"))
    for name, colour in zip(names, colours, strict=False):
        timed = [r for r in results if r["name"] == name and r.get("dim") == 768]
        timed = sorted((r["size"], r["median_seconds"]) for r in timed if r["phase"] == BOTH)
        left.plot(*zip(*timed, strict=True), marker="o", color=colour, label=name)
        held = [r for r in results if r["name"] == name and r["kind"] == "memory"]
        held_at = sorted((r["size"], max(r["mib"], 1)) for r in held)
        right.plot(*zip(*held_at, strict=True), marker="o", color=colour, label=name)
    left.set(title="forward + backward, D = 768", ylabel="seconds")
    right.set(title="peak memory above the inputs, D = 256", ylabel="MiB")
    for axes in (left, right):
        axes.set(xscale="log", yscale="log", xlabel="N")
        axes.set_xscale("log", base=2)
        axes.grid(alpha=0.3)
    left.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Read the raw run, write the condensed one and the plot, print the table."""
    raw, kept, plot = map(Path, sys.argv[1:4])
    run = condense(json.loads(raw.read_text()))
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(run, indent=1) + "\n")
    draw(run, plot)
    kept.with_suffix(".md").write_text(table(run) + "\n")
    print(table(run))


if __name__ == "__main__":
    main()
