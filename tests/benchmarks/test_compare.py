"""`python -m benchmarks compare`: ratios, intervals, exit status, refusals."""

import json
import math
import sys

import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks.compare import compare, ratio
from benchmarks.results import NOT_RUN, WRONG, Result, Run, load
from univa.errors import UserError

MACHINE = {"cpu": "a CPU", "threads": 2}


def rounds(median: float, count: int = 40, spread: float = 0.02, seed: int = 0) -> list[float]:
    drawn = np.random.default_rng(seed).normal(median, spread * median, count)
    return drawn.tolist()


def result(workload: str, values: list[float], contender: str = "ours", **more) -> Result:
    numbers = list(range(1, len(values) + 1))
    return Result(workload=workload, contender=contender, values=values, rounds=numbers, **more)


def run(*results: Result) -> Run:
    workloads = {
        each.workload: {"kind": "x", "facts": {}, "budget_seconds": 1, "took_seconds": 1}
        for each in results
    }
    return Run(
        device="cpu",
        command="test",
        machine=MACHINE,
        date="2026-01-01",
        workloads=workloads,
        results=list(results),
    )


def call(monkeypatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["benchmarks", *map(str, arguments)])
    return command.main()


@pytest.fixture
def files(tmp_path):
    def save(**runs: Run):
        for name, each in runs.items():
            each.save(tmp_path / f"{name}.json")
        return [tmp_path / f"{name}.json" for name in runs]

    return save


def test_what_is_saved_is_what_is_loaded(files):
    before = run(
        result("a", rounds(1.0)),
        result("b", [], status=NOT_RUN, reason="too large: 10 GiB"),
        result("c", [3.0], unit="MiB", figure="peak memory"),
    )
    (path,) = files(A=before)
    assert load(path).document() == before.document()


def test_interval_holds_the_true_ratio_and_narrows_with_rounds():
    wide = ratio(result("a", rounds(1.0, 10)), result("a", rounds(1.3, 10, seed=1)))
    narrow = ratio(result("a", rounds(1.0, 400)), result("a", rounds(1.3, 400, seed=1)))
    for each in (wide, narrow):
        assert each.low < 1.3 < each.high
        assert each.low <= each.ratio <= each.high
    assert narrow.high - narrow.low < 0.5 * (wide.high - wide.low)


def test_interval_of_a_bootstrap_is_that_of_normal_theory():
    # The median of n normal values has standard deviation 1.2533 sigma / sqrt(n).
    found = ratio(result("a", rounds(1.0, 900)), result("a", rounds(1.0, 900, seed=5)))
    expected = 2 * 1.96 * 0.02 * 1.2533 / 30 * 2**0.5
    assert found.high - found.low == pytest.approx(expected, rel=0.3)


@pytest.mark.parametrize(
    ("after", "factor", "status"),
    [(1.0, 1.2, 0), (1.5, 1.2, 1), (1.5, 2.0, 0), (0.5, 1.2, 0), (1.21, 1.2, 0)],
)
def test_exit_status(monkeypatch, files, capsys, after, factor, status):
    # 1.21 is beyond 1.2, but its interval is not.
    a, b = files(
        A=run(result("a", rounds(1.0, 8, 0.05))), B=run(result("a", rounds(after, 8, 0.05, seed=1)))
    )
    assert call(monkeypatch, "compare", a, b, "--factor", factor) == status
    assert ("REGRESSION" in capsys.readouterr().out) == bool(status)


def test_few_rounds_are_judged_by_the_ratio_and_said_so(monkeypatch, files, capsys):
    memory = {"figure": "peak memory", "unit": "MiB"}
    a, b = files(A=run(result("a", [20.0], **memory)), B=run(result("a", [45.0], **memory)))
    assert call(monkeypatch, "compare", a, b) == 1
    assert "too few rounds for an interval" in capsys.readouterr().out


def test_missing_workloads_are_named(monkeypatch, files, capsys):
    a, b = files(
        A=run(result("a", [1.0]), result("gone", [1.0])),
        B=run(result("a", [1.0]), result("new", [1.0])),
    )
    assert call(monkeypatch, "compare", a, b) == 0
    text = capsys.readouterr().out
    assert "missing in B: gone | ours" in text
    assert "only in B: new | ours" in text


