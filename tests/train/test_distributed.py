"""Two gloo processes train one model."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.models.determined import determined
from tests.train.killed import start, train_as_rank, train_as_rank_and_fall
from tests.train.tiny import assert_same_run, one_thread, options, read_log, tiny
from univa.config import TrainConfig
from univa.errors import UserError
from univa.train import train

ROOT = Path(__file__).parents[2]


def run_ranks(config: TrainConfig, records: Path, *, stop_rank: int = -1) -> list[int | None]:
    """Train with two processes; each saves what it saw and its weights in `records`."""
    records.mkdir()
    port = free_port()
    processes = [start(train_as_rank, r, 2, port, config, records, r == stop_rank) for r in (0, 1)]
    for process in processes:
        process.join(timeout=120)
    return [process.exitcode for process in processes]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of two processes and of what each saw."""
    folder = tmp_path_factory.mktemp("both")
    assert run_ranks(brief(folder / "run"), folder / "records") == [0, 0]
    return folder


def brief(run: Path) -> TrainConfig:
    """Two epochs: a stop in the second has the first behind it."""
    return tiny(run_folder=str(run), epochs=2)


def test_ranks_end_with_equal_weights_from_different_batches(both: Path):
    weights = [load_file(both / "records" / f"weights{rank}.safetensors") for rank in (0, 1)]
    for name in weights[0]:
        assert torch.equal(weights[0][name], weights[1][name]), name
    seen = [json.loads((both / "records" / f"seen{rank}.json").read_text()) for rank in (0, 1)]
    assert len(seen[0]) == len(seen[1]) > 0  # steps
    assert not any(set(a) & set(b) for a, b in zip(*seen, strict=True))
    initial = load_file(both / "records" / "initial0.safetensors")
    assert not torch.equal(weights[0]["classifier.weight"], initial["classifier.weight"])
    last = load_file(both / "run" / "checkpoints" / "last" / "model.safetensors")
    assert torch.equal(last["classifier.weight"], weights[0]["classifier.weight"])


def test_one_process_writes(both: Path):
    log = read_log(both / "run")
    steps = [record["step"] for record in log if record["event"] == "step"]
    assert steps == list(range(1, len(steps) + 1))
    assert sum(record["event"] == "epoch" for record in log) == 2
    assert (both / "run" / "metrics.json").exists()


def test_a_signal_to_one_process_stops_both_and_they_go_on_bit_for_bit(both: Path, tmp_path: Path):
    run = tmp_path / "run"
    codes = run_ranks(brief(run), tmp_path / "first", stop_rank=1)
    assert codes == [143, 143]
    assert not (run / "metrics.json").exists()
    with pytest.raises(UserError, match=r"the run has 2 processes, not 1; go on with: torchrun"):
        train(tiny(resume=str(run), epochs=2))
    assert run_ranks(tiny(resume=str(run), epochs=2), tmp_path / "second") == [0, 0]
    assert_same_run(run, both / "run")


def test_two_processes_are_one_with_their_batches_together(tmp_path: Path):
    """With --loss.gather, and dropout off: the same batches, objective, gradients and figures."""

    def config(batch_size: int, run: str) -> TrainConfig:
        given = tiny(run_folder=str(tmp_path / run), epochs=2)
        return replace(
            given,
            model=replace(given.model, dropout=0.0),
            data=replace(given.data, batch_size=batch_size),
            loss=replace(given.loss, gather=True),
        )

    assert run_ranks(config(6, "two"), tmp_path / "records") == [0, 0]
    with one_thread():
        train(config(12, "one"))
    seen = [json.loads((tmp_path / f"records/seen{r}.json").read_text()) for r in (0, 1)]
    assert all(a and b and not set(a) & set(b) for a, b in zip(*seen, strict=True))
    logs = [read_log(tmp_path / run) for run in ("two", "one")]
    assert len(logs[0]) == len(logs[1])
    for two, one in zip(*logs, strict=True):
        assert two["event"] == one["event"]
        for key, value in one.items():
            if isinstance(value, float):
                # The same sums in another order; Adam's first steps magnify what differs.
                assert two[key] == pytest.approx(value, rel=2e-3, abs=1e-6), (one["step"], key)
        if one["event"] == "step":
            assert (two["utterances"], two["learning_rate"]) == (
                one["utterances"],
                one["learning_rate"],
            )
    first_two, first_one = logs[0][0], logs[1][0]
    for key in ("loss", "classification", "prior", "contrastive_text", "grad_norm"):
        assert first_two[key] == pytest.approx(first_one[key], rel=1e-5), key
    weights = [
        load_file(tmp_path / run / "checkpoints" / "last" / "model.safetensors")
        for run in ("two", "one")
    ]
    for name in weights[0]:
        two, one = (determined(name, part[name]) for part in weights)
        torch.testing.assert_close(
            two, one, rtol=5e-3, atol=2e-4, msg=lambda m, n=name: f"{n}: {m}"
        )
    chances = []
    for run in ("two", "one"):
        lines = (tmp_path / run / "predictions.jsonl").read_text().splitlines()
        chances.append({r["id"]: r["probabilities"] for r in map(json.loads, lines)})
    assert chances[0].keys() == chances[1].keys()
    for name, values in chances[0].items():
        assert values == pytest.approx(chances[1][name], rel=2e-3), name
    # It is not so when each process contrasts its own half.
    apart = config(6, "apart")
    # The first batch says it: one epoch, and small splits to validate and test on.
    corpus = replace(apart.data.synthetic, valid_dialogues=1, test_dialogues=1)
    data = replace(apart.data, synthetic=corpus)
    apart = replace(apart, loss=replace(apart.loss, gather=False), epochs=1, data=data)
    assert run_ranks(apart, tmp_path / "apart-records") == [0, 0]
    ours = read_log(tmp_path / "apart")[0]
    assert ours["contrastive_text"] != pytest.approx(first_one["contrastive_text"], rel=1e-3)
    assert ours["classification"] == pytest.approx(first_one["classification"], rel=1e-5)


