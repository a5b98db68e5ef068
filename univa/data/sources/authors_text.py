"""Reader of the text part of the authors' file layout, for CMU-MOSEI and for M3ED.

    FOLDER/final_multi_labels.csv                       MOSEI: text and emotion intensities
    FOLDER/preprocess_data/utt_annot.json               M3ED: text and emotion names
    FOLDER/preprocess_data/videos_structure.json        {split: {dialogue: [utterance id, ...]}}
    FOLDER/preprocess_data/raw_utt_text_textVA.json     {split: {utterance id: [text, "v", "a"]}}

The last one, the valence-arousal scores of the text, may be absent. M3ED's has the speaker before
the text. An utterance's place, and with it its dialogue and split, comes from the structure file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from univa.batch import Modality
from univa.data.corpus import Corpus, Dialogue, Split, Utterance
from univa.data.scores import scored_modality
from univa.errors import UserError
from univa.utils.text_files import (
    JsonFile,
    at,
    check_modality,
    finite_number,
    nearest,
    read_json,
    read_table,
)

__all__ = ["M3ED_LABELS", "MOSEI_LABELS", "read_authors_text"]

MOSEI_LABELS: tuple[str, ...] = ("happy", "sad", "anger", "surprise", "disgust", "fear")
M3ED_LABELS: tuple[str, ...] = (
    "Happy",
    "Surprise",
    "Sad",
    "Disgust",
    "Anger",
    "Fear",
    "Neutral",
)

_SPLITS = ("train", "valid", "test")
_TABLE = "final_multi_labels.csv"
_ANNOTATIONS = "preprocess_data/utt_annot.json"
_STRUCTURE = "preprocess_data/videos_structure.json"
_SCORES = "preprocess_data/raw_utt_text_textVA.json"


def read_authors_text(
    folder: Path | str,
    *,
    va_file: Path | str | None = None,
    labels: Sequence[str] | None = None,
    require_va: bool = False,
    scores: bool = True,
) -> Corpus:
    """Read text, labels and, where there are any, valence-arousal scores of the text.

    Args:
        folder: Folder in the authors' layout. With `final_multi_labels.csv` it is read as MOSEI
            (an intensity above 0 means that the emotion is present), with
            `preprocess_data/utt_annot.json` as M3ED.
        va_file: Scores of the text; None takes the layout's own file if it is there.
        labels: Emotions to predict, in the order wanted; None takes all of the data set
            (`MOSEI_LABELS`, `M3ED_LABELS`).
        require_va: Whether absent scores are an error.
        scores: Whether to read scores at all; False where they are about to be written anew.

    Returns:
        The corpus, with text and labels; `coordinates["text"]` as scored (not normalised) where
        there are scores; no features.

    Raises:
        UserError: a file is missing or cannot be read; a label is not among the columns; a number
            is not finite; an utterance has no score; structure file and labels do not hold the
            same utterances; a split is empty. The message names file, row and mend.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give a folder in the authors' layout")
    structure = _read_structure(folder / _STRUCTURE)
    if (folder / _TABLE).exists():
        annotations = folder / _TABLE
        names = MOSEI_LABELS if labels is None else tuple(labels)
        annotated = _read_table(annotations, names, structure)
    elif (folder / _ANNOTATIONS).exists():
        annotations = folder / _ANNOTATIONS
        names = M3ED_LABELS if labels is None else tuple(labels)
        annotated = _read_annotations(annotations, names, structure)
    else:
        raise UserError(
            f"{folder}: neither {_TABLE} nor {_ANNOTATIONS}; give a folder in the authors' layout"
        )

    for name in structure.dialogue_of:
        if name not in annotated:
            raise UserError(
                f"{structure.file.at(name)}: utterance {name!r} has no row in {annotations}; add "
                "the row or take the utterance out of the structure"
            )

    scores_path = Path(va_file) if va_file is not None else folder / _SCORES
    points: dict[str, tuple[float, float]] | None = None
    if scores and (va_file is not None or require_va or scores_path.exists()):
        points = _read_scores(scores_path, structure)

    splits = {}
    for split in _SPLITS:
        dialogues = []
        for dialogue, ids in structure.dialogues[split].items():
            utterances = []
            for name in ids:
                found = annotated[name]
                coordinates: dict[Modality, tuple[float, float]] = {}
                if points is not None:
                    coordinates["text"] = points[name]
                utterances.append(
                    Utterance(
                        id=name,
                        dialogue_id=dialogue,
                        text=found.text,
                        labels=found.labels,
                        coordinates=coordinates,
                    )
                )
            dialogues.append(Dialogue(id=dialogue, utterances=tuple(utterances)))
        splits[split] = Split(name=split, dialogues=tuple(dialogues))
    return Corpus(
        label_names=names,
        train=splits["train"],
        valid=splits["valid"],
        test=splits["test"],
        source=str(folder),
    )


