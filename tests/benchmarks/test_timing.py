"""Rounds, budgets and caps, on a clock that only the contenders move."""

import pytest

from benchmarks.results import MEASURED, NOT_RUN, WRONG
from benchmarks.timing import MIN_ROUNDS, Entry, Workload, WrongResult, run_workload


class Clock:
    def __init__(self):
        self.now = 0.0
        self.turns = []

    def __call__(self):
        return self.now

    def entry(self, name, seconds, **more):
        def measure(number):
            self.now += seconds
            self.turns.append((number, name))
            return {"step": seconds}

        return Entry(name=name, measure=measure, **more)

    def run(self, *entries, **more):
        workload = Workload(
            name="w",
            kind="k",
            facts={},
            names=tuple(entry.name for entry in entries),
            entries=lambda: list(entries),
            **more,
        )
        results, took = run_workload(workload, self)
        assert {each.contender for each in results} == set(workload.names)
        return {each.contender: each for each in results}, took


def test_contenders_take_turns_and_warm_up_does_not_count():
    clock = Clock()
    found, took = clock.run(clock.entry("a", 1.0), clock.entry("b", 1.0), budget=100, rounds=4)
    assert clock.turns[:2] == [(0, "a"), (0, "b")]  # warm-up
    rounds = [sorted(clock.turns[k : k + 2]) for k in range(2, len(clock.turns), 2)]
    assert rounds == [[(number, "a"), (number, "b")] for number in range(1, 5)]
    assert {name for number, name in clock.turns[2::2]} == {"a", "b"}  # who is first changes
    assert found["a"].rounds == [1, 2, 3, 4]
    assert found["a"].values == [1.0] * 4
    assert took == 10


def test_slow_contenders_get_fewer_rounds_within_the_budget():
    clock = Clock()
    found, took = clock.run(clock.entry("slow", 5.0), clock.entry("fast", 0.1), budget=60)
    assert len(found["slow"].values) < 8 < 200 == len(found["fast"].values)
    assert took <= 60


def test_slower_than_its_share_still_has_some_rounds():
    clock = Clock()
    found, _ = clock.run(clock.entry("slow", 8.0), clock.entry("fast", 0.1), budget=40)
    assert len(found["slow"].values) == MIN_ROUNDS


@pytest.mark.parametrize("seconds", [3.0, 11.0, 29.0])
def test_budget_is_exceeded_by_a_call_of_each_at_most(seconds):
    clock = Clock()
    entries = [clock.entry(str(place), seconds) for place in range(6)]
    found, took = clock.run(*entries, budget=30)
    ready = [each for each in found.values() if each.values]
    assert took <= 30 + seconds * (1 + len(ready))
    for each in found.values():
        assert each.values or "30 s were over" in each.reason


def test_predicted_beyond_the_cap_is_not_called():
    clock = Clock()
    found, took = clock.run(
        clock.entry("a", 1.0, predicted=lambda: 40.0),
        clock.entry("b", 1.0, predicted=lambda: 9.0),
        budget=100,
        cap=10,
        rounds=3,
    )
    assert found["a"].status == NOT_RUN
    assert "about 40 s a call" in found["a"].reason
    assert found["b"].status == MEASURED
    assert took == 4


def test_wrong_absent_and_failing_contenders_are_not_timed():
    def wrong():
        raise WrongResult("its value is off")

    def failing():
        raise RuntimeError("no file /home/someone/x.so\nand more")

    clock = Clock()
    found, _ = clock.run(
        clock.entry("wrong", 1.0, check=wrong),
        clock.entry("absent", 1.0, absent="needs a GPU"),
        clock.entry("failing", 1.0, warm=failing),
        clock.entry("right", 1.0),
        budget=50,
        rounds=2,
    )
    assert {name for _, name in clock.turns} == {"right"}
    assert (found["wrong"].status, found["wrong"].reason) == (WRONG, "its value is off")
    assert (found["absent"].status, found["absent"].reason) == (NOT_RUN, "needs a GPU")
    # Results are committed: no path of this machine.
    assert found["failing"].reason == "RuntimeError: no file (a path)"


def test_close_is_called_whatever_happens():
    closed = []
    clock = Clock()

    def interrupted(number):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        clock.run(Entry(name="a", measure=interrupted), budget=5, close=lambda: closed.append(True))
    assert closed == [True]


@pytest.mark.parametrize(
    ("error", "status"), [(MemoryError("none left"), NOT_RUN), (WrongResult("no number"), WRONG)]
)
def test_who_fails_in_a_round_takes_no_other_along(error, status):
    def failing(number):
        if number == 2:
            raise error
        return {"step": 1.0}

    clock = Clock()
    found, _ = clock.run(
        Entry(name="failing", measure=failing), clock.entry("right", 1.0), budget=50, rounds=4
    )
    assert (found["failing"].status, found["failing"].values) == (status, [])
    assert str(error) in found["failing"].reason
    assert found["right"].rounds == [1, 2, 3, 4]


def test_a_probe_tells_before_the_warm_up():
    clock, known = Clock(), []
    found, took = clock.run(
        clock.entry(
            "loop",
            1e6,
            probe=lambda: known.append(1e6),
            predicted=lambda: known[0] if known else None,
        ),
        clock.entry("right", 1.0),
        budget=100,
        cap=10,
        rounds=2,
    )
    assert found["loop"].status == NOT_RUN
    assert took == 3  # no call of the loop
