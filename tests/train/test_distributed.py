"""Two gloo processes train one model."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.train.killed import start, train_as_rank
from tests.train.tiny import assert_same_run, options, read_log, tiny
from univa.config import TrainConfig
from univa.errors import UserError
from univa.train import train

ROOT = Path(__file__).parents[2]


def run_ranks(config: TrainConfig, records: Path, *, stop_rank: int = -1) -> list[int | None]:
    """Train with two processes; each saves what it saw and its weights in `records`."""
    records.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [start(train_as_rank, r, 2, port, config, records, r == stop_rank) for r in (0, 1)]
    for process in processes:
        process.join(timeout=120)
    return [process.exitcode for process in processes]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of two processes and of what each saw."""
    folder = tmp_path_factory.mktemp("both")
    assert run_ranks(tiny(run_folder=str(folder / "run")), folder / "records") == [0, 0]
    return folder


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
    assert sum(record["event"] == "epoch" for record in log) == 3
    assert (both / "run" / "metrics.json").exists()


def test_a_signal_to_one_process_stops_both_and_they_go_on_bit_for_bit(both: Path, tmp_path: Path):
    run = tmp_path / "run"
    codes = run_ranks(tiny(run_folder=str(run)), tmp_path / "first", stop_rank=1)
    assert codes == [143, 143]
    assert not (run / "metrics.json").exists()
    with pytest.raises(UserError, match=r"the run has 2 processes, not 1; go on with: torchrun"):
        train(tiny(resume=str(run)))
    assert run_ranks(tiny(resume=str(run)), tmp_path / "second") == [0, 0]
    assert_same_run(run, both / "run")


def test_torchrun(both: Path, tmp_path: Path):
    run = tmp_path / "run"
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    result = subprocess.run(
        [sys.executable, *command, "-m", "univa.train", *options(tiny(run_folder=str(run)))],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("run folder") == 1
    assert_same_run(run, both / "run")
