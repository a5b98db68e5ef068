"""The suite at the size of seconds: contenders are right, wrong ones are caught, memory is linear.

Never how fast anything is.
"""

import dataclasses
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import contenders as peers
from benchmarks import memory, memory_bank, objective, suite, train_step, training, truth
from benchmarks.compare import compare
from benchmarks.contenders import Contender, contenders, inputs, ours
from benchmarks.contrastive import loss_entry
from benchmarks.memory import peak_memory
from benchmarks.report import markdown, write
from benchmarks.results import BOTH, MEASURED, NOT_RUN, WRONG, load, start
from benchmarks.timing import Workload, WrongResult, run_workload

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def smoke():
    run = start("cpu", "test")
    workloads = suite.smoke()
    suite.execute(workloads, run, say=lambda line: None)
    return workloads, run


def test_every_contender_is_measured_or_says_why_not(smoke):
    workloads, run = smoke
    for workload in workloads:
        assert set(run.contenders(workload.name)) == set(workload.names)
    for result in run.results:
        assert result.status != WRONG, (result.key, result.reason)
        if result.status == NOT_RUN:
            known = (
                "torch sees no CUDA",
                "does not serve cpu",
                "has no UniVA objective",
                "has no memory",
            )
            assert result.reason.startswith(known), (result.key, result.reason)
        else:
            assert len(result.values) == len(result.rounds) > 0
            assert all(value > 0 for value in result.values)
    expected = {"univa_kernels (cpu)", "univa_kernels (reference)", peers.PLAIN, peers.AUTHORS}
    measured = {r.contender for r in run.results if r.status == MEASURED}
    assert expected | {peers.SUPCON, peers.NT_XENT, "univa", "straight PyTorch"} <= measured


def test_report_names_everything_and_leaves_nothing_of_this_machine(smoke, tmp_path):
    _, run = smoke
    path = tmp_path / "machine.json"
    write(run, path)
    assert {each.name for each in tmp_path.iterdir()} == {
        "machine.json",
        "machine.md",
        "machine.svg",
    }
    text = (tmp_path / "machine.md").read_text()
    assert text == markdown(load(path), "machine.svg")  # all of it is from the JSON
    for result in run.results:
        assert result.contender in text
    assert "only these ran, and the time of the whole epoch was not measured" in text
    written = text + path.read_text()
    for secret in (str(ROOT), os.path.expanduser("~/"), socket.gethostname()):
        assert secret not in written


def test_a_run_does_not_regress_from_itself(smoke):
    _, run = smoke
    found = compare(run, run)
    assert not found.failed(1.0001)
    assert not found.only_before
    assert len(found.ratios) == sum(bool(result.values) for result in run.results)


def scaled(rows, points):
    return 1.001 * ours(rows, points)


def wrong_gradient(rows, points):
    loss = ours(rows, points)
    return loss.detach() + 1.01 * (loss - loss.detach())


def not_a_number(rows, points):
    return ours(rows, points) * torch.nan


@pytest.mark.parametrize("loss", [scaled, wrong_gradient, not_a_number])
def test_a_wrong_contender_is_reported_and_not_timed(loss):
    entry = loss_entry(Contender("wrong", loss), 64, 32, "cpu", torch.float32)
    workload = Workload(
        name="contrastive N=64 D=32",
        kind="contrastive",
        facts={"size": 64, "dim": 32},
        names=("wrong",),
        entries=lambda: [entry],
        budget=100,
        rounds=2,
    )
    run = start("cpu", "test")
    suite.record(workload, run)
    (result,) = run.results
    assert (result.status, result.values) == (WRONG, [])
    assert "off from the float64 truth" in result.reason
    assert "**wrong**" in markdown(run, None)


def test_wrong_objective_and_wrong_memory_are_caught():
    with pytest.raises(WrongResult):
        objective.check(lambda *v: 1.001 * objective.vectorised_objective(*v), 12)
    with pytest.raises(WrongResult):
        memory_bank.check(lambda *v: 1.001 * memory_bank.with_bank(*v))


