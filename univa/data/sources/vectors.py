"""Reader of utterances that have one vector per modality, and two labels of which one holds.

    NAME.safetensors   train.text [N, F], train.audio, train.vision, train.positive [N]; test.*
    NAME.json          {"train": [{"utterance": id, "video": id, "text": ...}, ...], "test": [...]}

There is no validation split: whole videos of the training split are held out for it, and no video
is in two splits. Utterances of a video are put in the order of the clip numbers at the end of their
ids: the order of the file may follow the labels, and a model that reads neighbours would see them.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from univa.batch import MODALITIES, Modality
from univa.data.corpus import Corpus, Dialogue, Split, Utterance
from univa.errors import UserError
from univa.utils.text_files import JsonFile, finite_number, read_json

__all__ = ["read_vectors"]

_LABELS = ("negative", "positive")


def read_vectors(
    path: Path | str, *, va_file: Path | None = None, valid_fraction: float = 0.15
) -> Corpus:
    """Read the two files of a corpus of vectors.

    Columns are standardised by the statistics of the remaining training utterances, and divided by
    the square root of their number, so that a vector is about as long as one.

    Args:
        path: the safetensors file; the JSON file stands beside it.
        va_file: valence-arousal scores of the text, as `univa va score-text` writes them.
        valid_fraction: share of the training videos held out for validation, the same in every
            run: it depends on nothing but the names of the videos.

    Returns:
        The corpus; a video is a dialogue, its utterances in the order of their clip numbers.

    Raises:
        UserError: a file is missing, cannot be read or does not go with the other.
    """
    path = Path(path)
    names = read_json(path.with_suffix(".json"), mend="it belongs beside the safetensors file")
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read as safetensors ({error})") from None
    scores = None if va_file is None else read_json(va_file, mend="`univa va score-text` writes it")
    utterances = {
        name: _utterances(path, tensors, names, name, scores) for name in ("train", "test")
    }
    videos = sorted({item.dialogue_id for item in utterances["train"]})
    random.Random("videos held out for validation").shuffle(videos)
    held_out = set(videos[: max(1, round(valid_fraction * len(videos)))])
    if len(held_out) == len(videos):
        raise UserError(f"{path}: {len(videos)} training video(s) leave none to train on")
    shared = set(videos) & {item.dialogue_id for item in utterances["test"]}
    if shared:
        raise UserError(f"{path}: video {min(shared)!r} is in train and in test")
    parts = {
        "train": [u for u in utterances["train"] if u.dialogue_id not in held_out],
        "valid": [u for u in utterances["train"] if u.dialogue_id in held_out],
        "test": utterances["test"],
    }
    _standardise(parts)
    return Corpus(
        label_names=_LABELS,
        source=str(path),
        **{name: _split(name, items) for name, items in parts.items()},
    )


def _utterances(
    path: Path, tensors: dict[str, Tensor], names: JsonFile, split: str, scores: JsonFile | None
) -> list[Utterance]:
    entries: Any = names.values.get(split)
    if not isinstance(entries, list) or not all(
        isinstance(e, dict)
        and all(isinstance(e.get(k), str) for k in ("utterance", "video", "text"))
        for e in entries
    ):
        raise UserError(
            f"{names.path}: split {split!r} must be a list of objects with utterance, video, text"
        )
    present = [m for m in MODALITIES if f"{split}.{m}" in tensors]
    positive = tensors.get(f"{split}.positive")
    if not present or positive is None:
        raise UserError(
            f"{path}: no {split}.positive, or none of {split}.text, audio, vision in it"
        )
    for name in ("positive", *present):
        shape = tuple(tensors[f"{split}.{name}"].shape)
        if len(shape) != 1 + (name != "positive") or shape[0] != len(entries):
            raise UserError(
                f"{path}: {split}.{name} is {shape}, but {names.path} has {len(entries)} utterances"
            )
    if not bool(((positive == 0) | (positive == 1)).all()):
        raise UserError(f"{path}: {split}.positive must be 0 or 1")
    result = []
    for row, entry in enumerate(entries):
        name = entry["utterance"]
        yes = float(positive[row])
        result.append(
            Utterance(
                id=name,
                dialogue_id=entry["video"],
                text=entry["text"],
                labels=torch.tensor([1 - yes, yes]),
                coordinates={} if scores is None else {"text": _point(scores, name)},
                features={m: tensors[f"{split}.{m}"][row : row + 1].float() for m in present},
            )
        )
    return result


def _point(scores: JsonFile, name: str) -> tuple[float, float]:
    """The score of an utterance, whichever split of the file holds it."""
    for entries in scores.values.values():
        entry = entries.get(name) if isinstance(entries, dict) else None
        if isinstance(entry, list) and len(entry) >= 2:
            place = partial(scores.at, name)
            valence, arousal = (
                finite_number(value, what=f"a score of utterance {name!r}", place=place)
                for value in entry[-2:]
            )
            return valence, arousal
    raise UserError(
        f"{scores.path}: no score of utterance {name!r}; `univa va score-text` gives it"
    )


def _standardise(parts: dict[str, list[Utterance]]) -> None:
    modalities: Sequence[Modality] = tuple(parts["train"][0].features)
    for modality in modalities:
        rows = torch.cat([u.features[modality] for u in parts["train"]]).double()
        # Vectors of about unit length, whatever their number of columns.
        mean, scale = rows.mean(0), rows.std(0).clamp(min=1e-6) * math.sqrt(rows.shape[1])
        for items in parts.values():
            for u in items:
                value = ((u.features[modality].double() - mean) / scale).float()
                u.features[modality] = value  # type: ignore[index]


def _clip(utterance_id: str) -> int:
    """The number at the end of an id, which counts clips of a video in time."""
    digits = re.search(r"\d+$", utterance_id)
    return int(digits[0]) if digits else 0


def _split(name: str, items: list[Utterance]) -> Split:
    ordered = sorted(items, key=lambda u: (u.dialogue_id, _clip(u.id), u.id))
    dialogues = tuple(
        Dialogue(id=video, utterances=tuple(group))
        for video, group in groupby(ordered, key=lambda u: u.dialogue_id)
    )
    return Split(name=name, dialogues=dialogues)
