"""Checked reading of text files: what fails is named with its file and row, in one line."""

from __future__ import annotations

import csv
import difflib
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from univa.errors import UserError

__all__ = [
    "JsonFile",
    "at",
    "check_modality",
    "finite_number",
    "nearest",
    "read_json",
    "read_table",
    "read_text",
]


def at(path: Path, row: int | None = None) -> str:
    """Name a place: "file, row 12" (1-based line of the file)."""
    return f"{path}, row {row}" if row else f"{path}"


def read_text(path: Path, *, mend: str) -> str:
    """Read a UTF-8 text file, with or without a byte order mark, line ends as they are.

    Args:
        path: The file.
        mend: What to do when it is missing.

    Raises:
        UserError: the file is missing, unreadable or not UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            return stream.read()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {mend}") from None
    except UnicodeDecodeError as error:
        row = path.read_bytes()[: error.start].count(b"\n") + 1
        raise UserError(f"{at(path, row)}: not UTF-8 text; save the file as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {mend}") from None


@dataclass(frozen=True, kw_only=True)
class JsonFile:
    """A JSON object and the text that it was read from.

    Attributes:
        path: The file.
        values: The object.
        text: The file's text.
    """

    path: Path
    values: dict[str, Any]
    text: str

    def at(self, key: str, *, last: bool = False) -> str:
        """Name the place of the first, or last, mention of a string: "file, row 12".

        It searches the file, so it is for messages only.
        """
        for form in (json.dumps(key), json.dumps(key, ensure_ascii=False)):
            place = self.text.rfind(form) if last else self.text.find(form)
            if place >= 0:
                return at(self.path, self.text.count("\n", 0, place) + 1)
        return at(self.path)


def read_json(path: Path, *, mend: str) -> JsonFile:
    """Read a JSON object whose keys come once each.

    Args:
        path: The file.
        mend: What to do when it is missing.

    Raises:
        UserError: as `read_text`; not JSON; not an object; a key comes twice in one object.
    """
    text = read_text(path, mend=mend)

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            twice = next(key for key, count in counts.items() if count > 1)
            place = JsonFile(path=path, values={}, text=text).at(twice, last=True)
            raise UserError(f"{place}: {twice!r} comes twice; keep one of them")
        return values

    try:
        values = json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{at(path, error.lineno)}: invalid JSON at column {error.colno} ({error.msg}); mend "
            "it or write the file anew"
        ) from None
    except RecursionError:
        raise UserError(f"{path}: JSON nested too deeply; write the file anew") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a JSON object, got {type(values).__name__}")
    return JsonFile(path=path, values=values, text=text)


def read_table(
    path: Path, columns: Iterable[str], *, mend: str
) -> Iterator[tuple[int, dict[str, str]]]:
    """Read a CSV file with a header row, record by record.

    Args:
        path: The file.
        columns: Columns that must be in the header.
        mend: What to do when the file is missing.

    Yields:
        The row (1-based line of the file where the record starts: a quoted field may hold line
        ends) and the record, column -> text. Empty lines are passed over.

    Raises:
        UserError: as `read_text`; a column is missing or comes twice; a record has another number
            of fields than the header; a quote is not closed.
    """
    # newline="" keeps line ends inside quoted fields, so that csv counts the lines of the file.
    reader = csv.reader(io.StringIO(read_text(path, mend=mend), newline=""), strict=True)
    row = 1
    header: list[str] | None = None
    try:
        for fields in reader:
            start, row = row, reader.line_num + 1
            if not fields:
                continue
            if header is None:
                header = fields
                _check_header(path, start, header, columns)
                continue
            if len(fields) != len(header):
                raise UserError(
                    f"{at(path, start)}: {len(fields)} fields but {len(header)} columns in the "
                    "header; mend the row (quote a text that holds a comma)"
                )
            yield start, dict(zip(header, fields, strict=True))
    except csv.Error as error:
        raise UserError(f"{at(path, row)}: not CSV ({error}); mend the quotes of the row") from None
    if header is None:
        raise UserError(f"{path}: the file is empty; {mend}")


def _check_header(path: Path, row: int, header: list[str], columns: Iterable[str]) -> None:
    for name in header:
        if header.count(name) > 1:
            raise UserError(f"{at(path, row)}: column {name!r} comes twice; keep one of them")
    for name in columns:
        if name not in header:
            raise UserError(
                f"{at(path, row)}: no column {name!r}{nearest(name, header)}; the columns are "
                f"{', '.join(header)}"
            )


def nearest(name: str, known: Iterable[str]) -> str:
    """Suggest a known name: " (did you mean 'anger'?)", or nothing where none is near."""
    by_lower = {other.lower(): other for other in known}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f" (did you mean {by_lower[found[0]]!r}?)" if found else ""


def check_modality(path: Path, what: str, said: Any, wanted: str, *, mend: str) -> None:
    """Refuse what another modality's option is for; a file that does not say is taken.

    Args:
        path: The file.
        what: What it holds, for the message.
        said: Modality that the file names, or None.
        wanted: Modality that it was given for.
        mend: What to do where they differ.

    Raises:
        UserError: the two differ.
    """
    if said not in (None, wanted):
        raise UserError(f"{path}: {what} of {said}, not of {wanted}; {mend}")


def finite_number(value: Any, *, what: str, place: Callable[[], str]) -> float:
    """Read a number from a string or a JSON number.

    Args:
        value: What stands there.
        what: Its name for the message.
        place: Gives where it stands, for the message.

    Raises:
        UserError: it is not a number, or is NaN or infinite.
    """
    try:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError
        number = float(value)
    except (ValueError, OverflowError):
        raise UserError(f"{place()}: {what} is {value!r}, not a number; write a number") from None
    if not math.isfinite(number):
        raise UserError(f"{place()}: {what} is {value!r}; write a finite number or remove the row")
    return number