def test_what_became_wrong_fails(files):
    before, after = run(result("a", [1.0])), run(result("a", [], status=WRONG, reason="off"))
    found = compare(before, after)
    assert found.failed(2.0)
    assert "WRONG in B: a | ours" in "\n".join(found.lines(2.0))


def test_nothing_in_common_fails(monkeypatch, files):
    a, b = files(A=run(result("a", [1.0])), B=run(result("b", [1.0])))
    assert call(monkeypatch, "compare", a, b) == 1


def test_plain_pytest_benchmark_files(monkeypatch, tmp_path, capsys):
    for name, factor in (("A", 1.0), ("B", 3.0)):
        entry = {
            "fullname": "test_x.py::test_y",
            "stats": {"median": factor, "data": [factor * (1 + k / 100) for k in range(10)]},
        }
        (tmp_path / f"{name}.json").write_text(json.dumps({"benchmarks": [entry]}))
    assert call(monkeypatch, "compare", tmp_path / "A.json", tmp_path / "B.json") == 1
    assert "test_x.py::test_y    3.000" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file"),
        ("{", "is not JSON"),
        ("[]", "not a result of the benchmark suite"),
        ('{"gpu": "x"}', "not a result of the benchmark suite"),
        ('{"schema": 1, "results": [{"name": "x"}]}', "not a result of the benchmark suite"),
        ('{"schema": 1, "results": []}', "not a result of the benchmark suite"),
        ('{"benchmarks": [{"stats": {}}]}', "not a result of the benchmark suite"),
        ('{"benchmarks": [], "univa": null}', "not a result of the benchmark suite"),
    ],
)
def test_refusals(tmp_path, text, message):
    path = tmp_path / "A.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message):
        load(path)


@pytest.mark.parametrize("factor", ["0.5", "nan", "inf"])
def test_factor_below_one_is_refused(monkeypatch, files, capsys, factor):
    (a,) = files(A=run(result("a", [1.0])))
    assert call(monkeypatch, "compare", a, a, "--factor", factor) == 2
    assert "--factor must be at least 1" in capsys.readouterr().err


def test_a_figure_that_is_no_number_is_refused(files):
    (a,) = files(A=run(result("a", [1.0, math.nan])))
    with pytest.raises(UserError, match="not a result"):
        load(a)


def test_bad_files_are_no_regression(monkeypatch, tmp_path, capsys):
    (tmp_path / "A.json").write_text("{")
    assert call(monkeypatch, "compare", tmp_path / "A.json", tmp_path / "B.json") == 2
    assert capsys.readouterr().err.startswith("benchmarks: ")


def test_what_this_library_runs_no_more_fails(monkeypatch, files, capsys):
    # Beyond the cap is slower than any factor; a peer that is not installed is no regression.
    both = {"status": NOT_RUN, "reason": "about 40 s a call"}
    before = run(
        *(result("a", [1.0], contender=name) for name in ("univa_kernels (cpu)", "peer", "x"))
    )
    lost = result("a", [], contender="univa_kernels (cpu)", **both)
    peer = result("a", [], contender="peer", **both)
    rest = result("a", [1.0], contender="x")
    a, b, c = files(A=before, B=run(lost, peer, rest), C=run(before.results[0], peer, rest))
    assert call(monkeypatch, "compare", a, b) == 1
    assert "NOT RUN in B: a | univa_kernels (cpu)" in capsys.readouterr().out
    assert call(monkeypatch, "compare", a, c) == 0


def test_other_machines_are_named(monkeypatch, files, capsys):
    before, after = run(result("a", [1.0])), run(result("a", [1.0]))
    after.machine = MACHINE | {"threads": 8}
    a, b = files(A=before, B=after)
    assert call(monkeypatch, "compare", a, a) == 0
    assert "not the same" not in capsys.readouterr().out
    assert call(monkeypatch, "compare", a, b) == 0
    assert "not the same: threads: A 2, B 8" in capsys.readouterr().out