def without_negatives(logits, labels, embeddings, coordinates, similarity):
    """The objective with nothing but a row's own pair under the logarithm."""
    total = objective.rest_of_objective(logits, labels, similarity)
    own = torch.eye(len(logits), dtype=torch.bool)
    for name, rows in embeddings.items():
        pairs = rows @ rows.T / objective.TEMPERATURE
        near = truth.positives_by_radius(coordinates[name], objective.RADIUS)
        weight = near.float().masked_fill(own, 0.5)
        log_z = pairs.diagonal() - objective.LOG_2
        losses = log_z - (weight * pairs).sum(1) / weight.sum(1)
        total = total + objective.ALPHA * losses.mean() / 3
    return total


@pytest.mark.parametrize("batch", suite.BATCHES)
def test_objective_without_negatives_is_caught(batch):
    with pytest.raises(WrongResult):
        objective.check(without_negatives, batch)


def hiding(last=0, own=False, scale=1.0):
    """The loss without its last columns, with its own pairs, or at another temperature."""

    def loss(rows, points):
        logits = (rows @ rows.T).float() / (scale * peers.TEMPERATURE)
        itself = torch.eye(len(rows), dtype=torch.bool)
        positive = truth.positives_by_radius(points, peers.RADIUS) & ~itself
        hidden = torch.zeros_like(itself) if own else itself.clone()
        hidden[:, len(rows) - last :] = True
        count = positive.sum(1)
        log_z = logits.masked_fill(hidden, -torch.inf).logsumexp(1)
        losses = log_z - (logits * positive).sum(1) / count.clamp(min=1)
        return losses[count > 0].mean()

    return loss


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("wrong", [{"last": 1}, {"own": True}, {"scale": 1.02}], ids=str)
def test_checks_see_what_is_slightly_wrong(wrong, dtype):
    peers.check(Contender("right", hiding()), dtype=dtype)
    with pytest.raises(WrongResult):
        peers.check(Contender("wrong", hiding(**wrong)), dtype=dtype)


def test_checks_see_what_is_wrong_beyond_the_first_tiles():
    def loss(rows, points):
        return (hiding(last=1) if len(rows) > 512 else hiding())(rows, points)

    own = contenders()["univa_kernels (reference)"]
    wrong = dataclasses.replace(own, loss=loss)
    with pytest.raises(WrongResult):
        loss_entry(wrong, 64, 32, "cpu", torch.float32).check()


def test_memory_of_a_wrong_contender_is_not_measured(monkeypatch):
    every = {"wrong": Contender("wrong", scaled)}
    monkeypatch.setattr(memory, "contenders", lambda device: every)
    results, _ = run_workload(memory.workload(64, 32, "cpu", budget=100))
    assert [(each.status, each.values) for each in results] == [(WRONG, [])]


def test_a_loop_over_pairs_is_not_tried_at_a_large_size():
    tried = []

    def loop(rows, points):
        tried.append(len(rows))
        time.sleep(5e-6 * len(rows) ** 2)
        return hiding()(rows, points)

    contender = Contender("a loop", loop, python_loop=True)
    entry = loss_entry(contender, 8192, 16, "cpu", torch.float32)
    workload = Workload(
        name="w",
        kind="contrastive",
        facts={},
        names=("a loop",),
        entries=lambda: [entry],
        budget=9,
        cap=1,
    )
    (result,), _ = run_workload(workload)
    assert result.status == NOT_RUN
    assert "from a smaller size" in result.reason
    assert max(tried) <= 256


def test_contenders_get_the_same_rows_and_every_round_others():
    rows, points = inputs(50, 8, 3)
    by_class, classes = inputs(50, 8, 3, by_class=True)
    torch.testing.assert_close(rows, by_class, rtol=0, atol=0)
    assert classes.dtype == torch.int64
    assert points.shape == (50, 2)
    assert not torch.equal(rows, inputs(50, 8, 4)[0])


def test_the_truth_of_this_library_is_its_own_float64_reference():
    rows, points = inputs(80, 16, 0)
    wide = rows.detach().double()
    want = peers.by_backend("reference")(wide, points)
    torch.testing.assert_close(peers.true_loss("radius", wide, points), want)


def test_too_large_contenders_are_left_out():
    every = contenders()
    assert every[peers.PLAIN].bytes(16384) < 8 * peers.GIB < every[peers.PLAIN].bytes(32768)
    assert every[peers.NT_XENT].bytes(256) < 8 * peers.GIB < every[peers.NT_XENT].bytes(1024)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_linear():
    """Doubling N at most doubles the extra memory; with an N x N matrix it grows fourfold."""
    own = [peak_memory("univa_kernels (cpu)", size, 256) for size in (4096, 8192)]
    assert own[1] <= 2 * own[0], own
    assert own[1] < 8192 * 8192 * 4 / 2**20 / 4  # a quarter of one matrix of logits
    plain = [peak_memory(peers.PLAIN, size, 16) for size in (4096, 8192)]
    assert plain[1] > 3 * plain[0], plain  # what the test is to catch


