"""From the rows of an annotation to a corpus: what all importers share.

An importer reads who said what, when and with which labels; features come from folders that
`univa data extract-audio` and `extract-vision` write, valence-arousal scores from files that
`univa va score` writes. Features are not read here, only found.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from univa.batch import MODALITIES, Modality
from univa.data.corpus import Corpus, Dialogue, FeatureSlice, LazyFeatures, Split, Utterance
from univa.data.importers.feature_folder import read_feature_folder
from univa.data.scores import read_scores
from univa.errors import UserError
from univa.utils.text_files import nearest

__all__ = ["Attachments", "Row", "assemble", "label_set", "split_name"]

_SPLITS = {"dev": "valid", "val": "valid", "validation": "valid"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One utterance as annotated.

    Attributes:
        id: identifier, unique in the corpus.
        dialogue: identifier of its dialogue.
        split: "train", "valid" or "test".
        text: what was said.
        labels: names of the labels that hold.
        start: when it begins in seconds, or None.
        end: when it ends in seconds, or None.
        speaker: who said it, or "".
        coordinates: modality -> (valence, arousal).
        at: where it stands, for messages.
    """

    id: str
    dialogue: str
    split: str
    text: str
    labels: tuple[str, ...]
    start: float | None = None
    end: float | None = None
    speaker: str = ""
    coordinates: Mapping[Modality, tuple[float, float]] = field(default_factory=dict)
    at: str


@dataclass(frozen=True, kw_only=True)
class Attachments:
    """Features and scores that belong to the utterances."""

    text_features: Path | None = None
    """Word vectors: a folder with index.jsonl and safetensors files. Without them the text is for a
    text encoder."""
    audio_features: Path | None = None
    """Audio features: a folder that `univa data extract-audio` wrote."""
    vision_features: Path | None = None
    """Visual features: a folder that `univa data extract-vision` wrote."""
    text_va: Path | None = None
    """Valence-arousal scores of the text: a file that `univa va score` wrote, or CSV or JSON lines
    with id, valence, arousal."""
    audio_va: Path | None = None
    """Valence-arousal scores of the audio."""
    vision_va: Path | None = None
    """Valence-arousal scores of the frames."""

    def features(self) -> dict[Modality, Path]:
        """The feature paths that were given."""
        return self._given("features")

    def scores(self) -> dict[Modality, Path]:
        """The score files that were given."""
        return self._given("va")

    def _given(self, what: str) -> dict[Modality, Path]:
        pairs = ((modality, getattr(self, f"{modality}_{what}")) for modality in MODALITIES)
        return {modality: path for modality, path in pairs if path is not None}


def split_name(value: str, place: str) -> str:
    """The split that a word means: train, valid (also dev, val, validation) or test.

    Raises:
        UserError: it means none.
    """
    name = _SPLITS.get(value.strip().lower(), value.strip().lower())
    if name not in ("train", "valid", "test"):
        raise UserError(f"{place}: split {value!r} is none of train, valid, test; mend it")
    return name


def label_set(rows: Sequence[Row], wanted: Sequence[str], *, source: str) -> tuple[str, ...]:
    """The labels to predict: those wanted, or else those of the rows in order of appearance.

    Raises:
        UserError: a row has a label that is not wanted, or there is no label.
    """
    if not wanted:
        names = tuple(dict.fromkeys(chain.from_iterable(row.labels for row in rows)))
        if not names:
            raise UserError(f"{source}: no row has a label; fill the column labels")
        return names
    for row in rows:
        for name in row.labels:
            if name not in wanted:
                raise UserError(
                    f"{row.at}: label {name!r} is not among --labels{nearest(name, wanted)}: "
                    f"{', '.join(wanted)}; mend the row or add the label"
                )
    return tuple(wanted)


