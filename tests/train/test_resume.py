"""A run that was stopped, however rudely, ends where an undisturbed run ends: bit for bit."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.train.killed import start, train_and_be_killed
from tests.train.tiny import assert_same_run, options, read_log, tiny
from univa.cli import main
from univa.data import Collator
from univa.data.build import load_corpus
from univa.errors import UserError
from univa.runs.checkpoint import META
from univa.runs.log import RunLog
from univa.train import train
from univa.utils.lock import FolderLock
from univa.utils.processes import Interrupted

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
# moment -> (which occurrence, steps between checkpoints). An epoch has 5 or 6 steps.
KILLS = {"step": (9, 2), "half-written": (4, 2), "between-renames": (3, 2)}


# `univa train`, to which the keyboard sends SIGINT when the third step is logged.
INTERRUPTED = """
import os, signal, sys
from univa.cli import main
from univa.runs.log import RunLog

write = RunLog.write

def signalling(self, **record):
    write(self, **record)
    if record["step"] == 3:
        os.kill(os.getpid(), signal.SIGINT)

RunLog.write = signalling
sys.exit(main(["train", *sys.argv[1:]]))
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of runs that were killed, one for each moment; started together."""
    folder = tmp_path_factory.mktemp("killed")
    processes = {}
    for moment, (count, save_every) in KILLS.items():
        config = tiny(save_every=save_every, run_folder=str(folder / moment))
        processes[moment] = start(train_and_be_killed, moment, count, config)
    for moment, process in processes.items():
        process.join(timeout=120)
        assert process.exitcode == -signal.SIGKILL, moment
    return {moment: folder / moment for moment in KILLS}


@pytest.mark.parametrize("moment", KILLS)
def test_killed_run_goes_on_bit_for_bit(moment: str, killed: dict[str, Path], finished: Path):
    run = killed[moment]
    assert not (run / "metrics.json").exists()
    if moment == "step":  # the log is ahead of the checkpoint
        progress = json.loads((run / "checkpoints" / "last" / META).read_text())["progress"]
        assert progress["step"] == 8
        assert read_log(run)[-1]["step"] == 9
    if moment == "half-written":
        assert (run / "checkpoints" / "last.tmp").exists()
    if moment == "between-renames":
        assert not (run / "checkpoints" / "last").exists()
    # Workers change neither the order nor a bit.
    workers = ["--data.workers", "1"] if moment == "step" else []
    assert main(["train", "--resume", str(run), "--no-progress", *workers]) == 0
    assert_same_run(run, finished)
    left = {path.name for path in (run / "checkpoints").iterdir()}
    assert left == {"best", "last"}


def test_killed_before_the_first_checkpoint(finished: Path, tmp_path: Path):
    run = tmp_path / "run"
    run.mkdir()
    tiny(run_folder=str(run)).resolved().save(run / "config.json")
    (run / "log.jsonl").write_text('{"event": "step", "step": 1, "loss": 0.0}\n')
    train(tiny(resume=str(run)))
    assert_same_run(run, finished)


def test_killed_while_the_config_was_written(finished: Path, tmp_path: Path):
    run = tmp_path / "run"
    run.mkdir()
    (run / ".config.tmp-123.json").write_text("{")
    train(tiny(run_folder=str(run)))
    assert_same_run(run, finished)


# As `INTERRUPTED`; with workers, which a scheduler's SIGTERM reaches as well, or which are lost.
WITH_WORKERS = """
import multiprocessing, os, signal, sys
from univa.cli import main
from univa.runs.log import RunLog

write, what = RunLog.write, sys.argv.pop(1)

def signalling(self, **record):
    write(self, **record)
    if record["step"] == 3:
        if what == "stop":
            os.killpg(0, signal.SIGTERM)
        else:
            for worker in multiprocessing.active_children():
                os.kill(worker.pid, signal.SIGKILL)

