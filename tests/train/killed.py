"""Processes that train and kill themselves, or that are the ranks of one run.

They are forked from a server that has imported everything once, which takes seconds.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

import univa.checkpoint
import univa.runs
from univa.config import TrainConfig
from univa.train import train

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
    train(config)


def countdown(count: int) -> None:
    """Kill the process when called for the `count`th time."""
    countdown.calls += 1
    if countdown.calls == count:
        os.kill(os.getpid(), signal.SIGKILL)


countdown.calls = 0


def install(moment: str, count: int) -> None:
    """Put the kill where it belongs."""
    if moment == "step":  # a step is logged; its successor is not
        write = univa.runs.RunLog.write

        def logged(self, **record):
            write(self, **record)
            if record["event"] == "step":
                countdown(count)

        univa.runs.RunLog.write = logged
    elif moment == "half-written":  # the middle of writing a checkpoint
        save = torch.save

        def half(state, path):
            save(state, path)
            os.truncate(path, Path(path).stat().st_size // 2)
            countdown(count)
            save(state, path)

        univa.checkpoint.torch.save = half
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
