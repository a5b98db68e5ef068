"""From M3ED's annotation and its split lists to a store.

    univa data import-m3ed annotation.json STORE --splits splitInfo --audio-features FOLDER

    annotation.json                  {show: {show_episode: {"Dialog": {utterance: {
                                         "StartTime": "00:00:00:01", "EndTime": ..., "Text": ...,
                                         "Speaker": "A", "EmoAnnotation": {
                                             "final_mul_emo": "Happy,Surprise",
                                             "final_main_emo": "Happy", ...}}}, ...}}}
    splitInfo/movie_list_train.txt   names of shows, one per line; and _val, _test

A show is in one split with all its dialogues, and utterances are in the order of the annotation.
Times are hours, minutes, seconds and frames.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from univa.data.importers.folds import read_list
from univa.data.importers.rows import Attachments, Row, assemble
from univa.data.sources.authors_text import M3ED_LABELS
from univa.data.store.write import (
    StoreOptions,
    fingerprints,
    refuse_finished,
    show_store,
    write_store,
)
from univa.errors import UserError
from univa.utils.text_files import JsonFile, nearest, read_json

__all__ = ["ImportM3ed", "read_annotation"]

_LISTS = {"train": ("train",), "valid": ("val", "valid"), "test": ("test",)}
_TIME = re.compile(r"(\d+):(\d+):(\d+)(?::(\d+)|\.(\d+))?", re.ASCII)


def read_annotation(
    path: Path,
    shows: dict[str, str],
    *,
    emotions: Literal["all", "main"] = "all",
    frames_per_second: float = 25.0,
) -> list[Row]:
    """Read the utterances of the shows that are in a split.

    Args:
        path: the annotation.
        shows: show -> split.
        emotions: all that were agreed on (`final_mul_emo`), or the main one (`final_main_emo`).
        frames_per_second: what the last field of a time counts.

    Raises:
        UserError: the file is missing, or something in it is missing or odd.
    """
    file = read_json(path, mend="give M3ED's annotation JSON")
    for show in shows:
        if show not in file.values:
            raise UserError(
                f"{path}: no show {show!r}{nearest(show, file.values)}, which the split lists "
                "name; mend the list"
            )
    rows = []
    for show, split in shows.items():
        for episode, content in _object(file, show, file.values[show]).items():
            dialogue = _object(file, episode, content).get("Dialog")
            for name, entry in _object(file, episode, dialogue, "Dialog").items():
                entry = _object(file, name, entry)
                rows.append(_row(file, split, episode, name, entry, emotions, frames_per_second))
    return rows


def _object(file: JsonFile, name: str, value: Any, key: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        what = f"{key} of {name!r}" if key else f"{name!r}"
        raise UserError(
            f"{file.at(name)}: {what} is no object with entries; mend it or take it out"
        )
    return value


def _row(
    file: JsonFile,
    split: str,
    episode: str,
    name: str,
    entry: dict[str, Any],
    emotions: str,
    frames_per_second: float,
) -> Row:
    place = partial(file.at, name)
    annotation = entry.get("EmoAnnotation")
    field_name = "final_mul_emo" if emotions == "all" else "final_main_emo"
    held = annotation.get(field_name) if isinstance(annotation, dict) else None
    texts = {key: entry.get(key) for key in ("StartTime", "EndTime", "Text", "Speaker")}
    for key, value in {**texts, field_name: held}.items():
        if not isinstance(value, str):
            raise UserError(f"{place()}: utterance {name!r} has no {key}; add it as a text")
    labels = [label.strip() for label in str(held).split(",") if label.strip()]
    by_lower = {label.lower(): label for label in M3ED_LABELS}
    for label in labels:
        if label.lower() not in by_lower:
            raise UserError(
                f"{place()}: utterance {name!r} has the emotion {label!r}"
                f"{nearest(label, M3ED_LABELS)}; known are {', '.join(M3ED_LABELS)}"
            )
    start, end = (
        _seconds(str(texts[key]), f"{key} of utterance {name!r}", frames_per_second, place)
        for key in ("StartTime", "EndTime")
    )
    return Row(
        id=name,
        dialogue=episode,
        split=split,
        text=str(texts["Text"]).strip(),
        labels=tuple(by_lower[label.lower()] for label in labels),
        start=start,
        end=end,
        speaker=str(texts["Speaker"]).strip(),
        at=f"{file.path}, {name}",
    )


def _seconds(text: str, what: str, rate: float, place: Callable[[], str]) -> float:
    """Seconds of "hh:mm:ss:ff" (frames, `rate` a second), "hh:mm:ss.fff" or "hh:mm:ss"."""
    found = _TIME.fullmatch(text.strip())
    if found is None:
        raise UserError(f"{place()}: {what} is {text!r}; write hours:minutes:seconds:frames")
    hours, minutes, seconds = (int(found[i]) for i in (1, 2, 3))
    part = float(f"0.{found[5]}") if found[5] else int(found[4] or 0) / rate
    return hours * 3600 + minutes * 60 + seconds + part


def _shows(folder: Path) -> tuple[dict[str, str], list[Path]]:
    """Show -> split, and the lists."""
    shows: dict[str, str] = {}
    files = []
    for split, names in _LISTS.items():
        paths = [folder / f"movie_list_{name}.txt" for name in names]
        path = next((path for path in paths if path.exists()), paths[0])
        for show in read_list(path, mend="give M3ED's folder of split lists with --splits"):
            if shows.setdefault(show, split) != split:
                raise UserError(
                    f"{path}: show {show!r} is in {shows[show]} and in {split}; keep it in one"
                )
        files.append(path)
    return shows, files


@dataclass(kw_only=True)
class ImportM3ed:
    """Turn M3ED's annotation JSON, split lists and features into a store."""

    annotation: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="ANNOTATION.json")]
    """M3ED's annotation."""
    store: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="STORE")]
    """Folder for the store. An import that was stopped goes on there."""
    splits: Path
    """Folder with movie_list_train.txt, movie_list_val.txt and movie_list_test.txt."""
    emotions: Literal["all", "main"] = "all"
    """All emotions of an utterance (final_mul_emo), or its main one (final_main_emo)."""
    frames_per_second: float = 25.0
    """What the last field of a time counts. The times are kept in the store for information."""
    attachments: Annotated[Attachments, tyro.conf.arg(name="")] = field(default_factory=Attachments)
    """Features and scores, by the annotation's names of the utterances."""
    options: Annotated[StoreOptions, tyro.conf.arg(name="")] = field(default_factory=StoreOptions)
    """How the store is written."""

    def run(self) -> dict[str, Any]:
        """Import and say what there is.

        Raises:
            UserError: bad input, or the store is finished or belongs to another import.
        """
        refuse_finished(self.store)
        if not self.frames_per_second > 0:
            raise UserError(f"--frames-per-second: {self.frames_per_second:g} is not above 0")
        shows, lists = _shows(self.splits)
        rows = read_annotation(
            self.annotation,
            shows,
            emotions=self.emotions,
            frames_per_second=self.frames_per_second,
        )
        corpus, extras, files = assemble(
            rows, M3ED_LABELS, self.attachments, source=str(self.annotation), sort=False
        )
        source = {
            "kind": "m3ed",
            "files": fingerprints([self.annotation, *lists, *files]),
            "options": [self.emotions, self.frames_per_second],
        }
        write_store(corpus, self.store, self.options, source=source, extras=extras)
        return show_store(self.store)
