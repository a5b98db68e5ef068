"""Valence-arousal scores of utterances, one file per modality.

A CSV table or JSON lines with the columns id, valence, arousal; or a JSON object
{split: {id: [..., valence, arousal]}}, as `univa va score` and the authors write it.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from univa.batch import Modality
from univa.errors import UserError
from univa.utils.records import read_records
from univa.utils.text_files import JsonFile, at, check_modality, finite_number, read_json

__all__ = ["read_scores", "scored_modality"]

_MEND = "`univa va score` writes it"


def read_scores(path: Path, modality: Modality) -> dict[str, tuple[float, float]]:
    """Read the scores of one modality.

    Args:
        path: `.json`, or a table.
        modality: whose scores these must be, where the file says whose they are.

    Returns:
        Utterance id -> (valence, arousal), as they are given.

    Raises:
        UserError: the file is missing or not in one of the forms, a score is no finite number, or
            an utterance is scored twice, or the scores are of another modality.
    """
    scores: dict[str, tuple[float, float]] = {}
    if path.suffix.lower() == ".json":
        file = read_json(path, mend=_MEND)
        said = scored_modality(file)
        check_modality(path, "scores", said, modality, mend=f"give them with --{said}-va")
        for split in ("train", "valid", "test"):
            entries = file.values.get(split, {})
            if not isinstance(entries, dict):
                raise UserError(f"{path}: split {split!r} is no object {{id: [...]}}; {_MEND}")
            for name, entry in entries.items():
                if not isinstance(entry, list) or len(entry) < 2:
                    raise UserError(
                        f"{file.at(name)}: score of utterance {name!r} is {json.dumps(entry)}, not "
                        "a list that ends with valence, arousal; score anew"
                    )
                _add(scores, name, entry[-2], entry[-1], partial(file.at, name))
    else:
        for row, record in read_records(path, ("id", "valence", "arousal"), mend=_MEND):
            place = partial(at, path, row)
            _add(scores, record["id"], record["valence"], record["arousal"], place)
    if not scores:
        raise UserError(f"{path}: no scores in it; {_MEND}")
    return scores


def scored_modality(file: JsonFile) -> str | None:
    """The modality whose scores a file says it holds; None where it does not say."""
    about = file.values.get("meta")
    said = about.get("modality") if isinstance(about, dict) else None
    return said if isinstance(said, str) else None


def _add(
    scores: dict[str, tuple[float, float]], name: str, valence: Any, arousal: Any, place: Any
) -> None:
    if name in scores:
        raise UserError(f"{place()}: utterance {name!r} is scored twice; keep one score")
    what = "{} of utterance {!r}"
    scores[name] = (
        finite_number(valence, what=what.format("valence", name), place=place),
        finite_number(arousal, what=what.format("arousal", name), place=place),
    )
