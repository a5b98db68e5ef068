"""Rounds of interleaved contenders within a stated budget, and clocks for both devices."""

from __future__ import annotations

import gc
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.results import BOTH, FORWARD, MEASURED, NOT_RUN, WRONG, Result

MIN_ROUNDS = 3  # a contender that is slower than its share still gets so many, if budget is left


class WrongResult(AssertionError):
    """A contender's numbers are not those of the float64 truth."""


@dataclass(kw_only=True)
class Entry:
    """A contender in a workload.

    Attributes:
        name: what reports call it.
        measure: one round by its number, on inputs of that number; figure -> value.
        check: raises WrongResult.
        probe: a call at a size that is quick for anyone, after which `predicted` can tell.
        warm: what has to happen once before; by default a round whose figures are dropped.
        absent: why it cannot run here.
        predicted: seconds that one call will take, if that can be told.
        unit: of the figures.
    """

    name: str
    measure: Callable[[int], dict[str, float]]
    check: Callable[[], None] = lambda: None
    probe: Callable[[], None] = lambda: None
    warm: Callable[[], object] | None = None
    absent: str | None = None
    predicted: Callable[[], float | None] = lambda: None
    unit: str = "s"


@dataclass(kw_only=True)
class Workload:
    """What is measured, by whom and for how long.

    Attributes:
        name: unique.
        kind: which table and plot it goes to.
        facts: sizes and the like.
        names: of the entries, in the order of the first round.
        entries: made when it runs.
        budget: seconds for all of it: checks, warm-up and rounds. It may be exceeded by one call of
            each contender that was ready in time.
        cap: seconds; a call that is predicted to take longer is not made.
        rounds: at most.
        close: called at the end.
    """

    name: str
    kind: str
    facts: dict[str, Any]
    names: tuple[str, ...]
    entries: Callable[[], list[Entry]]
    budget: float
    cap: float = 12.0
    rounds: int = 200
    close: Callable[[], None] = lambda: None


@dataclass
class _State:
    """How far an entry is."""

    entry: Entry
    spent: float = 0.0
    last: float = 0.0
    failure: tuple[str, str] | None = None
    numbers: list[int] = field(default_factory=list)
    figures: dict[str, list[float]] = field(default_factory=dict)


def run_workload(
    workload: Workload, now: Callable[[], float] = time.perf_counter
) -> tuple[list[Result], float]:
    """Measure a workload; its results and the seconds it took."""
    begun = now()
    try:
        results = _run(workload, begun, now)
    finally:
        workload.close()
    return results, now() - begun


def _run(workload: Workload, begun: float, now: Callable[[], float]) -> list[Result]:
    results: list[Result] = []
    active: list[_State] = []

    def without(entry: Entry, status: str, reason: str) -> None:
        results.append(
            Result(
                workload=workload.name,
                contender=entry.name,
                unit=entry.unit,
                status=status,
                reason=reason,
            )
        )

    def too_long(entry: Entry) -> float | None:
        predicted = entry.predicted()
        return predicted if predicted is not None and predicted > workload.cap else None

    for entry in workload.entries():
        if entry.absent is not None:
            without(entry, NOT_RUN, entry.absent)
            continue
        if now() - begun > workload.budget:
            without(entry, NOT_RUN, f"the workload's {workload.budget:g} s were over")
            continue
        # What an earlier, smaller workload took tells whether to begin at all; where there was
        # none, a probe and a warm-up at a smaller size tell whether to go on.
        try:
            if not too_long(entry):
                entry.check()
                entry.probe()
            if not too_long(entry):
                if entry.warm is not None:
                    entry.warm()
                else:
                    entry.measure(0)
        except Exception as error:
            without(entry, *_failure(error))
        else:
            if seconds := too_long(entry):
                reason = (
                    f"about {seconds:.0f} s a call, from a smaller size; cap {workload.cap:g} s"
                )
                without(entry, NOT_RUN, reason)
            else:
                active.append(_State(entry))
    _rounds(workload, active, begun, now)
    for state in active:
        if state.failure is not None:
            without(state.entry, *state.failure)
            continue
        for figure, values in state.figures.items():
            results.append(
                Result(
                    workload=workload.name,
                    contender=state.entry.name,
                    figure=figure,
                    unit=state.entry.unit,
                    status=MEASURED,
                    rounds=state.numbers,
                    values=values,
                )
            )
    return results


def _rounds(
    workload: Workload, active: list[_State], begun: float, now: Callable[[], float]
) -> None:
    """Turns until the budget is spent; who is slow has fewer of them."""
    if not active:
        return
    share = max(0.0, workload.budget - (now() - begun)) / len(active)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for number in range(1, workload.rounds + 1):
            turns = [
                state
                for state in active
                if state.failure is None
                and (len(state.numbers) < MIN_ROUNDS or state.spent + state.last <= share)
            ]
            # Whoever is first meets the caches of whoever was last: take turns at that, too.
            first = number % len(turns) if turns else 0
            for state in turns[first:] + turns[:first]:
                start = now()
                # One round is everyone's, whatever the preparations of others took.
                if state.numbers and start - begun + state.last > workload.budget:
                    continue
                try:
                    measured = state.entry.measure(number)
                except Exception as error:  # one that fails takes no other's figures with it
                    state.failure = _failure(error)
                    continue
                for figure, value in measured.items():
                    state.figures.setdefault(figure, []).append(value)
                state.numbers.append(number)
                state.last = now() - start
                state.spent += state.last
            if not turns or now() - begun > workload.budget:
                return
            if all(now() - begun + state.last > workload.budget for state in turns):
                return
    finally:
        if collecting:
            gc.enable()


def _failure(error: Exception) -> tuple[str, str]:
    """Status and reason of who raised it."""
    if isinstance(error, WrongResult):
        return WRONG, str(error)
    return NOT_RUN, f"{type(error).__name__}: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    line = (str(error).strip().splitlines() or ["no message"])[0][:200]
    return re.sub(r"(?<!\w)/[\w./-]+", "(a path)", line)  # results are committed


class Clock:
    """Time between marks: the wall on a CPU, events on a GPU, whose L2 is swept before."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._sweep = torch.empty(0)
        if device == "cuda":
            self._sweep = torch.empty(256 << 20, dtype=torch.int8, device="cuda")  # over any L2

    def ready(self) -> None:
        """Before the first mark: inputs are made and nothing is running."""
        if self.device == "cuda":
            self._sweep.zero_()
            torch.cuda.synchronize()

    def mark(self) -> Any:
        if self.device == "cpu":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, first: Any, last: Any) -> float:
        """Seconds."""
        if self.device == "cpu":
            return float(last - first)
        last.synchronize()
        return float(first.elapsed_time(last)) / 1000

    def phases(self, forward: Callable[[], torch.Tensor]) -> dict[str, float]:
        """Seconds of a loss and of its gradients, which are left in the leaves."""
        self.ready()
        begin = self.mark()
        loss = forward()
        middle = self.mark()
        loss.backward()
        end = self.mark()
        return {BOTH: self.between(begin, end), FORWARD: self.between(begin, middle)}

    def single(self, call: Callable[[], object], figure: str = BOTH) -> dict[str, float]:
        """Seconds of a call."""
        self.ready()
        begin = self.mark()
        call()
        return {figure: self.between(begin, self.mark())}
