"""Two runs side by side: ratios with intervals, and whether one is a regression.

    python -m benchmarks compare A.json B.json --factor 1.2

B is judged against A. Files are of the suite or of pytest-benchmark. The interval of a ratio of
medians is a bootstrap over rounds, 95 %. Exit status 1: B is slower, or takes more memory, than A
by more than the factor (where there are rounds enough for an interval, all of it is above the
factor); B reports wrong what A measured; B began the workload, but did not run this library, which
A measured; or they have nothing in common. 2: a file or an option is not what it should be. What
differs between the machines is named first; it is for the reader to judge.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.results import NOT_RUN, WRONG, Result, Run

OWN = "univa"  # begins the names of this library
# What times depend on, and what is named where it differs.
MACHINE = ("cpu", "threads", "memory_gib", "gpu", "cuda", "python", "torch", "triton")
DRAWS = 2000
FEWEST = 5  # rounds of both below which there is no interval, and the ratio alone decides


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """B over A of one figure."""

    key: tuple[str, str, str]
    ratio: float
    low: float | None
    high: float | None

    def regressed(self, factor: float) -> bool:
        """Whether B is worse by more than `factor`."""
        return (self.ratio if self.low is None else self.low) > factor


def ratio(before: Result, after: Result, seed: int = 0) -> Ratio:
    """Ratio of medians with its bootstrap interval."""
    found = after.median / before.median
    if min(len(before.values), len(after.values)) < FEWEST:
        return Ratio(key=before.key, ratio=found, low=None, high=None)
    generator = np.random.default_rng(seed)

    def medians(values: list[float]) -> np.ndarray:
        drawn = generator.choice(np.asarray(values), (DRAWS, len(values)))
        middle: np.ndarray = np.median(drawn, axis=1)
        return middle

    low, high = np.quantile(medians(after.values) / medians(before.values), [0.025, 0.975])
    return Ratio(key=before.key, ratio=found, low=float(low), high=float(high))


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What two runs have in common, and what they have not."""

    ratios: list[Ratio]
    only_before: list[tuple[str, str, str]]
    only_after: list[tuple[str, str, str]]
    wrong: list[tuple[str, str, str]]
    lost: dict[tuple[str, str, str], str]
    differences: list[str]

    def regressions(self, factor: float) -> list[Ratio]:
        """Figures that are worse by more than `factor`."""
        return [each for each in self.ratios if each.regressed(factor)]

    def failed(self, factor: float) -> bool:
        """Whether B is to be refused."""
        return bool(self.regressions(factor) or self.wrong or self.lost or not self.ratios)

    def lines(self, factor: float) -> Iterator[str]:
        """The comparison as text."""
        for line in self.differences:
            yield f"not the same: {line}"
        width = max((len(_name(each.key)) for each in self.ratios), default=0)
        for each in self.ratios:
            interval = "(too few rounds for an interval)"
            if each.low is not None and each.high is not None:
                interval = f"({each.low:.3f} to {each.high:.3f})"
            verdict = f"  REGRESSION beyond {factor:g}" if each.regressed(factor) else ""
            yield f"{_name(each.key):{width}}  {each.ratio:7.3f}  {interval}{verdict}"
        for key in self.only_before:
            yield f"missing in B: {_name(key)}"
        for key in self.only_after:
            yield f"only in B: {_name(key)}"
        for key in self.wrong:
            yield f"WRONG in B: {_name(key)}"
        for key, reason in self.lost.items():
            yield f"NOT RUN in B: {_name(key)}: {reason}"
        if not self.ratios:
            yield "nothing was measured in both"


def _name(key: tuple[str, str, str]) -> str:
    return " | ".join(part for part in key if part != "-")


def compare(before: Run, after: Run) -> Comparison:
    """Put two runs side by side."""
    first = {result.key: result for result in before.results if result.values}
    second = {result.key: result for result in after.results if result.values}
    lost = {
        result.key: result.reason or "no reason given"
        for result in after.results
        if result.status == NOT_RUN and result.contender.startswith(OWN)
    }
    measured = {key[:2] for key in first}
    wrong = {(r.workload, r.contender): r.key for r in after.results if r.status == WRONG}
    return Comparison(
        ratios=[ratio(first[key], second[key]) for key in first if key in second],
        only_before=[key for key in first if key not in second],
        only_after=[key for key in second if key not in first],
        lost={key: reason for key, reason in lost.items() if key[:2] in measured},
        differences=_differences(before, after),
        wrong=[wrong[place] for place in dict.fromkeys(key[:2] for key in first) if place in wrong],
    )


def _differences(before: Run, after: Run) -> list[str]:
    """Devices, machines and versions that are not the same."""
    first = {"device": before.device} | before.machine
    second = {"device": after.device} | after.machine
    return [
        f"{name}: A {first.get(name, '-')}, B {second.get(name, '-')}"
        for name in ("device", *MACHINE)
        if first.get(name) != second.get(name)
    ]
