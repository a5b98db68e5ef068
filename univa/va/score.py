"""Scores of whole corpora, in the form of the authors' `raw_utt_text_textVA.json`.

univa va score --modality audio --model SCORER_FOLDER --manifest manifest.csv --output audio-va.json
univa va score-text --scorer SCORER_FOLDER --data DATA_FOLDER --output VA_FILE
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from univa.data import Corpus, VANormalizer
from univa.errors import UserError
from univa.media.manifest import SPLITS, Item
from univa.media.resume import ItemLog, item_key
from univa.va.regressor import DIMENSIONS, Scorer, score

__all__ = ["items_of", "score_corpus", "score_file", "score_items", "statistics"]

Scores = dict[str, dict[str, list[str]]]


def items_of(corpus: Corpus) -> list[Item]:
    """The texts of all utterances.

    Raises:
        UserError: an utterance has no text.
    """
    items = []
    for name, split in corpus.splits.items():
        for utterance in split.utterances:
            if not utterance.text.strip():
                raise UserError(
                    f"{corpus.source}, split {name!r}: utterance {utterance.id!r} has an empty "
                    "text; give it a text or drop its row"
                )
            text = utterance.text
            items.append(Item(id=utterance.id, split=name, written=text, content=text))
    return items


def score_corpus(
    scorer: Scorer, corpus: Corpus, *, batch_size: int = 64, progress: bool = True
) -> Scores:
    """Score the text of every utterance.

    Args:
        scorer: a fitted scorer.
        corpus: utterances with text.
        batch_size: utterances per batch; batches hold texts of like length, across splits.
        progress: draw a progress bar.

    Returns:
        As `score_items`.

    Raises:
        UserError: an utterance has no text, or a score is not finite.
    """
    return score_items(scorer, items_of(corpus), batch_size=batch_size, progress=progress)


def score_items(
    scorer: Scorer,
    items: Sequence[Item],
    *,
    batch_size: int = 64,
    progress: bool = True,
    log: ItemLog | None = None,
) -> Scores:
    """Score items.

    Args:
        scorer: whose.
        items: what.
        batch_size: items per batch; batches hold items of like length, across splits.
        progress: draw a progress bar.
        log: where the scores of finished batches are kept, and taken from.

    Returns:
        split -> utterance id -> [text or file, valence, arousal], the scores in [-1, 1] as
        decimals of four places.

    Raises:
        UserError: a file is missing or damaged, or a score is not finite.
    """
    points = score(
        scorer,
        [item.content for item in items],
        batch_size=batch_size,
        progress=progress,
        keys=None if log is None else [item_key(item) for item in items],
        log=log,
    )  # [N, 2]
    if not bool(points.isfinite().all()):
        raise UserError("the scorer gives scores that are not finite; fit it again")
    result: Scores = {name: {} for name in SPLITS}
    for item, point in zip(items, points.tolist(), strict=True):
        # Adding 0 turns -0.0 into 0.0, which would print as "-0.0000".
        result[item.split][item.id] = [item.written, *(f"{round(c, 4) + 0.0:.4f}" for c in point)]
    return result


def statistics(scores: Scores) -> dict[str, Any]:
    """Mean and standard deviation per column of the train split, which training normalises by.

    They are those of `univa.data.VANormalizer`, computed from the scores as they are written.
    `--data.authors` computes its own: the authors' code takes those of the valences for both
    columns, split by split (`univa.data.AuthorsNormalizer`).

    Returns:
        "columns", "mean" and "std" (unbiased), each a list with an entry for valence and for
        arousal; without the latter two where the train split is too small or a column constant.
    """
    points = _points(scores["train"])
    try:
        fitted = VANormalizer.from_coordinates({"text": points})
    except UserError:
        return {"columns": list(DIMENSIONS)}
    return {
        "columns": list(DIMENSIONS),
        "mean": list(fitted.mean["text"]),
        "std": list(fitted.std["text"]),
    }


def _points(entries: dict[str, list[str]]) -> Tensor:
    points = [(float(entry[-2]), float(entry[-1])) for entry in entries.values()]
    return torch.tensor(points, dtype=torch.float32).reshape(-1, 2)


def score_file(scores: Scores, about: dict[str, Any]) -> dict[str, Any]:
    """Content of a file of scores: the splits, which `--data.va-file` reads, and what they are.

    Args:
        scores: of `score_items`.
        about: modality, model and the like.

    Returns:
        The splits and "meta": `about`, the number of scores, how many of them are at an end of
        the range, where they are cut, and the normalisation's parameters.
    """
    points = torch.cat([_points(entries) for entries in scores.values()])
    figures = {"count": len(points), "at_ends": int((points.abs() >= 1).any(1).sum())}
    return {**scores, "meta": {**about, **figures, "normalization": statistics(scores)}}
