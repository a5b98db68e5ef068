"""Reads a table of texts or files with valence and arousal, such as EmoBank's `emobank.csv`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from univa.batch import Modality
from univa.errors import UserError
from univa.media.manifest import Columns, content_of
from univa.utils.records import read_records
from univa.utils.text_files import at, finite_number

__all__ = ["TableFormat", "VASplit", "read_va_table"]


@dataclass(kw_only=True)
class TableFormat(Columns):
    """Which columns of the table hold what, and on which scale. The defaults are EmoBank's."""

    valence_column: str = "V"
    """Column with valence."""
    arousal_column: str = "A"
    """Column with arousal."""
    train_split: str = "train"
    """Value of the split column for rows to fit on."""
    dev_split: str = "dev"
    """Value of the split column for rows that choose the best epoch."""
    test_split: str = "test"
    """Value of the split column for rows that are only reported on."""
    value_range: tuple[float, float] = (1.0, 5.0)
    """Lowest and highest possible valence and arousal in the table; rescaled to -1 and 1."""

    def __post_init__(self) -> None:
        low, high = self.value_range
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise UserError(
                f"value_range: {low:g} {high:g} is no range; give two finite numbers, lowest first"
            )
        splits = (self.train_split, self.dev_split, self.test_split)
        if len(set(splits)) != 3:
            raise UserError(
                f"train_split, dev_split and test_split must differ; they are {', '.join(splits)}"
            )


@dataclass(frozen=True, kw_only=True)
class VASplit:
    """The rows of one split.

    Attributes:
        items: N texts, none of them blank, or N clips.
        coordinates: [N, 2] float32 (valence, arousal) in [-1, 1].
    """

    items: tuple[Any, ...]
    coordinates: Tensor

    def __len__(self) -> int:
        return len(self.items)


def read_va_table(
    path: Path, table: TableFormat | None = None, modality: Modality = "text"
) -> dict[str, VASplit]:
    """Read a CSV file with a header line, or JSON lines.

    Args:
        path: the file, UTF-8.
        table: column names, names of the splits and the scale; EmoBank's if left out.
        modality: text, or what the files of the table hold.

    Returns:
        "train", "dev" and "test" -> rows of that split in the order of the file, with valence and
        arousal mapped linearly from `table.value_range` to [-1, 1].

    Raises:
        UserError: the file or a column is missing; a row has a blank text or file, an unknown
            split, or a valence or arousal that is no finite number in the range; a split has no
            row.
    """
    table = table or TableFormat()
    roles = {table.train_split: "train", table.dev_split: "dev", table.test_split: "test"}
    low, high = table.value_range
    items: dict[str, list[Any]] = {role: [] for role in roles.values()}
    points: dict[str, list[tuple[float, float]]] = {role: [] for role in roles.values()}

    columns = (table.of(modality), table.valence_column, table.arousal_column, table.split_column)
    for row, record in read_records(path, columns, mend="give the path of a CSV file"):
        split = record[table.split_column]
        if split not in roles:
            raise UserError(
                f"{at(path, row)}: split {split!r} in column {table.split_column!r} is none of "
                f"{', '.join(roles)}; mend the row or name the splits by option"
            )
        content = content_of(path, row, record, table, modality)
        valence, arousal = (
            _number(path, row, column, record[column], low, high)
            for column in (table.valence_column, table.arousal_column)
        )
        items[roles[split]].append(content)
        points[roles[split]].append((valence, arousal))

    for name, role in roles.items():
        if not items[role]:
            raise UserError(
                f"{path}: no row has {name!r} in column {table.split_column!r}, so the {role} "
                "split is empty; add rows or name the split by option"
            )
    return {
        role: VASplit(
            items=tuple(items[role]),
            coordinates=torch.tensor(points[role], dtype=torch.float64)
            .sub(low)
            .mul(2 / (high - low))
            .sub(1)
            .float(),
        )
        for role in roles.values()
    }


def _number(path: Path, row: int, column: str, cell: str, low: float, high: float) -> float:
    value = finite_number(cell, what=f"column {column!r}", place=partial(at, path, row))
    if not low <= value <= high:
        raise UserError(
            f"{at(path, row)}: column {column!r} is {cell}, outside {low:g} to {high:g}; "
            "mend the cell or set --value-range"
        )
    return value
