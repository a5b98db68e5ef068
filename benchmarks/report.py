"""The Markdown report of a run: tables and plots, all of it from the run's JSON.

python -m benchmarks report build/bench.json      # what `make bench` calls
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.contenders import OURS, PLAIN
from benchmarks.contrastive import BARE, COPY
from benchmarks.plots import draw
from benchmarks.results import (
    BOTH,
    BUSY,
    FORWARD,
    MEASURED,
    PEAK,
    STEP,
    WRONG,
    Result,
    Run,
    paired,
    quartiles,
)
from benchmarks.train_step import OURS as OUR_STEP
from benchmarks.train_step import STRAIGHT
from benchmarks.training import PER_UTTERANCE
from univa.utils.files import atomic_write_text


def seconds(value: float) -> str:
    """With a unit that suits."""
    for scale, unit in ((1.0, "s"), (1e-3, "ms")):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value * 1e6:.3g} us"


def mebibytes(value: float) -> str:
    """MiB without false digits."""
    return f"{value:,.0f} MiB" if value >= 10 else f"{value:.1f} MiB"


def _spread(result: Result, show: Callable[[float], str]) -> str:
    low, middle, high = quartiles(result.values)
    return f"{show(middle)} ({show(low)} to {show(high)})"


def _median(result: Result, show: Callable[[float], str]) -> str:
    """With quartiles and the number of rounds; one round has neither quartiles nor a median."""
    if len(result.values) == 1:
        return f"{show(result.median)} (1 round)"
    return f"{_spread(result, show)[:-1]}; {len(result.values)})"


def machine_line(run: Run) -> str:
    """The machine in a line."""
    facts = run.machine
    where = f"{facts['cpu']}, {facts['threads']} threads, {facts['memory_gib']} GiB"
    if run.device == "cuda":
        where = f"{facts['gpu']} (CUDA {facts['cuda']}), {where}"
    return f"{where}, torch {facts['torch']}, {run.date[:10]}"


def _not_measured(run: Run, kinds: tuple[str, ...]) -> Iterator[str]:
    """Who is wrong and who was not run, and why; the same reason once."""
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for name, about in run.workloads.items():
        if about["kind"] not in kinds:
            continue
        for result in run.results:
            if result.workload == name and result.status != MEASURED:
                key = (result.contender, result.status, result.reason or "")
                reasons.setdefault(key, []).append(name)
    everything = [name for kind in kinds for name in run.names(kind)]
    for (contender, status, reason), places in reasons.items():
        where = "everywhere" if places == everything else ", ".join(_short(p) for p in places)
        label = f"**{status}**" if status == WRONG else status
        yield f"- {contender}, {where}: {label}: {reason}."


def _short(workload: str) -> str:
    return workload.partition(" ")[2] or workload


def _table(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _names(run: Run, workloads: list[str]) -> list[str]:
    """Contenders with a figure in one of the workloads."""
    return list(
        dict.fromkeys(
            result.contender
            for name in workloads
            for result in run.results
            if result.workload == name and result.values
        )
    )


def _contrastive(run: Run) -> Iterator[str]:
    workloads = run.names("contrastive")
    names = [name for name in _names(run, workloads) if name != BARE]
    yield "## A set against itself"
    yield ""
    yield (
        "Median time of loss and gradient over the bare product `X X^T` of the same round and "
        "inputs (1 is the speed of one such product; lower is better), quartiles in parentheses. "
        "Products whose result exceeds 1 GiB are made in blocks of rows."
    )
    for figure in (BOTH, FORWARD):
        yield ""
        yield f"### {figure[0].upper()}{figure[1:]}"
        yield ""
        rows = []
        for workload in workloads:
            bare = run.measured(workload, BARE)
            facts = run.workloads[workload]["facts"]
            row = [str(facts["size"]), str(facts["dim"]), seconds(bare.median) if bare else "-"]
            for name in names:
                found = run.measured(workload, name, figure)
                ratios = paired(found, bare) if found and bare else []
                if ratios:
                    low, middle, high = quartiles(ratios)
                    row.append(f"{middle:.2f} ({low:.2f}-{high:.2f}; {len(ratios)})")
                else:
                    row.append("-")
            rows.append(row)
        yield from _table(["N", "D", BARE, *names], rows)
    yield ""
    yield "In parentheses the quartiles and the number of rounds. Not measured:"
    yield ""
    yield from _not_measured(run, ("contrastive",))


def _by_contender(
    run: Run, kind: str, figures: tuple[str, ...], title: str, text: str
) -> Iterator[str]:
    """A table of medians and quartiles: a row for each workload and figure."""
    workloads = run.names(kind)
    if not workloads:
        return
    names = _names(run, workloads)
    rows = []
    for workload in workloads:
        for figure in figures:
            row = [_short(workload), figure]
            for name in names:
                found = run.measured(workload, name, figure)
                show = mebibytes if found and found.unit == "MiB" else seconds
                row.append("-" if found is None else _median(found, show))
            if row[2:] != ["-"] * len(names):
                rows.append(row)
    yield f"## {title}"
    yield ""
    yield text
    yield ""
    yield from _table(["", "figure", *names], rows)
    missing = list(_not_measured(run, (kind,)))
    if missing:
        yield ""
        yield from missing
    yield ""


def _throughput(run: Run) -> Iterator[str]:
    rows = []
    for kind in ("training", "epoch"):
        for workload in run.names(kind):
            for name in run.contenders(workload):
                step = run.measured(workload, name, STEP)
                each = run.measured(workload, name, PER_UTTERANCE)
                if step is None or each is None:
                    continue
                low, middle, high = (1 / value for value in reversed(quartiles(each.values)))
                total = run.workloads[workload]["facts"].get("steps_of_epoch")
                ran = f"{len(step.values)} of {total} steps" if total else f"{len(step.values)}"
                rows.append(
                    [
                        workload,
                        name,
                        _spread(step, seconds),
                        f"{middle:.3g} ({low:.3g} to {high:.3g})",
                        ran,
                    ]
                )
    if not rows:
        return
    yield "## Training"
    yield ""
    yield (
        "A step of the whole model on random data of CMU-MOSEI's shape (benchmarks/train_step.py "
        "says what both contenders do). Lengths of sequences are drawn from log-normal "
        "distributions, an assumption: they are not CMU-MOSEI's own."
    )
    for workload in run.names("epoch"):
        facts = run.workloads[workload]["facts"]
        yield (
            f"The epoch has {facts['utterances']} such utterances, through `univa train`'s own "
            "data path. Where fewer steps than it has are listed, only these ran, and the time of "
            "the whole epoch was not measured."
        )
    yield ""
    yield from _table(["workload", "contender", "step", "utterances/s", "steps"], rows)
    missing = list(_not_measured(run, ("training", "epoch")))
    if missing:
        yield ""
        yield from missing
    yield ""


def headline(run: Run) -> list[tuple[str, str, str]]:
    """The README's figures: what, this library, and the plain way; only what was measured."""
    backend = f"{OURS} ({'cuda' if run.device == 'cuda' else 'cpu'})"
    lines = []
    small = "objective B=32 D=768"
    own, plain = run.measured(small, backend), run.measured(small, PLAIN)
    if own and plain:
        what = "loss and gradients of a training batch: B = 32, D = 768, three modalities"
        lines.append((what, seconds(own.median), f"{seconds(plain.median)} ({PLAIN})"))
    for workload in run.names("memory"):
        facts = run.workloads[workload]["facts"]
        own = run.measured(workload, backend, PEAK)
        plain = run.measured(workload, PLAIN, PEAK)
        if facts["size"] == 16384 and own and plain:
            what = f"peak memory above the inputs: N = {facts['size']}, D = {facts['dim']}"
            beside = f"{mebibytes(plain.median)} ({PLAIN})"
            lines.append((what, mebibytes(own.median), beside))
    for workload in run.names("training"):
        own = run.measured(workload, OUR_STEP, PER_UTTERANCE)
        plain = run.measured(workload, STRAIGHT, PER_UTTERANCE)
        if own and plain:
            facts = run.workloads[workload]["facts"]
            what = (
                f"training throughput: whole model, float32, width {facts['hidden']}, "
                f"{facts['utterances']} utterances a step"
            )
            beside = f"{1 / plain.median:.3g} utterances/s (the authors' step in plain PyTorch)"
            lines.append((what, f"{1 / own.median:.3g} utterances/s", beside))
    return lines


