"""Arguments of `univa train`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import tyro

from univa.config import TrainConfig
from univa.config.authors import as_authors
from univa.config.unused import refuse_unread
from univa.errors import UserError
from univa.presets import PRESETS, own
from univa.runs.layout import RunFolder
from univa.utils.console import rank, result, say
from univa.utils.processes import Interrupted

__all__ = ["main", "parse_train"]

# Options short enough for daily use that belong to a nested config; others have aliases there.
_SHORT = {"--text-encoder": "--model.text-encoder"}


def parse_train(args: Sequence[str]) -> TrainConfig:
    """Parse what follows `univa train`: a preset or `--resume RUN`, then options.

    Args:
        args: the arguments.

    Returns:
        The config. With `--resume` and without a preset it starts from the run's own config.

    Raises:
        UserError: there is no such preset, a value is not allowed, an option would not be read, or
            the run to resume has no config.
        SystemExit: help was asked for (0), or an option is unknown (2).
    """
    args = [_expand(arg) for arg in args]
    run = _value_after("--resume", args)
    if args and not args[0].startswith("-") and args[0] not in PRESETS:
        raise UserError(f"no preset {args[0]!r}; presets: {', '.join(PRESETS)}")
    if args and args[0] in PRESETS:
        store = _value_after("--data", args) or _value_after("--data.folder", args)
        make = partial(own, store) if args[0] == "own" else PRESETS[args[0]]
        prog, default, args = f"univa train {args[0]}", make(), args[1:]
        if "--authors" in args:  # what it sets is the default, and refused where given otherwise
            default = as_authors(default)
    elif run is not None:
        prog, default = "univa train", TrainConfig.load(RunFolder(Path(run)).config)
    else:  # help, or no preset: tyro lists them
        presets = {name: ((make.__doc__ or "").strip(), make()) for name, make in PRESETS.items()}
        return tyro.extras.overridable_config_cli(
            presets,
            args=args,
            prog="univa train",
            description="Train a preset; any field of its config is an option. "
            "`univa train --resume RUN` goes on with a run that was stopped.",
        )
    config = tyro.cli(
        TrainConfig, args=args, default=default, prog=prog, config=(tyro.conf.AvoidSubcommands,)
    )
    refuse_unread(config, default)
    return config


def _expand(arg: str) -> str:
    name, equals, value = arg.partition("=")
    return _SHORT.get(name, name) + equals + value


def _value_after(option: str, args: Sequence[str]) -> str | None:
    for i, arg in enumerate(args):
        if arg.startswith(f"{option}="):
            return arg.partition("=")[2]
        if arg == option and i + 1 < len(args):
            return args[i + 1]
    return None


def main(args: Sequence[str]) -> int:
    """`univa train`: returns the exit status."""
    config = parse_train(args)  # the arguments are the same in every process
    from univa.train import train  # seconds of import time that --help does not need

    try:
        metrics = train(config)
    except Interrupted as stop:
        say(f"univa: {stop}")
        return 128 + stop.signal
    except UserError as error:
        if rank() == "0":
            raise
        # Data, device or loss may be wrong in this process alone.
        print(f"univa: rank {rank()}: error: {error}", file=sys.stderr)
        return 2
    result(metrics)
    return 0
