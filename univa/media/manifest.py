"""The manifest of a corpus: a table with a row for each utterance and the files that belong to it.

    id,dialogue,split,text,audio,vision
    v1_0,v1,train,I am so glad,wav/v1_0.wav,frames/v1_0

One manifest serves `univa va fit-*`, `univa va score`, `univa data extract-*` and `univa data
import-table`; each takes the columns that it needs and passes over the others. Paths are relative
to the manifest's folder. With columns `start` and `end` (seconds) the audio or vision of a row is
that stretch of the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from univa.batch import Modality
from univa.data.importers.rows import split_name
from univa.errors import UserError
from univa.media.decode import Clip
from univa.utils.records import read_records
from univa.utils.text_files import at, finite_number

__all__ = ["SPLITS", "Columns", "Item", "content_of", "read_items"]

SPLITS = ("train", "valid", "test")


@dataclass(kw_only=True)
class Columns:
    """Which columns of a table hold what."""

    text_column: str = "text"
    """Column with the text."""
    audio_column: str = "audio"
    """Column with the audio file."""
    vision_column: str = "vision"
    """Column with the image, the folder of frames or the video."""
    start_column: str = "start"
    """Column with the second at which a row's part of its file begins; may be absent."""
    end_column: str = "end"
    """Column with the second at which it ends; may be absent."""
    split_column: str = "split"
    """Column that says which split a row belongs to."""
    id_column: str = "id"
    """Column with the utterance's id, unique in the table."""

    def of(self, modality: Modality) -> str:
        """The column that a modality is in."""
        names = {
            "text": self.text_column,
            "audio": self.audio_column,
            "vision": self.vision_column,
        }
        return names[modality]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One utterance's text, sound or picture.

    Attributes:
        id: of the utterance.
        split: "train", "valid" or "test".
        written: the text, or the path as the manifest has it.
        content: the text, or the clip.
    """

    id: str
    split: str
    written: str
    content: str | Clip


def content_of(
    path: Path, row: int, record: dict[str, str], columns: Columns, modality: Modality
) -> str | Clip:
    """What a row of a table holds of one modality: a text, or a clip of a file.

    Args:
        path: the table; file names are relative to its folder.
        row: line of the table, for messages.
        record: column -> text.
        columns: their names.
        modality: which.

    Raises:
        UserError: the cell is blank, or a time is no number or not after the one before it.
    """
    name = columns.of(modality)
    cell = record[name].strip()
    if not cell:
        raise UserError(
            f"{at(path, row)}: column {name!r} is empty; give the row a "
            f"{'text' if modality == 'text' else 'file'} or drop it"
        )
    if modality == "text":
        return cell
    times: list[float | None] = []
    for column in (columns.start_column, columns.end_column):
        value = record.get(column, "").strip()
        place = partial(at, path, row)
        times.append(
            finite_number(value, what=f"column {column!r}", place=place) if value else None
        )
    start, end = times[0] or 0.0, times[1]
    if start < 0 or (end is not None and end <= start):
        raise UserError(
            f"{at(path, row)}: from {start:g} s to {end} s is no stretch of time; mend the row"
        )
    return Clip(path=path.parent / cell, start=start, end=end)


def read_items(path: Path, modality: Modality, columns: Columns | None = None) -> list[Item]:
    """Read a manifest for one modality.

    Args:
        path: the manifest.
        modality: which.
        columns: names of the columns.

    Returns:
        One item per row, in the order of the rows.

    Raises:
        UserError: the manifest or a column is missing, an id comes twice, a split is unknown, or
            as `content_of`.
    """
    columns = columns or Columns()
    needed = (columns.id_column, columns.split_column, columns.of(modality))
    items: list[Item] = []
    rows: dict[str, int] = {}
    for row, record in read_records(path, needed, mend="give the path of a manifest"):
        name = record[columns.id_column].strip()
        if not name:
            raise UserError(f"{at(path, row)}: column {columns.id_column!r} is empty; give an id")
        if name in rows:
            raise UserError(
                f"{at(path, row)}: id {name!r} comes twice, first in row {rows[name]}; make ids "
                "unique"
            )
        rows[name] = row
        content = content_of(path, row, record, columns, modality)
        written = record[columns.of(modality)].strip()
        split = split_name(record[columns.split_column], at(path, row))
        items.append(Item(id=name, split=split, written=written, content=content))
    if not items:
        raise UserError(f"{path}: no row in it; give one row per utterance")
    return items