def test_pytest_benchmark_file_holds_the_suite(tmp_path):
    path = tmp_path / "bench.json"
    arguments = [sys.executable, "-m", "pytest", "benchmarks", "--smoke", "-q", "-k", "copy"]
    # pytest-benchmark measures nothing beside other test processes.
    alone = {name: value for name, value in os.environ.items() if "PYTEST_XDIST" not in name}
    done = subprocess.run(
        [*arguments, "--benchmark-json", str(path), "-p", "no:cacheprovider"],
        cwd=ROOT,
        env=alone,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    run = load(path)
    (result,) = run.results
    (entry,) = json.loads(path.read_text())["benchmarks"]
    assert run.command == "python -m pytest benchmarks -k copy --smoke"  # not `make bench`
    assert entry["extra_info"]["workload"] == result.workload
    assert entry["stats"]["rounds"] == len(result.values)
    assert entry["stats"]["max"] == pytest.approx(max(result.values))
    assert result.figure == BOTH


def test_budgets_of_the_suite():
    """`make bench` has to end within ten minutes: budgets leave room for imports and the report."""
    workloads = suite.cpu()
    assert sum(workload.budget for workload in workloads) <= 560
    names = [workload.name for workload in workloads]
    assert len(set(names)) == len(names)
    found = [each for each in workloads if each.kind == "objective"]
    assert [each.facts["batch"] for each in found] == [12, 22, 32]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "nothing"], "no workload has 'nothing' in its name; there are: copy"),
        (["--patience", "0"], "--patience must be above 0"),
        (["--patience", "nan"], "--patience must be above 0"),
        (["--seconds", "-1"], "--seconds must be above 0"),
        (["--only", "copy", "--out", "{folder}/a file/x.json"], "a file"),
    ],
)
def test_bad_options_of_a_run(monkeypatch, capsys, tmp_path, options, message):
    (tmp_path / "a file").write_text("")
    options = [option.format(folder=tmp_path) for option in options]
    monkeypatch.setattr(sys, "argv", ["benchmarks", "run", *options])
    assert command.main() == 2
    assert message in capsys.readouterr().err


def test_a_part_of_the_suite_does_not_replace_a_whole_run(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(command, "FOLDER", tmp_path / "results")
    monkeypatch.setattr(command, "BUILD", tmp_path / "build")
    arguments = ["benchmarks", "run", "--only", "copy", "--seconds", "60", "--patience", "0.1"]
    monkeypatch.setattr(sys, "argv", arguments)
    assert command.main() == 0
    (path,) = (tmp_path / "build").glob("*.json")
    assert not (tmp_path / "results").exists()
    assert command.main() == 0  # again, over the old one
    run = load(path)
    options = "--device cpu --only copy --patience 0.1 --seconds 60"
    assert run.command == f"python -m benchmarks run {options}"
    assert [each.workload for each in run.results] == ["copy bandwidth"]


def test_what_is_not_begun_is_in_the_report(tmp_path):
    run = start("cpu", "test")
    suite.execute(suite.smoke()[:1], run, seconds=1, say=lambda line: None)
    run.save(tmp_path / "x.json")
    assert load(tmp_path / "x.json").not_begun == ["copy bandwidth"]
    assert "Not begun, the time for all was over: copy bandwidth." in markdown(run, None)


def test_a_training_step_with_a_wrong_gradient_is_caught(monkeypatch):
    def shifted(self, batch):
        loss = original(self, batch)
        similarity = self.parts.similarity.sum()
        return loss + similarity - similarity.detach()

    original = train_step.OurModel.forward
    work = training.step_workload("cpu", budget=100, hidden_size=8, dialogues=1, layers=1)
    work.rounds = 1
    results, _ = run_workload(work)
    assert {each.status for each in results} == {MEASURED}
    monkeypatch.setattr(train_step.OurModel, "forward", shifted)
    results, _ = run_workload(work)
    assert {each.status for each in results} == {WRONG}
