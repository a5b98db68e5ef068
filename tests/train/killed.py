"""Processes that train and kill themselves, or that are the ranks of one run.

They are forked from a server that has imported everything once, which takes seconds.
"""

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import univa.runs.checkpoint
import univa.runs.log
import univa.train
from univa.cli import main
from univa.config import TrainConfig
from univa.data import Collator
from univa.utils.processes import Interrupted
from univa_kernels import UniVALoss

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([__name__])


def start(function: Callable[..., None], *args: Any) -> BaseProcess:
    """Call a function of a module in a process of its own."""
    process = _CONTEXT.Process(target=function, args=args)
    process.start()
    return process


def train_and_be_killed(moment: str, count: int, config: TrainConfig) -> None:
    """Train until the `count`th time that `moment` comes, then die of SIGKILL."""
    torch.set_num_threads(1)
    install(moment, count)
    univa.train.train(config)


def countdown(count: int) -> None:
    """Kill the process when called for the `count`th time."""
    countdown.calls += 1
    if countdown.calls == count:
        os.kill(os.getpid(), signal.SIGKILL)


countdown.calls = 0


def install(moment: str, count: int) -> None:
    """Put the kill where it belongs."""
    if moment == "step":  # a step is logged; its successor is not
        write = univa.runs.log.RunLog.write

        def logged(self, **record):
            write(self, **record)
            if record["event"] == "step":
                countdown(count)

        univa.runs.log.RunLog.write = logged
    elif moment == "half-written":  # the middle of writing a checkpoint
        save = torch.save

        def half(state, path):
            save(state, path)
            os.truncate(path, Path(path).stat().st_size // 2)
            countdown(count)
            save(state, path)

        univa.runs.checkpoint.torch.save = half
    elif moment == "between-renames":  # the old checkpoint has stepped aside, the new one is not in
        rename = Path.rename

        def moved(self, target):
            result = rename(self, target)
            if Path(target).name == "last.old":
                countdown(count)
            return result

        Path.rename = moved
    else:
        raise ValueError(moment)


def train_as_rank_and_fall(
    rank: int, size: int, port: int, args: list[str], signum: int, records: Path
) -> None:
    """Be one rank of `univa train`; rank 1 gets a signal from itself after a few batches."""
    torch.set_num_threads(1)
    join(rank, size, port)
    os.dup2(os.open(records / f"stderr{rank}", os.O_WRONLY | os.O_CREAT), 2)
    forward, calls = UniVALoss.forward, []

    def watched_forward(self, *args):
        calls.append(1)
        if rank == 1 and len(calls) == 3:
            (records / "fallen").touch()
            os.kill(os.getpid(), signum)
        return forward(self, *args)

    UniVALoss.forward = watched_forward
    sys.exit(main(["train", *args]))


def join(rank: int, size: int, port: int) -> None:
    """Set what torchrun would."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )


def train_as_rank(
    rank: int, size: int, port: int, config: TrainConfig, records: Path, stop: bool
) -> None:
    """Be one rank of a run, as torchrun would start it; keep what it sees and what it ends with."""
    torch.set_num_threads(1)
    join(rank, size, port)
    seen: list[list[str]] = []
    models: list[Any] = []
    make_optimizer = univa.train.setup.make_optimizer
    forward = UniVALoss.forward
    call = Collator.__call__

    def watched_optimizer(config, model, steps):
        models.append(model)
        save_file(model.state_dict(), records / f"initial{rank}.safetensors")
        return make_optimizer(config, model, steps)

    def watched_call(self, indices):
        batch = call(self, indices)
        if batch.utterance_ids[0].startswith("train"):  # they validate, too
            seen.append(list(batch.utterance_ids))
        return batch

    def watched_forward(self, *args):
        if stop and len(seen) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return forward(self, *args)

    univa.train.setup.make_optimizer = watched_optimizer
    UniVALoss.forward = watched_forward
    Collator.__call__ = watched_call
    try:
        univa.train.train(config)
    except Interrupted as error:
        sys.exit(128 + error.signal)
    save_file(models[0].state_dict(), records / f"weights{rank}.safetensors")
    (records / f"seen{rank}.json").write_text(json.dumps(seen))