@dataclass(frozen=True, kw_only=True)
class _Annotated:
    row: int | None
    text: str
    labels: Tensor  # [L] float32


@dataclass(frozen=True, kw_only=True)
class _Structure:
    """The structure file: which utterances each split and dialogue holds, in order."""

    file: JsonFile  # {split: {dialogue: [utterance id, ...]}}
    split_of: dict[str, str]  # dialogue -> split
    dialogue_of: dict[str, str]  # utterance id -> dialogue

    @property
    def path(self) -> Path:
        return self.file.path

    @property
    def dialogues(self) -> dict[str, dict[str, list[str]]]:
        return self.file.values


def _read_structure(path: Path) -> _Structure:
    file = read_json(path, mend="the authors' layout needs it to tell dialogues and splits")
    split_of: dict[str, str] = {}
    dialogue_of: dict[str, str] = {}
    for split in file.values:
        if split not in _SPLITS:
            raise UserError(
                f"{file.at(split)}: unknown split {split!r}{nearest(split, _SPLITS)}; the splits "
                f"are {', '.join(_SPLITS)}"
            )
    for split in _SPLITS:
        dialogues = file.values.get(split)
        if not isinstance(dialogues, dict) or not dialogues:
            raise UserError(
                f"{file.at(split)}: split {split!r} is empty; list its dialogues as "
                "{dialogue: [utterance ids]}"
            )
        for dialogue, ids in dialogues.items():
            if not isinstance(ids, list) or not all(isinstance(name, str) for name in ids):
                raise UserError(
                    f"{file.at(dialogue)}: dialogue {dialogue!r} must be a list of utterance ids; "
                    "mend it"
                )
            if not ids:
                raise UserError(
                    f"{file.at(dialogue)}: dialogue {dialogue!r} has no utterances; remove it"
                )
            if dialogue in split_of:
                raise UserError(
                    f"{file.at(dialogue, last=True)}: dialogue {dialogue!r} is in split "
                    f"{split_of[dialogue]!r} and in {split!r}; leave it in one"
                )
            split_of[dialogue] = split
            for name in ids:
                if name in dialogue_of:
                    raise UserError(
                        f"{file.at(name, last=True)}: utterance {name!r} comes twice, in dialogues "
                        f"{dialogue_of[name]!r} and {dialogue!r}; leave it in one place"
                    )
                dialogue_of[name] = dialogue
    return _Structure(file=file, split_of=split_of, dialogue_of=dialogue_of)


def _read_table(path: Path, labels: Sequence[str], structure: _Structure) -> dict[str, _Annotated]:
    """Read MOSEI's CSV, every row of which has its place in the structure."""
    annotated: dict[str, _Annotated] = {}
    columns = ("video_id", "clip_id", "mode", "text", *labels)
    for row, record in read_table(path, columns, mend="give a folder in the authors' layout"):
        place = at(path, row)
        video, name = record["video_id"], f"{record['video_id']}_{record['clip_id']}"
        if video not in structure.split_of:
            raise UserError(
                f"{place}: dialogue {video!r} is not in {structure.path}; add it there or remove "
                "its rows"
            )
        if structure.dialogue_of.get(name) != video:
            raise UserError(
                f"{place}: utterance {name!r} is not listed under dialogue {video!r} in "
                f"{structure.path}; add it there or remove the row"
            )
        if record["mode"] != structure.split_of[video]:
            raise UserError(
                f"{place}: mode {record['mode']!r}, but {structure.path} has dialogue {video!r} in "
                f"split {structure.split_of[video]!r}; make them agree"
            )
        if name in annotated:
            raise UserError(
                f"{place}: utterance {name!r} comes twice, first in row {annotated[name].row}; "
                "remove one"
            )
        present = [
            finite_number(record[label], what=f"column {label!r}", place=partial(at, path, row)) > 0
            for label in labels
        ]
        annotated[name] = _Annotated(
            row=row, text=record["text"], labels=torch.tensor(present, dtype=torch.float32)
        )
    return annotated


