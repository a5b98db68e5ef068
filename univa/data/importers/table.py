"""From a table of one's own to a store: `univa data import-table TABLE STORE`.

The table is CSV with a header, or JSON lines, one utterance per row, those of a dialogue in order:

    id        its name, unique
    dialogue  the dialogue (video) that it belongs to
    split     train, valid (dev, val, validation) or test
    text      what was said
    labels    names of the emotions that hold, between ";", "," or "|"; none is allowed. Instead:
              one column for each of --labels, where a number above 0 says that the emotion holds

    start, end, speaker (optional): seconds, seconds, a name, kept for information
    text_valence, text_arousal, and the same for audio and vision (optional): scores

Other columns are passed over, so that one table serves `univa va` and `univa data` alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro

from univa.batch import MODALITIES, Modality
from univa.data.importers.rows import Attachments, Row, assemble, label_set, split_name
from univa.data.store.write import (
    StoreOptions,
    fingerprints,
    refuse_finished,
    show_store,
    write_store,
)
from univa.errors import UserError
from univa.utils.records import read_records
from univa.utils.text_files import at, finite_number

__all__ = ["ImportTable", "read_rows"]

_COLUMNS = ("id", "dialogue", "split", "text")


def read_rows(path: Path, labels: Sequence[str] = ()) -> list[Row]:
    """Read the utterances of a table.

    Args:
        path: the table; `.jsonl` is JSON lines, anything else CSV.
        labels: the label set; needed where the table has a column for each.

    Raises:
        UserError: the file or a column is missing, or a cell is odd; row and mend are named.
    """
    rows = []
    for number, record in read_records(
        path, _COLUMNS, mend="give a table with " + ", ".join((*_COLUMNS, "labels"))
    ):
        place = partial(at, path, number)
        for column in ("id", "dialogue"):
            if not record[column].strip():
                raise UserError(f"{place()}: column {column!r} is empty; fill it")
        start, end = (_optional(record, name, place) for name in ("start", "end"))
        if start is not None and end is not None and end < start:
            raise UserError(f"{place()}: end {end:g} is before start {start:g}; mend the times")
        rows.append(
            Row(
                id=record["id"].strip(),
                dialogue=record["dialogue"].strip(),
                split=split_name(record["split"], place()),
                text=record["text"].strip(),
                labels=_labels(record, labels, place),
                start=start,
                end=end,
                speaker=record.get("speaker", "").strip(),
                coordinates=_coordinates(record, place),
                at=place(),
            )
        )
    if not rows:
        raise UserError(f"{path}: no utterances in it; add rows")
    return rows


def _optional(record: dict[str, str], name: str, place: Callable[[], str]) -> float | None:
    text = record.get(name, "").strip()
    return finite_number(text, what=f"column {name!r}", place=place) if text else None


def _labels(
    record: dict[str, str], labels: Sequence[str], place: Callable[[], str]
) -> tuple[str, ...]:
    if "labels" in record:
        names = (name.strip() for name in re.split(r"[;,|]", record["labels"]))
        return tuple(name for name in names if name)
    if not labels:
        raise UserError(
            f"{place()}: no column 'labels'; add it, or name the columns of the emotions with "
            "--labels"
        )
    for name in labels:
        if name not in record:
            raise UserError(
                f"{place()}: no column {name!r} (and no column 'labels'); the columns are "
                f"{', '.join(record)}"
            )
    return tuple(
        name
        for name in labels
        if finite_number(record[name], what=f"column {name!r}", place=place) > 0
    )


def _coordinates(
    record: dict[str, str], place: Callable[[], str]
) -> dict[Modality, tuple[float, float]]:
    found: dict[Modality, tuple[float, float]] = {}
    for modality in MODALITIES:
        columns = [f"{modality}_valence", f"{modality}_arousal"]
        given = [column for column in columns if column in record]
        if len(given) == 1:
            missing = next(column for column in columns if column not in record)
            raise UserError(f"{place()}: column {given[0]!r} but no {missing!r}; give both")
        if given:
            valence, arousal = (
                finite_number(record[column], what=f"column {column!r}", place=place)
                for column in columns
            )
            found[modality] = (valence, arousal)
    return found


@dataclass(kw_only=True)
class ImportTable:
    """Turn a table of utterances (CSV or JSON lines) and their features into a store."""

    table: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="TABLE")]
    """CSV or JSON lines with id, dialogue, split, text, labels."""
    store: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="STORE")]
    """Folder for the store. An import that was stopped goes on there."""
    labels: tuple[str, ...] = ()
    """Emotions to predict, in the order wanted; those of the table in order of appearance if left
    out."""
    attachments: Annotated[Attachments, tyro.conf.arg(name="")] = field(default_factory=Attachments)
    """Features and scores."""
    options: Annotated[StoreOptions, tyro.conf.arg(name="")] = field(default_factory=StoreOptions)
    """How the store is written."""

    def run(self) -> dict[str, Any]:
        """Import and say what there is.

        Raises:
            UserError: bad input, or the store is finished or belongs to another import.
        """
        refuse_finished(self.store)
        rows = read_rows(self.table, self.labels)
        names = label_set(rows, self.labels, source=str(self.table))
        corpus, extras, files = assemble(
            rows, names, self.attachments, source=str(self.table), sort=False
        )
        source = {"kind": "table", "files": fingerprints([self.table, *files])}
        write_store(corpus, self.store, self.options, source=source, extras=extras)
        return show_store(self.store)
