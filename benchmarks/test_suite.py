"""The suite as pytest-benchmark sees it: a test for each contender of each workload.

    make bench                                               # all of it, with report and README
    python -m pytest benchmarks -k "8192" --benchmark-only   # some of it
    python -m pytest benchmarks --smoke

Contenders of a workload are measured together, in interleaved rounds, when the first of its tests
runs (benchmarks/timing.py); each test hands its contender's rounds to pytest-benchmark, whose clock
here is what was measured. A contender that is wrong fails, one that was not run is skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from benchmarks.results import BOTH, NOT_RUN, WRONG, Run
from benchmarks.suite import record
from benchmarks.timing import Workload


class _Replay:
    """A clock that stands where the recorded rounds put it."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def pass_time(self, seconds: Iterator[float]) -> None:
        self.now += next(seconds)


CLOCK = _Replay()


@pytest.mark.timeout(0)
@pytest.mark.benchmark(timer=CLOCK)
def test_contender(
    benchmark: Any,
    document: Run,
    keep: Callable[[Run], None],
    workload: Workload,
    contender: str,
) -> None:
    if workload.name not in document.workloads:
        record(workload, document)
        keep(document)
    found = [
        result
        for result in document.results
        if (result.workload, result.contender) == (workload.name, contender)
    ]
    assert found, "a contender left no result"
    for result in found:
        if result.status == WRONG:
            pytest.fail(f"wrong: {result.reason}")
        if result.status == NOT_RUN:
            pytest.skip(f"not run: {result.reason}")
    main = next((result for result in found if result.figure == BOTH), found[0])
    values = iter(main.values)
    benchmark.extra_info.update(
        workload=workload.name, contender=contender, figure=main.figure, unit=main.unit
    )
    benchmark.group = workload.name
    benchmark.pedantic(CLOCK.pass_time, args=(values,), rounds=len(main.values), iterations=1)
