"""From computational sequences (CMU-MOSEI, CMU-MOSI) to a store.

    univa data import-csd CMU_MOSEI_Labels.csd STORE --folds cmu_mosei_std_folds.py
        --words CMU_MOSEI_TimestampedWords.csd --audio-features CMU_MOSEI_COVAREP.csd
        --vision-features CMU_MOSEI_VisualFacet42.csd --non-finite zero --missing drop

A row of the label sequence is an utterance, `video[0]`, `video[1]`, ...; a video is a dialogue.
The label columns are sentiment and six emotions (happy, sad, anger, surprise, disgust, fear), the
six alone, or sentiment alone. An emotion is present where its intensity is above 0. See `csd` for
which rows of another sequence belong to an utterance.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from univa.batch import Modality
from univa.data.corpus import FeatureSlice
from univa.data.importers.csd_file import Csd, Segment, SegmentFeatures
from univa.data.importers.folds import read_folds
from univa.data.importers.rows import Attachments, Row, assemble
from univa.data.sources.authors_text import MOSEI_LABELS
from univa.data.store.write import (
    StoreOptions,
    fingerprints,
    refuse_finished,
    show_store,
    write_store,
)
from univa.errors import UserError
from univa.utils.console import note, progress
from univa.utils.records import read_records
from univa.utils.text_files import at

__all__ = ["ImportCsd"]

_SENTIMENT = ("negative", "positive")
_COLUMNS = {7: ("sentiment", *MOSEI_LABELS), 6: MOSEI_LABELS, 1: ("sentiment",)}
_Treatment = Literal["error", "drop", "zero"]


@dataclass(kw_only=True)
class ImportCsd:
    """Turn computational sequences (.csd) of CMU-MOSEI or CMU-MOSI into a store."""

    labels: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="LABELS.csd")]
    """Label sequence; its rows are the utterances."""
    store: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="STORE")]
    """Folder for the store. An import that was stopped goes on there."""
    folds: Path
    """Which video is in which split: JSON {"train": [...], "valid": [...], "test": [...]}, or the
    SDK's cmu_mosei_std_folds.py."""
    task: Literal["emotions", "sentiment"] = "emotions"
    """The six emotions; or negative (sentiment below 0) and positive (above 0)."""
    words: Path | None = None
    """What was said: a sequence of words (TimestampedWords), or a table with id and text."""
    non_finite: _Treatment = "error"
    """What a row with NaN or infinity does: stop the import; be left out (a label row: with its
    utterance); or have 0 in these places."""
    missing: _Treatment = "error"
    """What an utterance without a row of features does: stop the import; be left out; or have one
    row of zeros."""
    attachments: Annotated[Attachments, tyro.conf.arg(name="")] = field(default_factory=Attachments)
    """Features (a .csd file, or a folder) and scores."""
    options: Annotated[StoreOptions, tyro.conf.arg(name="")] = field(default_factory=StoreOptions)
    """How the store is written."""

    def run(self) -> dict[str, Any]:
        """Import and say what there is, and what was left out.

        Raises:
            UserError: bad input, or the store is finished or belongs to another import.
        """
        refuse_finished(self.store)
        names = MOSEI_LABELS if self.task == "emotions" else _SENTIMENT
        files = [self.labels, self.folds]
        rows, segments = self._rows(read_folds(self.folds), Csd(self.labels))
        places: dict[Modality, dict[str, FeatureSlice]] = {}
        for modality, path in self.attachments.features().items():
            if path.suffix == ".csd":
                files.append(path)
                places[modality] = self._places(modality, Csd(path), segments)
        left = {id for found in places.values() for id, place in found.items() if not place.steps}
        if left:
            note(f"{len(left)} utterances without features are left out, first {min(left)!r}")
            rows = [row for row in rows if row.id not in left]
        if self.words is not None:
            files.append(self.words)
            rows = self._with_text(self.words, rows, segments)
        corpus, extras, more = assemble(
            rows, names, self.attachments, source=str(self.labels), places=places
        )
        source = {
            "kind": "csd",
            "files": fingerprints([*files, *more]),
            "options": [self.task, self.non_finite, self.missing],
        }
        write_store(corpus, self.store, self.options, source=source, extras=extras)
        return show_store(self.store)

    def _rows(self, folds: dict[str, str], csd: Csd) -> tuple[list[Row], list[Segment]]:
        """The utterances, without text."""
        rows, segments, bad = [], [], []
        for video, keys in csd.keys.items():
            if video not in folds:
                continue
            number = 0
            for key in keys:
                values, times = csd.numbers(key)
                columns = label_columns(csd, values.shape[1])
                for label, (start, end) in zip(values, times.tolist(), strict=True):
                    # An aligned sequence may lack segments: its own numbers count.
                    own = key != video and len(values) == 1
                    segment = Segment(key if own else f"{video}[{number}]", video, start, end)
                    number += 1
                    if not np.isfinite(label).all():
                        bad.append(segment.id)
                        if self.non_finite == "drop":
                            continue
                        label = np.where(np.isfinite(label), label, 0)
                    segments.append(segment)
                    rows.append(
                        Row(
                            id=segment.id,
                            dialogue=video,
                            split=folds[video],
                            text="",
                            labels=self._present(dict(zip(columns, label, strict=True))),
                            start=start,
                            end=end,
                            at=f"{csd.path}, {segment.id}",
                        )
                    )
        self._report(f"{csd.path}: NaN or infinity in the labels of", bad)
        _say_unmatched(csd, folds)
        return rows, segments

    def _present(self, intensities: dict[str, Any]) -> tuple[str, ...]:
        if self.task == "emotions":
            if "happy" not in intensities:
                raise UserError(
                    f"{self.labels}: no emotions in this file, its rows are sentiment alone; give "
                    "--task sentiment for the labels negative and positive"
                )
            return tuple(name for name in MOSEI_LABELS if intensities[name] > 0)
        if "sentiment" not in intensities:
            raise UserError(f"{self.labels}: no sentiment in this file; give --task emotions")
        sentiment = intensities["sentiment"]
        return ("positive",) if sentiment > 0 else ("negative",) if sentiment < 0 else ()

    def _places(
        self, modality: Modality, csd: Csd, segments: list[Segment]
    ) -> dict[str, FeatureSlice]:
        """Where the features of each utterance are; no steps where it is to be left out."""
        source = SegmentFeatures(csd, segments, non_finite=self.non_finite)
        places: dict[str, FeatureSlice] = {}
        bad, count, empty = [], 0, []
        bar = progress(segments, modality, unit="segment", enabled=self.options.progress)
        for number, segment in enumerate(bar):
            rows, not_finite = source.rows(number)
            steps = len(rows)
            if not_finite:
                bad.append(segment.id)
                count += not_finite
            if not steps:
                empty.append(segment.id)
                steps = int(self.missing == "zero")
            places[segment.id] = FeatureSlice(
                source=source, start=number, steps=steps, size=source.size
            )
        self._report(f"{csd.path}: NaN or infinity in {count} {modality} rows of", bad)
        if empty:
            what = f"{csd.path}: {len(empty)} utterances have no {modality} rows, first "
            what += repr(empty[0])
            if self.missing == "error":
                raise UserError(f"{what}; give --missing drop or --missing zero")
            note(f"{what}: {'left out' if self.missing == 'drop' else 'one row of zeros each'}")
        return places

    def _report(self, what: str, bad: list[str]) -> None:
        if not bad:
            return
        text = f"{what} {len(bad)} utterances, first {bad[0]!r}"
        if self.non_finite == "error":
            raise UserError(f"{text}; give --non-finite drop or --non-finite zero")
        note(f"{text}: {'left out' if self.non_finite == 'drop' else 'set to 0'}")

    def _with_text(self, path: Path, rows: list[Row], segments: list[Segment]) -> list[Row]:
        if path.suffix == ".csd":
            csd = Csd(path)
            texts = {segment.id: csd.words(segment) for segment in segments}
        else:
            mend = "give a sequence of words, or a table with id and text"
            texts = {}
            for number, record in read_records(path, ("id", "text"), mend=mend):
                name = record["id"].strip()
                if name in texts:
                    raise UserError(
                        f"{at(path, number)}: utterance {name!r} comes twice; keep one text"
                    )
                texts[name] = record["text"]
        for row in rows:
            if row.id not in texts:
                raise UserError(f"{path}: no text of utterance {row.id!r}; add a row for it")
        return [replace(row, text=texts[row.id].strip()) for row in rows]


def label_columns(csd: Csd, width: int) -> tuple[str, ...]:
    """Names of the columns of a label sequence.

    They are those of the metadata ("dimension names") where these are known words, whatever their
    order; else those of the SDK's own files of this width.

    Raises:
        UserError: neither tells.
    """
    given = csd.metadata.get("dimension names")
    if isinstance(given, list) and len(given) == width:
        known = {name[:3]: name for name in _COLUMNS[7]}
        names = [known.get(str(name).strip().lower()[:3]) for name in given]
        if None not in names and len(set(names)) == width:
            return tuple(str(name) for name in names)
    if width not in _COLUMNS:
        raise UserError(
            f"{csd.path}: {width} label columns; known are 7 (sentiment and six emotions), 6 (the "
            "emotions) and 1 (sentiment): give another label sequence"
        )
    return _COLUMNS[width]


def _say_unmatched(csd: Csd, folds: dict[str, str]) -> None:
    for what, names in (
        ("videos are in no fold and left out", csd.keys.keys() - folds.keys()),
        ("videos of the folds have no labels", folds.keys() - csd.keys.keys()),
    ):
        if names:
            note(f"{csd.path}: {len(names)} {what}, first {min(names)!r}")