def _read_annotations(
    path: Path, labels: Sequence[str], structure: _Structure
) -> dict[str, _Annotated]:
    """Read M3ED's annotations: {split: {utterance id: {"text": ..., "Emotion": "Happy,Anger"}}}."""
    for label in labels:
        if label not in M3ED_LABELS:
            raise UserError(
                f"{path}: no label {label!r}{nearest(label, M3ED_LABELS)}; the labels are "
                f"{', '.join(M3ED_LABELS)}"
            )
    file = read_json(path, mend="give a folder in the authors' layout")
    annotated: dict[str, _Annotated] = {}
    for split, utterances in file.values.items():
        if not isinstance(utterances, dict):
            raise UserError(
                f"{file.at(split)}: split {split!r} must be an object of utterances; mend it"
            )
        for name, entry in utterances.items():
            if structure.split_of.get(structure.dialogue_of.get(name, "")) != split:
                raise UserError(
                    f"{file.at(name)}: utterance {name!r} is not in split {split!r} of "
                    f"{structure.path}; add it there or remove it here"
                )
            emotions = entry.get("Emotion") if isinstance(entry, dict) else None
            if not isinstance(emotions, str) or not isinstance(entry.get("text"), str):
                raise UserError(
                    f"{file.at(name)}: utterance {name!r} must be "
                    '{"text": "...", "Emotion": "..."}; mend it'
                )
            given = [emotion.strip() for emotion in emotions.split(",") if emotion.strip()]
            for emotion in given:
                if emotion not in M3ED_LABELS:
                    raise UserError(
                        f"{file.at(name)}: unknown emotion {emotion!r} of utterance {name!r}"
                        f"{nearest(emotion, M3ED_LABELS)}; the labels are {', '.join(M3ED_LABELS)}"
                    )
            annotated[name] = _Annotated(
                row=None,
                text=entry["text"],
                labels=torch.tensor([label in given for label in labels], dtype=torch.float32),
            )
    return annotated


def _read_scores(path: Path, structure: _Structure) -> dict[str, tuple[float, float]]:
    """Read the text's scores of every utterance of the structure; others are passed over."""
    file = read_json(
        path, mend="write it with `univa va score-text`, or name the file with the scores"
    )
    mend = "give those of the text"
    check_modality(path, "scores", scored_modality(file), "text", mend=mend)
    scores: dict[str, tuple[float, float]] = {}
    for split, dialogues in structure.dialogues.items():
        entries: Any = file.values.get(split)
        if not isinstance(entries, dict):
            raise UserError(
                f"{path}: no scores of split {split!r}; score it with `univa va score-text`"
            )
        for ids in dialogues.values():
            for name in ids:
                if name not in entries:
                    raise UserError(
                        f"{path}: utterance {name!r} of split {split!r} has no valence-arousal "
                        f"score ({structure.file.at(name)} lists it); score it with `univa va "
                        "score-text`"
                    )
                entry = entries[name]
                if not isinstance(entry, list) or len(entry) not in (3, 4):
                    raise UserError(
                        f"{file.at(name)}: utterance {name!r} must be "
                        "[text, valence, arousal] or [speaker, text, valence, arousal]; mend it"
                    )
                valence, arousal = (
                    finite_number(
                        value, what=f"{axis} of utterance {name!r}", place=partial(file.at, name)
                    )
                    for axis, value in zip(("valence", "arousal"), entry[-2:], strict=True)
                )
                scores[name] = (valence, arousal)
    return scores
