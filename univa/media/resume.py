"""A log of finished items, with which a run that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from univa.errors import UserError
from univa.media.decode import Clip
from univa.media.manifest import Item

__all__ = ["ItemLog", "file_marks", "item_key"]


class ItemLog:
    """A file of JSON lines: what the run is, then one line per finished batch of items.

    A line is written whole or does not count, so a batch is finished or not begun. An item is known
    by its key, which changes with its file: one that was mended is done anew, all others are kept.

    Args:
        path: the file; its folder exists.
        head: what decides the results beside the items (model, options), as JSON. A log with
            another head is of another run.
        mend: what to do about such a log, in words.

    Attributes:
        done: key -> what came of the item, as JSON.

    Raises:
        UserError: the log is of another run or damaged.
    """

    def __init__(self, path: Path, head: dict[str, Any], *, mend: str) -> None:
        self.path = path
        self.done: dict[str, Any] = {}
        whole = b""
        if path.exists():
            content = path.read_bytes()
            whole = content[: content.rfind(b"\n") + 1]  # the line under way is not whole
            try:
                entries = [json.loads(line) for line in whole.splitlines()]
                if entries and entries[0] != json.loads(json.dumps(head)):
                    raise UserError(f"{path}: begun with other options or another model; {mend}")
                for entry in entries[1:]:
                    self.done |= entry
            except (ValueError, TypeError):
                raise UserError(f"{path}: damaged; {mend}") from None
            path.write_bytes(whole)
        self._file = path.open("a", encoding="utf-8")
        if not whole:
            self._write(head)

    def keep(self, keys: Sequence[str], values: Sequence[Any]) -> None:
        """Note what came of the items of a batch."""
        found = dict(zip(keys, values, strict=True))
        self._write(found)
        self.done |= found

    def _write(self, entry: dict[str, Any]) -> None:
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()

    def __enter__(self) -> ItemLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the log. It stays for the next run, unless nothing is in it."""
        self._file.close()
        if not self.done:
            self.remove()

    def remove(self) -> None:
        """Take the log away: the whole result is written."""
        self.path.unlink(missing_ok=True)


def item_key(item: Item) -> str:
    """A key that changes when the item's id, text, file or stretch of time does."""
    parts: list[Any] = [item.id, item.written]
    if isinstance(item.content, Clip):
        clip = item.content
        parts += [clip.start, clip.end, file_marks(clip.path)]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def file_marks(path: Path) -> list[list[Any]]:
    """Name, size and time of a file, or of all files in a folder; of none where there is none."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    marks = []
    for file in files:
        try:
            found = file.stat()
        except OSError:  # whoever reads it says so better
            continue
        if file.is_file():
            marks.append([file.name, found.st_size, found.st_mtime_ns])
    return marks
