"""Scores every utterance of a data folder with a fitted text scorer.

univa va score-text --scorer SCORER_FOLDER --data DATA_FOLDER --output VA_FILE
"""

from __future__ import annotations

from univa.data import Corpus
from univa.errors import UserError
from univa.va.text import TextVAScorer

__all__ = ["score_corpus"]


def score_corpus(
    scorer: TextVAScorer, corpus: Corpus, *, batch_size: int = 64, progress: bool = True
) -> dict[str, dict[str, list[str]]]:
    """Score the text of every utterance.

    Args:
        scorer: a fitted scorer.
        corpus: utterances with text.
        batch_size: utterances per batch; batches hold texts of like length, across splits.
        progress: draw a progress bar.

    Returns:
        split -> utterance id -> [text, valence, arousal], the scores in [-1, 1] as decimals of
        four places: the content of the authors' `raw_utt_text_textVA.json`.

    Raises:
        UserError: an utterance has no text, or a score is not finite.
    """
    places = [
        (name, utterance) for name, split in corpus.splits.items() for utterance in split.utterances
    ]
    for name, utterance in places:
        if not utterance.text.strip():
            raise UserError(
                f"{corpus.source}, split {name!r}: utterance {utterance.id!r} has an empty text; "
                "give it a text or drop its row"
            )
    scores = scorer.score(
        [utterance.text for _, utterance in places], batch_size=batch_size, progress=progress
    )  # [N, 2]
    if not bool(scores.isfinite().all()):
        raise UserError("the scorer gives scores that are not finite; fit it again")
    result: dict[str, dict[str, list[str]]] = {name: {} for name in corpus.splits}
    for (name, utterance), point in zip(places, scores.tolist(), strict=True):
        # Adding 0 turns -0.0 into 0.0, which would print as "-0.0000".
        result[name][utterance.id] = [utterance.text, *(f"{round(c, 4) + 0.0:.4f}" for c in point)]
    return result