RunLog.write = signalling
sys.exit(main(["train", *sys.argv[1:], "--data.workers", "1"]))
"""


@pytest.mark.parametrize(("what", "status"), [("stop", 143), ("lose", 2)])
def test_workers_and_signals(what, status, finished: Path, tmp_path: Path):
    run = tmp_path / "run"
    config = tiny(save_every=1, run_folder=str(run))
    result = subprocess.run(
        [sys.executable, "-c", WITH_WORKERS, what, *options(config)],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        start_new_session=True,
    )
    error = result.stderr
    assert result.returncode == status, error
    said = (
        "stopped by SIGTERM at step " if what == "stop" else "a process of --data.workers was lost"
    )
    assert said in error
    assert error.endswith(f"go on with: univa train --resume {run}\n")
    assert error.count("\n") == 1
    train(tiny(resume=str(run)))
    assert_same_run(run, finished)


def test_a_run_that_is_under_way_is_left_alone(finished: Path, tmp_path, monkeypatch, capsys):
    run, write, tried = tmp_path / "run", RunLog.write, []

    def interfered(self, **record):
        write(self, **record)
        with pytest.raises(UserError, match="another process is at work"), FolderLock(run) as lock:
            lock.take()
        tried.append(record["step"])

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "write", interfered)
        train(tiny(save_every=2, run_folder=str(run)))
    assert len(tried) > 3
    (run / "metrics.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    with FolderLock(run) as lock:
        lock.take()
        assert main(["train", "--resume", str(run), "--no-progress"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]  # after remarks of the training before
    assert error.startswith(f"univa: error: {run}: another process is at work in this folder")
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    assert main(["train", "--resume", str(run), "--no-progress"]) == 0
    assert_same_run(run, finished)


def test_ctrl_c_saves_and_tells_how_to_go_on(finished: Path, tmp_path: Path):
    run = tmp_path / "run"
    config = tiny(save_every=0, run_folder=str(run))
    result = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, *options(config)],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    error = result.stderr
    assert result.returncode == 130, error
    assert error.startswith("univa: stopped by SIGINT at step ")
    assert error.endswith(f"state saved; go on with: univa train --resume {run}\n")
    assert error.count("\n") == 1
    train(tiny(resume=str(run)))
    assert_same_run(run, finished)


@pytest.mark.parametrize(("event", "number"), [("step", signal.SIGTERM), ("epoch", signal.SIGINT)])
def test_signal_stops_after_the_step(event, number, finished, tmp_path, monkeypatch):
    write = RunLog.write

    def signalling(self, **record):
        write(self, **record)
        if record["event"] == event and record["step"] >= 7:
            monkeypatch.setattr(RunLog, "write", write)
            os.kill(os.getpid(), number)

    monkeypatch.setattr(RunLog, "write", signalling)
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    run = tmp_path / "run"
    with pytest.raises(Interrupted) as stopped:
        train(tiny(run_folder=str(run)))
    assert stopped.value.signal == number
    assert {n: signal.getsignal(n) for n in before} == before
    assert not (run / "metrics.json").exists()
    train(tiny(resume=str(run)))
    assert_same_run(run, finished)


def test_signal_during_validation_stops_there(finished, tmp_path, monkeypatch):
    call = Collator.__call__

    def signalling(self, indices):
        if len(self) == validation_size:
            monkeypatch.setattr(Collator, "__call__", call)
            os.kill(os.getpid(), signal.SIGTERM)
        return call(self, indices)

    validation_size = len(load_corpus(tiny()).valid)
    monkeypatch.setattr(Collator, "__call__", signalling)
    run = tmp_path / "run"
    with pytest.raises(Interrupted):
        train(tiny(run_folder=str(run)))
    assert not any(record["event"] == "epoch" for record in read_log(run))
    train(tiny(resume=str(run)))
    assert_same_run(run, finished)


def test_signal_after_the_last_validation_is_not_lost(finished, tmp_path, monkeypatch):
    write = RunLog.write

    def signalling(self, **record):
        write(self, **record)
        if record["event"] == "epoch" and record["epoch"] == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(RunLog, "write", signalling)
    run = tmp_path / "run"
    with pytest.raises(Interrupted, match=r"stopped by SIGINT at step (\d+) of \1, state saved"):
        train(tiny(run_folder=str(run)))
    assert not (run / "metrics.json").exists()
    train(tiny(resume=str(run)))
    assert_same_run(run, finished)


def test_resuming_a_finished_run_changes_nothing(finished: Path, tmp_path: Path):
    run = tmp_path / "copy"
    shutil.copytree(finished, run)
    assert main(["train", "--resume", str(run), "--no-progress"]) == 0
    assert_same_run(run, finished)


def test_another_seed_is_another_run(finished: Path, tmp_path: Path):
    """The comparison above can fail."""
    run = tmp_path / "run"
    train(replace(tiny(seed=3), run_folder=str(run)))
    with pytest.raises(AssertionError):
        assert_same_run(run, finished)


@pytest.mark.parametrize(("kibibytes", "said"), [(60, "the checkpoint"), (1, "the log: ")])
def test_a_full_disk_is_one_line_and_the_run_goes_on(finished, tmp_path, capfd, kibibytes, said):
    """No file may grow beyond the limit: the training state, or the log, does not fit."""
    run = tmp_path / "run"
    write, limits = RunLog.write, resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(self, **record):
        resource.setrlimit(resource.RLIMIT_FSIZE, (kibibytes << 10, limits[1]))
        write(self, **record)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunLog, "write", limited)
        try:
            assert main(["train", *options(tiny(run_folder=str(run)))]) == 2
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    error = capfd.readouterr().err
    assert f"cannot write {said}" in error
    assert error.endswith(f"go on with: univa train --resume {run}\n")
    assert error.count("\n") == 1
    train(tiny(resume=str(run)))
    assert_same_run(run, finished)