def assemble(
    rows: Sequence[Row],
    labels: Sequence[str],
    attachments: Attachments,
    *,
    source: str,
    places: Mapping[Modality, Mapping[str, FeatureSlice]] | None = None,
    sort: bool = True,
) -> tuple[Corpus, dict[str, dict[str, Any]], list[Path]]:
    """Put rows, features and scores together.

    Args:
        rows: the utterances.
        labels: the label set.
        attachments: features and scores.
        source: what to name in messages.
        places: modality -> utterance id -> features that an importer has found itself; they go
            before those of `attachments`.
        sort: put the utterances of a dialogue in the order of their start times, where all have
            one; else they stay in the order of the rows.

    Returns:
        The corpus; for each utterance what else a manifest says (start, end, speaker); the files
        that were looked at.

    Raises:
        UserError: an utterance has no features or scores, or comes twice; a split is empty; a
            dialogue is in two splits.
    """
    files: list[Path] = []
    found: dict[Modality, Mapping[str, FeatureSlice]] = dict(places or {})
    for modality, path in attachments.features().items():
        if modality not in found:
            found[modality], more = read_feature_folder(path, modality)
            files += more
    scores: dict[Modality, dict[str, tuple[float, float]]] = {}
    for modality, path in attachments.scores().items():
        scores[modality] = read_scores(path, modality)
        files.append(path)
    dialogues: dict[str, list[Row]] = {}
    known: dict[str, str] = {}
    for row in rows:
        if row.id in known:
            raise UserError(
                f"{row.at}: utterance {row.id!r} comes twice, first at {known[row.id]}; give each "
                "its own id"
            )
        known[row.id] = row.at
        first = dialogues.setdefault(row.dialogue, [row])[0]
        if first is not row:
            if first.split != row.split:
                raise UserError(
                    f"{row.at}: dialogue {row.dialogue!r} is in {row.split} here but in "
                    f"{first.split} at {first.at}; put it into one split"
                )
            dialogues[row.dialogue].append(row)
    splits: dict[str, list[Dialogue]] = {"train": [], "valid": [], "test": []}
    for dialogue, members in dialogues.items():
        starts = [row.start for row in members]
        if sort and None not in starts:
            members = [row for _, row in sorted(zip(starts, members, strict=True), key=_first)]
        splits[members[0].split].append(
            Dialogue(
                id=dialogue,
                utterances=tuple(
                    _utterance(row, labels, found, scores, attachments) for row in members
                ),
            )
        )
    corpus = Corpus(
        label_names=tuple(labels),
        source=source,
        **{name: Split(name=name, dialogues=tuple(items)) for name, items in splits.items()},
    )
    return corpus, {row.id: _extra(row) for row in rows}, files


def _first(pair: tuple[Any, Any]) -> Any:
    return pair[0]


def _utterance(
    row: Row,
    labels: Sequence[str],
    places: Mapping[Modality, Mapping[str, FeatureSlice]],
    scores: Mapping[Modality, Mapping[str, tuple[float, float]]],
    attachments: Attachments,
) -> Utterance:
    for modality, known in places.items():
        if row.id not in known:
            raise UserError(
                f"{row.at}: utterance {row.id!r} has no {modality} features in "
                f"{attachments.features()[modality]}; extract them, or take the row out"
            )
    coordinates = dict(row.coordinates)
    for modality, points in scores.items():
        if modality in coordinates:
            raise UserError(
                f"{row.at}: {modality} scores are in the table and in "
                f"{attachments.scores()[modality]}; drop --{modality}-va or the columns"
            )
        if row.id not in points:
            raise UserError(
                f"{attachments.scores()[modality]}: no score of utterance {row.id!r} ({row.at}); "
                "score it, or take the row out"
            )
        coordinates[modality] = points[row.id]
    return Utterance(
        id=row.id,
        dialogue_id=row.dialogue,
        text=row.text,
        labels=torch.tensor([float(name in row.labels) for name in labels]),
        coordinates=coordinates,
        features=LazyFeatures({modality: known[row.id] for modality, known in places.items()}),
    )


def _extra(row: Row) -> dict[str, Any]:
    pairs: Iterable[tuple[str, Any]] = (
        ("start", row.start),
        ("end", row.end),
        ("speaker", row.speaker or None),
    )
    return {name: value for name, value in pairs if value is not None}
