"""Valence-arousal coordinates of emotion words and the emotion similarity matrix.

The seven words of the paper's code are built in. Other labels come from the user's own copy of the
NRC-VAD lexicon (Mohammad, ACL 2018; version 2: arXiv 2503.23547), which may not be passed on:
http://saifmohammad.com/WebPages/nrc-vad.html
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from univa.errors import UserError

__all__ = [
    "EMOTION_COORDINATES",
    "Lexicon",
    "label_coordinates",
    "read_lexicon",
    "similarity_matrix",
]

# (valence, arousal) in 0..1. NRC-VAD lexicon v1 (Mohammad, ACL 2018), the seven words that UniVA
# uses; "neutral" is the centre of the space, as the authors have it (the lexicon: .469, .184).
EMOTION_COORDINATES: dict[str, tuple[float, float]] = {
    "happy": (1.000, 0.735),
    "sad": (0.225, 0.333),
    "anger": (0.167, 0.865),
    "surprise": (0.875, 0.875),
    "disgust": (0.052, 0.775),
    "fear": (0.073, 0.840),
    "neutral": (0.500, 0.500),
}

_MEND = "give the NRC-VAD lexicon as one file: word, valence, arousal, dominance between tabs"


class Lexicon(Mapping[str, tuple[float, float]]):
    """Words and phrases with their (valence, arousal), each in [-1, 1]. Case is ignored.

    Args:
        entries: lower-case word -> (valence, arousal) in [-1, 1].
        source: what to name in messages.
    """

    def __init__(self, entries: Mapping[str, tuple[float, float]], *, source: str) -> None:
        self._entries = dict(entries)
        self.source = source

    def __getitem__(self, word: str) -> tuple[float, float]:
        return self._entries[word.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def nearest(self, word: str, count: int = 3) -> list[str]:
        """The entries that are spelt most like a word, best first; none where none is near."""
        return difflib.get_close_matches(word.lower(), self._entries, n=count)


def read_lexicon(path: str | os.PathLike[str]) -> Lexicon:
    """Read a copy of the NRC-VAD lexicon, version 1 or 2.

    Lines are word, valence, arousal, dominance between tabs; a header may name the columns, and
    then others may stand among them. Version 1 scores from 0 to 1, version 2 from -1 to 1. The
    scale is -1 to 1 where a score is negative or the header calls the first column "term", as
    version 2 does; else 0 to 1.

    Args:
        path: the file.

    Returns:
        Word -> (valence, arousal) in [-1, 1].

    Raises:
        UserError: the file is missing, has other columns, a score that is no number or out of
            range, or a word twice with different scores.
    """
    # The synthetic corpus, in univa.data, is made from the built-in words above.
    from univa.utils.text_files import at, finite_number, read_text

    path = Path(path)
    # Not splitlines, which also splits at characters that a phrase may hold.
    lines = [line.rstrip("\r") for line in read_text(path, mend=_MEND).split("\n")]
    header = [field.strip().lower() for field in lines[0].split("\t")]
    named = {"valence", "arousal"} <= set(header)
    columns = [header.index(name) for name in ("valence", "arousal")] if named else [1, 2]
    # Without a header the dominance must be there too: a file of one dimension has no such column.
    width = len(header) if named else 4
    scores: dict[str, tuple[float, ...]] = {}
    low = 0.0
    for row, line in enumerate(lines[named:], 1 + named):
        if not line.strip():
            continue
        fields = line.split("\t")
        if len(fields) != width:
            raise UserError(f"{at(path, row)}: {len(fields)} columns, not {width}; {_MEND}")
        place = partial(at, path, row)
        point = tuple(
            finite_number(fields[column], what=name, place=place)
            for column, name in zip(columns, ("valence", "arousal"), strict=True)
        )
        if not all(-1 <= score <= 1 for score in point):
            raise UserError(
                f"{at(path, row)}: {fields[0]!r} has valence and arousal {point}, outside -1 to 1; "
                f"{_MEND}, as version 1 (0 to 1) or 2 (-1 to 1) has it"
            )
        low = min(low, *point)
        word = fields[0].strip().lower()
        if scores.setdefault(word, point) != point:
            raise UserError(
                f"{at(path, row)}: {fields[0]!r} comes twice with different scores; keep one line"
            )
    if not scores:
        raise UserError(f"{path}: no words in it; {_MEND}")
    if low < 0 or (named and header[0] == "term"):
        entries = {word: (v, a) for word, (v, a) in scores.items()}
    else:
        entries = {word: (2 * v - 1, 2 * a - 1) for word, (v, a) in scores.items()}
    return Lexicon(entries, source=str(path))


def label_coordinates(labels: Sequence[str], lexicon: Lexicon | None = None) -> Tensor:
    """Coordinates of a label set, rescaled to [-1, 1] per axis over that set.

    Args:
        labels: L emotion names, case ignored; at least two that differ in valence and in arousal.
        lexicon: where they all are; None is for labels among `EMOTION_COORDINATES`.

    Returns:
        [L, 2] float64 (valence, arousal), each column spanning [-1, 1] exactly.

    Raises:
        UserError: a label is unknown, or the set does not span an axis.
    """
    known: Mapping[str, tuple[float, float]] = lexicon or EMOTION_COORDINATES
    for name in labels:
        if name.lower() not in known:
            raise UserError(_unknown(name, lexicon))
    points = torch.tensor([known[name.lower()] for name in labels], dtype=torch.float64)
    if len(labels) == 0 or bool((points.amax(0) == points.amin(0)).any()):
        raise UserError(
            "a similarity matrix needs at least two labels that differ in valence and in arousal; "
            f"got {list(labels)}: give others, or train without the prior (--loss.prior None "
            "--model.no-prior)"
        )
    low, high = points.amin(0), points.amax(0)
    return 2 * (points - low) / (high - low) - 1


def _unknown(label: str, lexicon: Lexicon | None) -> str:
    if lexicon is None:
        return (
            f"no valence-arousal coordinates for label {label!r}; built in are "
            f"{', '.join(EMOTION_COORDINATES)}: give your copy of the NRC-VAD lexicon with "
            "--lexicon FILE, or train without the prior: --loss.prior None --model.no-prior"
        )
    near = ", ".join(lexicon.nearest(label))
    return (
        f"{lexicon.source}: no label {label!r} in this lexicon; nearest entries: "
        f"{near or 'none'}; name the label as the lexicon does, or add a line for it"
    )


def similarity_matrix(labels: Sequence[str], lexicon: Lexicon | None = None) -> Tensor:
    """Emotion similarity matrix M (the UniVA slides, Module 3).

    M_jl is the cosine between the rescaled coordinates of emotions j and l. A label at the centre
    of both axes has no direction, and is like no other label: cosine 0.

    Args:
        labels: L emotion names, as for `label_coordinates`.
        lexicon: as for `label_coordinates`.

    Returns:
        [L, L] float64 in [-1, 1], symmetric, ones on the diagonal.

    Raises:
        UserError: as `label_coordinates`.
    """
    points = label_coordinates(labels, lexicon)  # [L, 2]
    length = points.norm(dim=1, keepdim=True)
    unit = points / torch.where(length > 0, length, 1.0)
    return (unit @ unit.T).fill_diagonal_(1.0)
