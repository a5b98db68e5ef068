"""The workloads of `make bench` (CPU), of scripts/gpu_check.sh (GPU) and of the smoke test."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from benchmarks import contrastive, memory, memory_bank, objective, training, two_processes
from benchmarks.contenders import COMPILED, KEOPS
from benchmarks.results import Run
from benchmarks.timing import Workload, run_workload

BATCHES = (12, 22, 32)  # per device, in the paper's runs


def cpu() -> list[Workload]:
    """Smaller sizes first: they tell what larger ones will take. Budgets in seconds."""
    loss, peak = contrastive.workload, memory.workload
    return [
        contrastive.speed_of_light("cpu", budget=3),
        # torch.compile's imports and first compilation come with the first of them.
        *(
            objective.workload(batch, "cpu", budget=20 if batch == BATCHES[0] else 9)
            for batch in BATCHES
        ),
        training.step_workload("cpu", budget=55),
        loss(256, 128, "cpu", budget=34, cap=10, rounds=20),  # KeOps compiles here, once
        loss(1024, 128, "cpu", budget=12),
        loss(4096, 128, "cpu", budget=20, cap=6),
        loss(16384, 128, "cpu", budget=50, cap=8),
        loss(65536, 128, "cpu", budget=40, cap=16, rounds=3),
        loss(4096, 256, "cpu", budget=12),
        loss(16384, 256, "cpu", budget=22),
        loss(256, 768, "cpu", budget=10),
        loss(2048, 768, "cpu", budget=18, tiles=True),
        loss(8192, 768, "cpu", budget=50, tiles=True),
        loss(16384, 768, "cpu", budget=28, cap=8),
        peak(1024, 128, "cpu", budget=20),
        peak(4096, 128, "cpu", budget=15),
        peak(16384, 128, "cpu", budget=35, cap=10),
        peak(65536, 128, "cpu", budget=16, cap=16),
        memory_bank.workload(32, 65536, 768, "cpu", budget=18),
        two_processes.workload(2048, 768, budget=25),
        training.epoch_workload("cpu", budget=22),
    ]


def cuda() -> list[Workload]:
    """The most telling first: whatever stops the run, they are kept."""
    loss, peak = contrastive.workload, memory.workload
    return [
        loss(16384, 768, "cuda", budget=20, tiles=False),
        *(objective.workload(batch, "cuda", budget=8) for batch in reversed(BATCHES)),
        peak(16384, 128, "cuda", budget=10),
        training.step_workload("cuda", budget=20, hidden_size=768),
        loss(65536, 256, "cuda", budget=12, rounds=10),
        contrastive.speed_of_light("cuda", budget=2),
        loss(1024, 768, "cuda", budget=8),
        loss(4096, 768, "cuda", budget=8),
        loss(65536, 768, "cuda", budget=10, rounds=10),
        loss(262144, 128, "cuda", budget=10, rounds=5),
        loss(1 << 20, 128, "cuda", budget=15, rounds=3),
        peak(65536, 128, "cuda", budget=8),
        peak(262144, 128, "cuda", budget=8),
        memory_bank.workload(32, 65536, 768, "cuda", budget=8),
        training.epoch_workload("cuda", budget=20, hidden_size=768),
    ]


def smoke() -> list[Workload]:
    """Every kind of workload, tiny: whether the suite works, not how fast; budgets do not bind.

    Without the contenders that compile, which takes longer than all the rest.
    """
    ample = 300.0
    every = [
        contrastive.speed_of_light("cpu", budget=ample),
        objective.workload(12, "cpu", budget=ample, rounds=2),
        contrastive.workload(96, 128, "cpu", budget=ample, rounds=2, tiles=True),
        memory_bank.workload(4, 300, 16, "cpu", budget=ample, rounds=2),
        two_processes.workload(32, 16, budget=ample, rounds=2),
        training.step_workload("cpu", budget=ample, hidden_size=8, dialogues=1, layers=1),
        training.epoch_workload("cpu", budget=ample, hidden_size=8, utterances=24),
    ]
    for workload in every:
        workload.rounds = min(workload.rounds, 2)
    return [_without(workload, COMPILED, KEOPS) for workload in every]


def _without(workload: Workload, *names: str) -> Workload:
    """The workload without some of its contenders."""
    entries = workload.entries
    workload.names = tuple(name for name in workload.names if name not in names)
    workload.entries = lambda: [entry for entry in entries() if entry.name not in names]
    return workload


def execute(
    workloads: Iterable[Workload],
    run: Run,
    *,
    seconds: float | None = None,
    after_each: Callable[[Run], None] = lambda run: None,
    say: Callable[[str], None] = print,
) -> None:
    """Run workloads into `run`; none is begun that no longer fits into `seconds`."""
    spent = 0.0
    for workload in workloads:
        if seconds is not None and spent + workload.budget > seconds:
            say(f"{workload.name}: not begun, {seconds:g} s would be over")
            continue
        spent += record(workload, run)
        after_each(run)
        for line in summary(run, workload.name):
            say(line)


def record(workload: Workload, run: Run) -> float:
    """Run one workload into `run`; the seconds it took."""
    results, took = run_workload(workload)
    run.results.extend(results)
    run.workloads[workload.name] = {
        "kind": workload.kind,
        "facts": workload.facts,
        "budget_seconds": workload.budget,
        "cap_seconds": workload.cap,
        "took_seconds": round(took, 1),
    }
    return took


def summary(run: Run, name: str) -> list[str]:
    """A workload's results in lines for a terminal."""
    about = run.workloads[name]
    lines = [f"{name}: {about['took_seconds']:g} s of {about['budget_seconds']:g} s"]
    for result in run.results:
        if result.workload != name:
            continue
        what = f"  {result.contender:28} {result.figure:20}"
        if result.values:
            unit = f"{result.median:12.6g} {result.unit}, {len(result.values)} rounds"
            lines.append(what + unit)
        else:
            lines.append(f"{what}{result.status}: {result.reason}")
    return lines