@pytest.mark.parametrize(
    ("signum", "timeout"), [(signal.SIGKILL, 60.0), (signal.SIGSTOP, 12.0)], ids=["kill", "stop"]
)
def test_when_a_process_falls_the_other_ends_with_one_line(tmp_path: Path, signum, timeout):
    # The timeout is above what a busy machine keeps a process from its turn.
    run = tmp_path / "run"
    args = [*options(tiny(run_folder=str(run), save_every=1)), "--timeout", str(timeout)]
    port = free_port()
    processes = [start(train_as_rank_and_fall, r, 2, port, args, signum, tmp_path) for r in (0, 1)]
    try:
        processes[0].join(timeout=100)
        ended = time.time()
        assert processes[0].exitcode == 2  # an error, and no hang
        assert processes[1].exitcode == (-9 if signum == signal.SIGKILL else None)
    finally:
        for process in processes:
            process.kill()
            process.join()
    # A killed process is noticed at once, a stopped one after the timeout.
    waited = ended - (tmp_path / "fallen").stat().st_mtime
    assert waited < (timeout if signum == signal.SIGKILL else timeout + 10)
    said = (tmp_path / "stderr0").read_text()
    assert said.startswith(
        "univa: error: another process of the run has died or has not answered for"
    )
    assert f"{timeout:g} s (--timeout)" in said
    assert said.endswith(f"go on with: torchrun --nproc-per-node 2 -m univa.train --resume {run}\n")
    assert said.count("\n") == 1
    assert not (run / "metrics.json").exists()
    if signum == signal.SIGKILL:
        return
    # What it says to do does it.
    assert run_ranks(tiny(resume=str(run), save_every=1), tmp_path / "records") == [0, 0]
    assert (run / "metrics.json").exists()


@pytest.mark.parametrize("accumulate", [3])
def test_accumulated_batches_are_one_large_batch(tmp_path: Path, accumulate):
    """Where the loss is a mean over utterances: no contrast and no prior."""

    def run(name: str, batch_size: int, count: int) -> list[dict]:
        given = tiny(run_folder=str(tmp_path / name), epochs=1)
        given = replace(
            given,
            model=replace(given.model, dropout=0.0, prior=False),
            data=replace(given.data, batch_size=batch_size, sampler="utterances"),
            loss=replace(given.loss, alpha=0.0, prior=None),
            optimizer=replace(given.optimizer, accumulate=count),
        )
        with one_thread():
            train(given)
        return [r for r in read_log(tmp_path / name) if r["event"] == "step"]

    small, large = run("small", 5, accumulate), run("large", 5 * accumulate, 1)
    assert [r["utterances"] for r in small] == [r["utterances"] for r in large]
    for ours, theirs in zip(small, large, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3)


def test_torchrun(both: Path, tmp_path: Path):
    run = tmp_path / "run"
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    result = subprocess.run(
        [sys.executable, *command, "-m", "univa.train", *options(brief(run))],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("run folder") == 1
    assert_same_run(run, both / "run")
