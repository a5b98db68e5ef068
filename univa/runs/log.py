"""The run folder: where it is, its log, and the files that end it."""

from __future__ import annotations

import errno
import itertools
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from univa.config import TrainConfig
from univa.errors import UserError
from univa.runs.checkpoint import Checkpoint, load_checkpoint
from univa.runs.layout import RunFolder
from univa.utils.files import recover_folder

__all__ = ["RunLog", "find_run", "tensorboard_writer"]


class RunLog:
    """A file of one JSON object per line, flushed line by line."""

    def __init__(
        self, path: Path, *, keep_bytes: int, tensorboard: Path | None = None, step: int = 0
    ) -> None:
        """Open the log; what lies after the first `keep_bytes` bytes is cut off.

        Args:
            path: the file.
            keep_bytes: what of it belongs to the run.
            tensorboard: folder in which TensorBoard's files are kept too.
            step: steps done; what those files hold of later ones is void.

        Raises:
            UserError: the file cannot be written, or TensorBoard is not installed.
        """
        self._board = None if tensorboard is None else _board(tensorboard, step)
        try:
            path.touch()
            self._file = path.open("r+b", buffering=0)  # what fails, fails where it is written
            self._file.truncate(min(keep_bytes, path.stat().st_size))
        except OSError as error:
            raise UserError(
                f"{path}: cannot write the log: {error.strerror}; move it away or start anew"
            ) from error
        self._file.seek(0, 2)

    def write(self, **record: Any) -> None:
        """Append one object.

        Raises:
            UserError: the disk is full, or gone.
        """
        try:
            line = json.dumps(record).encode() + b"\n"
            if self._file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise UserError(
                f"{self._file.name}: cannot write the log: {error.strerror}; make room and go on "
                f"with: univa train --resume {Path(self._file.name).parent}"
            ) from error
        if self._board is not None:
            for name, value in _numbers(record):
                self._board.add_scalar(f"{record['event']}/{name}", value, record["step"])

    def flush(self) -> int:
        """Bring all of it to the disk; return the bytes so far."""
        if self._board is not None:
            self._board.flush()
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def tensorboard_writer() -> Any:
    """TensorBoard's writer class.

    Raises:
        UserError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError(
            "--tensorboard: TensorBoard is not installed; pip install 'univa[tensorboard]', or "
            "drop the option (log.jsonl has the same numbers)"
        ) from None
    return SummaryWriter


def _board(folder: Path, step: int) -> Any:
    """A writer that goes on after `step`."""
    # Readers take files in the order of their names, which tell seconds: one of this second
    # might be read after ours, and what it holds of later steps would stand.
    found = max(folder.glob("events.out.tfevents.*"), default=None, key=lambda path: path.name)
    if found is not None and (second := found.name.split(".")[3]).isdigit():
        while 0 <= int(second) - int(time.time()) < 2:
            time.sleep(0.05)
    return tensorboard_writer()(folder, purge_step=step + 1)


def _numbers(record: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in record.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and name not in ("step", "epoch"):
            yield f"{prefix}{name}", value


def find_run(config: TrainConfig) -> tuple[Path, Checkpoint | None]:
    """Decide on the run folder, and find the checkpoint to go on from. Makes nothing.

    Args:
        config: the resolved config.

    Returns:
        The folder, and its `last` checkpoint when resuming. None where there is none: a new run,
        or one that was killed before its first checkpoint, whose start is the same again.

    Raises:
        UserError: the folder is in use, or `--resume` goes with another config or checkpoint.
    """
    if config.resume is None:
        if config.run_folder is None:
            name = f"runs/{config.preset}-{time.strftime('%Y%m%d-%H%M%S')}"
            names = itertools.chain([name], (f"{name}-{i}" for i in itertools.count(2)))
            return next(path for path in map(Path, names) if not path.exists()), None
        run = Path(config.run_folder)
        if run.exists() and (not run.is_dir() or any(map(_kept, run.iterdir()))):
            raise UserError(
                f"{run}: exists and is not an empty folder; give another --run-folder, or go on "
                f"with the run in it: univa train --resume {run}"
            )
        return run, None
    run = Path(config.resume)
    layout = RunFolder(run)
    stored = TrainConfig.load(layout.config)
    changes = stored.differences(config)
    if changes:
        raise UserError(
            f"{layout.config}: the run has another config than the options say "
            f"({'; '.join(changes)}); drop these options, or start a new run without --resume"
        )
    if not recover_folder(layout.last):
        return run, None
    return run, load_checkpoint(layout.last, config=config)


def _kept(path: Path) -> bool:
    """False for what `atomic_path` leaves where the process was killed inside it."""
    return not (path.name.startswith(".") and ".tmp-" in path.name)
