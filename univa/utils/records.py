"""Rows of a table that a person wrote: CSV with a header, or one JSON object per line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from univa.errors import UserError
from univa.utils.text_files import at, nearest, read_table, read_text

__all__ = ["read_records"]


def read_records(
    path: Path, columns: Iterable[str], *, mend: str
) -> Iterator[tuple[int, dict[str, str]]]:
    """Read a table record by record, whichever of the two forms it has.

    Args:
        path: the file; `.jsonl` is read as JSON lines, any other name as CSV.
        columns: columns that every record must have.
        mend: what to do when the file is missing.

    Yields:
        The row (1-based line of the file where the record starts) and the record, column -> text.
        Numbers of JSON are as text too, null is empty, a list of texts is joined by ";"; empty
        lines are passed over.

    Raises:
        UserError: as `read_table`; a line is not a JSON object, or one of its values is an
            object or another list.
    """
    if path.suffix.lower() not in (".jsonl", ".ndjson"):
        yield from read_table(path, columns, mend=mend)
        return
    columns = tuple(columns)
    found = False
    # Not splitlines, which also splits at characters that JSON leaves inside its strings.
    for row, line in enumerate(read_text(path, mend=mend).split("\n"), 1):
        if not line.strip():
            continue
        found = True
        try:
            values = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise UserError(f"{at(path, row)}: not JSON ({error}); mend the line") from None
        if not isinstance(values, dict):
            raise UserError(f"{at(path, row)}: not a JSON object; write one object per line")
        for name in columns:
            if name not in values:
                raise UserError(
                    f"{at(path, row)}: no column {name!r}{nearest(name, values)}; the columns are "
                    f"{', '.join(values)}"
                )
        yield row, {name: _text(path, row, name, value) for name, value in values.items()}
    if not found:
        raise UserError(f"{path}: the file is empty; {mend}")


def _text(path: Path, row: int, name: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ";".join(value)
    raise UserError(f"{at(path, row)}: column {name!r} is no text or number; mend the line")