def markdown(run: Run, plots: str | None) -> str:
    """The report. `plots` is the file name of the figure beside it."""
    lines = [f"# Benchmarks: {run.machine['gpu' if run.device == 'cuda' else 'cpu']}", ""]
    lines += [f"{machine_line(run)}. Made by `{run.command}`.", ""]
    if (run.machine["busy_before_percent"] or 0) > BUSY:  # null: not known
        lines += [
            f"**Other processes were running** ({run.machine['busy_before_percent']} % of all "
            "cores at the start): absolute times are too long, ratios noisy.",
            "",
        ]
    took = sum(about["took_seconds"] for about in run.workloads.values())
    budget = sum(about["budget_seconds"] for about in run.workloads.values())
    lines += [
        f"Contenders of a workload take turns in rounds, each round with fresh inputs; they were "
        f"held against a float64 truth and warmed up before. Figures are medians with quartiles "
        f"and the number of rounds. Budgets of all workloads: {budget:g} s; they took {took:.0f} "
        "s. A call that a smaller size predicts to exceed its workload's cap is not made, and said "
        "so.",
        "",
    ]
    if run.not_begun:
        lines += [f"Not begun, the time for all was over: {', '.join(run.not_begun)}.", ""]
    found = headline(run)
    if found:
        lines += [*_table(["figure", "univa", "beside"], [list(row) for row in found]), ""]
    if plots:
        lines += [f"![plots]({plots})", ""]
    else:
        lines += ["No plots: matplotlib is not installed where the report was made.", ""]
    if run.names("contrastive"):
        lines += [*_contrastive(run), ""]
    lines += _by_contender(
        run,
        "objective",
        (BOTH, FORWARD),
        "The whole objective at training batch sizes",
        "One eager step of UniVALoss: KL, prior and three contrastive terms, float32.",
    )
    lines += _by_contender(
        run,
        "memory",
        (PEAK,),
        "Peak memory",
        "Of loss and gradient above what was held before: the highest resident set of a process "
        "of its own on a CPU, the allocator's peak on a GPU.",
    )
    lines += _by_contender(
        run,
        "memory bank",
        (BOTH, FORWARD),
        "Cross-batch memory",
        "A batch against itself and the rows remembered; the batch is remembered, too.",
    )
    lines += _by_contender(
        run,
        "distributed",
        (BOTH,),
        "Gathered from two processes",
        "The slower rank's time; gloo, one thread each.",
    )
    lines += _throughput(run)
    copy = run.measured("copy bandwidth", COPY)
    if copy is not None:
        rate = run.workloads["copy bandwidth"]["facts"]["bytes_moved"] / copy.median / 1e9
        lines += [
            f"Copy bandwidth of the same run ({COPY}): {rate:.1f} GB/s, read and written.",
            "",
        ]
    versions = ("python", "torch", "triton", "pytorch-metric-learning", "pykeops", "compiler")
    lines += ["Versions: " + ", ".join(f"{k} {run.machine.get(k, '-')}" for k in versions) + "."]
    return "\n".join(lines) + "\n"


def write(run: Run, path: Path) -> None:
    """Write `path` (JSON), and beside it the report (.md) and the plots (.svg)."""
    run.save(path)
    picture = path.with_suffix(".svg")
    drawn = draw(run, picture)
    atomic_write_text(path.with_suffix(".md"), markdown(run, picture.name if drawn else None))
