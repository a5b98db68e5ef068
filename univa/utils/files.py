"""Files that are either whole or absent: written under a temporary name, then renamed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from univa.errors import UserError

__all__ = [
    "atomic_folder",
    "atomic_path",
    "atomic_write_json",
    "atomic_write_text",
    "check_named",
    "check_writable",
    "make_folder",
    "recover_folder",
]


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; rename it to `path` when the block succeeds.

    The temporary name keeps the suffix, so writers that look at it behave as they should. Missing
    parent folders are made. When the block fails the temporary file is removed and `path` is as it
    was before.

    Args:
        path: the file to write; an existing file is replaced.

    Yields:
        A path that does not exist yet. The block must create a file there.

    Raises:
        UserError: the folder cannot be made or written to, or `path` is a folder.
    """
    target = Path(path)
    if target.is_dir():
        raise UserError(f"{target}: cannot write a file here, this is a folder")
    make_folder(target.parent)
    temporary = target.with_name(f".{target.stem}.tmp-{os.getpid()}{target.suffix}")
    try:
        yield temporary
        _open_to_umask(temporary)
        _sync(temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` (UTF-8, newlines as given) to `path`, whole or not at all.

    Raises:
        UserError: as `atomic_path`; also where the folder refuses the file.
    """
    try:
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise UserError(f"{path}: cannot write: {error.strerror or error}") from error


def atomic_write_json(path: str | os.PathLike[str], obj: Any) -> None:
    """Write `obj` as indented JSON with a final newline, whole or not at all.

    Raises:
        UserError: as `atomic_write_text`.
        ValueError: `obj` holds NaN or infinity, which JSON has no words for.
        TypeError: `obj` holds something that is not JSON.
    """
    text = json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False)
    atomic_write_text(path, text + "\n")


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`; it takes the place of `path` on success.

    A non-empty folder cannot be replaced by one rename, so the old one steps aside to
    `<name>.old` for a moment. Whoever reads must call `recover_folder` first: it brings the old one
    back after a crash between the two renames. A whole version exists at every moment.

    Args:
        path: the folder to write; an existing one is replaced.

    Yields:
        An empty folder.

    Raises:
        UserError: the folder or its parent cannot be made, or `path` is "." or ends in "..".
    """
    target = Path(path)
    check_named(target)
    make_folder(target.parent)
    recover_folder(target)
    temporary = target.with_name(f"{target.name}.tmp")
    old = target.with_name(f"{target.name}.old")
    shutil.rmtree(temporary, ignore_errors=True)  # left behind by a process that was killed
    try:
        temporary.mkdir()
    except OSError as error:
        raise UserError(
            f"{target}: cannot make this folder: {error.strerror}; give another place"
        ) from error
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _open_to_umask(file)
                _sync(file)
        if target.exists():
            target.rename(old)
        temporary.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def recover_folder(path: str | os.PathLike[str]) -> bool:
    """Undo what a crash inside `atomic_folder` left behind.

    Args:
        path: a folder written by `atomic_folder`.

    Returns:
        True where a whole folder is at `path` now.
    """
    target = Path(path)
    old = target.with_name(f"{target.name}.old")
    if old.is_dir():
        if target.is_dir():
            shutil.rmtree(old, ignore_errors=True)
        else:
            with suppress(FileNotFoundError):  # another process of the run was quicker
                old.rename(target)
    return target.is_dir()


def make_folder(path: Path, *, mend: str = "give another place") -> None:
    """Make a folder and its parents; one that exists is left alone.

    Args:
        path: the folder.
        mend: what the message tells to do.

    Raises:
        UserError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot make this folder: {error.strerror}; {mend}") from error


def check_named(path: Path) -> None:
    """UserError for a folder that cannot be replaced whole, since people or commands are in it."""
    if path.name in ("", ".."):
        raise UserError(f"{path}: cannot replace this folder; give the name of a new one")


def check_writable(path: str | os.PathLike[str]) -> None:
    """Refuse before the work what `atomic_write_text` would refuse after it.

    Raises:
        UserError: as `atomic_write_text`.
    """
    try:
        with suppress(_Tried), atomic_path(path) as temporary:
            temporary.touch()
            raise _Tried
    except OSError as error:
        raise UserError(f"{path}: cannot write: {error.strerror or error}") from error


class _Tried(Exception):
    """Ends a trial, so that the temporary file goes away and the old file stays."""


def _open_to_umask(path: Path) -> None:
    """Give a file the mode that `open` would; safetensors lets nobody else read its files."""
    mask = os.umask(0o077)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def _sync(path: Path) -> None:
    """Have the bytes on disk before the rename, so that a power cut cannot leave an empty file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
