"""Valence and arousal of a text from a lexicon: the mean over the words that are in it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from univa.batch import Modality
from univa.media.preprocess import EncoderInputs
from univa.va.regressor import Scorer

__all__ = ["LexiconScorer"]

_APOSTROPHE = "\N{RIGHT SINGLE QUOTATION MARK}"
_WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")


class _Words:
    modality: Modality = "text"

    def __init__(self, lexicon: Mapping[str, tuple[float, float]]) -> None:
        self.lexicon = lexicon

    def rows(self, items: Sequence[str]) -> list[list[tuple[float, float]]]:
        found = []
        for text in items:
            words = _WORD.findall(text.lower().replace(_APOSTROPHE, "'"))
            found.append([self.lexicon[word] for word in words if word in self.lexicon])
        return found

    def lengths(self, rows: Sequence[Any]) -> list[int]:
        return [len(row) for row in rows]

    def batch(self, rows: Sequence[Any]) -> EncoderInputs:
        means = [torch.tensor(row or [(0.0, 0.0)], dtype=torch.float64).mean(0) for row in rows]
        return {"means": torch.stack(means).float()}

    def states(self, encoder: nn.Module, batch: EncoderInputs) -> tuple[Tensor, Tensor]:
        raise NotImplementedError("a lexicon has no encoder")

    def settings(self) -> dict[str, Any]:
        return {}

    def save(self, folder: Path) -> None:
        raise NotImplementedError("a lexicon is not copied")


class LexiconScorer(Scorer):
    """Scores a text by the words that a lexicon knows; a text without any gets (0, 0).

    Args:
        lexicon: lower-case word -> (valence, arousal) in [-1, 1].

    Example:
        >>> scorer = LexiconScorer({"glad": (0.9, 0.2), "so": (0.1, 0.0)})
        >>> scorer.score(["So glad!", "42"]).tolist() == [[0.5, 0.10000000149011612], [0.0, 0.0]]
        True
    """

    def __init__(self, lexicon: Mapping[str, tuple[float, float]]) -> None:
        super().__init__()
        self.preprocessor = _Words(lexicon)

    def unknown(self, items: Sequence[str]) -> int:
        """How many texts have no word of the lexicon."""
        return sum(not row for row in self.preprocessor.rows(items))

    def forward(self, batch: EncoderInputs) -> Tensor:
        """Score a batch: [B, 2]."""
        return batch["means"]
