"""Arguments of `univa ablate`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from univa.cli.train import parse_train
from univa.errors import UserError
from univa.paper.ablate import TABLES, run_ablation
from univa.presets import PRESETS
from univa.utils import console
from univa.utils.processes import Interrupted

__all__ = ["main"]

USAGE = """usage: univa ablate PRESET [--seeds N ...] [--tables 2 3] [--folder FOLDER]
                    [options of `univa train PRESET`]

Train a preset whole and without its parts, and tabulate test figures over seeds.

  --seeds N ...     seeds of every row (default: 1111 1112 1113)
  --tables T ...    2: without contrastive loss, prior; 3: modalities
                    (default: those that say something about the model and its data)
  --folder FOLDER   folder of all runs and of the tables (default: runs/ablate-PRESET); the same
                    command goes on where it was stopped
"""


def main(args: Sequence[str]) -> int:
    """`univa ablate`.

    Args:
        args: what follows `ablate`.

    Returns:
        Exit status.

    Raises:
        UserError: a mistake in the options, or as `run_ablation`.
    """
    if not args or args[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    if args[0] not in PRESETS:
        raise UserError(f"no preset {args[0]!r}; presets: {', '.join(PRESETS)}")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("univa ablate runs in one process; start it without torchrun")
    rest, own = _split(list(args))
    if "-h" in rest or "--help" in rest:
        print(USAGE)
    config = parse_train(rest)
    if config.resume is not None or config.run_folder is not None:
        raise UserError("univa ablate has run folders of its own: give --folder, and no other")
    if any(arg.partition("=")[0] == "--seed" for arg in rest):
        raise UserError("--seed would not be read: give --seeds, one run of every row each")
    folder = Path((own.get("--folder") or [f"runs/ablate-{config.preset}"])[0])
    seeds = _numbers("--seeds", own.get("--seeds", ["1111", "1112", "1113"]))
    tables = _numbers("--tables", own["--tables"]) if "--tables" in own else None
    if tables is not None and not set(tables) <= set(TABLES):
        raise UserError(f"--tables: {' '.join(map(str, tables))}; the tables are 2 and 3")
    try:
        print(console.fit_markdown(run_ablation(config, seeds=seeds, tables=tables, folder=folder)))
    except Interrupted as stop:
        print(
            f"univa: stopped in {stop.run.name}, which is saved; the same command goes on",
            file=sys.stderr,
        )
        return 128 + stop.signal
    results = json.loads((folder / "tables.json").read_text(encoding="utf-8"))
    console.result({"folder": folder, "test": results})
    return 0


def _split(args: list[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Options of the ablation, and all others."""
    rest: list[str] = []
    own: dict[str, list[str]] = {}
    place = 0
    while place < len(args):
        name, equals, value = args[place].partition("=")
        place += 1
        if name not in ("--seeds", "--tables", "--folder"):
            rest.append(args[place - 1])
            continue
        values = [value] if equals else []
        while not equals and place < len(args) and not args[place].startswith("-"):
            values.append(args[place])
            place += 1
        if not values or (name == "--folder" and len(values) > 1):
            raise UserError(f"{name}: give {'one folder' if name == '--folder' else 'numbers'}")
        own[name] = values
    return rest, own


def _numbers(name: str, values: list[str]) -> list[int]:
    try:
        return [*dict.fromkeys(int(value) for value in values)]
    except ValueError:
        raise UserError(f"{name}: {' '.join(values)} are not whole numbers") from None
