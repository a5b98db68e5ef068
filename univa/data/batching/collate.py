"""From utterances to a batch: padding, token rows of dialogues, normalised coordinates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from univa.batch import (
    MODALITIES,
    Batch,
    BucketedSequences,
    FeatureSequence,
    Modality,
    ModalityInput,
)
from univa.data.batching.normalization import Normalizer
from univa.data.batching.tokens import TokenRows
from univa.data.corpus import Split, first_steps
from univa.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Collator", "length_buckets", "padded_buckets"]


class Collator:
    """Makes a `Batch` of utterances of one split.

    Text as token rows: the utterances of a dialogue stand in one row, one after the other, with the
    tokenizer's special tokens around and between them. Each dialogue is tokenised once, here. A
    dialogue that does not fit `max_tokens` is cut into consecutive windows of whole utterances of
    about equal length; each utterance belongs to exactly one window, and an utterance that does not
    fit alone is cut off at the end. In a batch each window that holds one of its utterances is
    exactly one row, so every dialogue is encoded once however many of its utterances are picked.

    Args:
        split: Where the utterances come from; an index is a place in `split.utterances`.
        modalities: What the batch holds; None takes the text as `text` says and every other
            modality that has features.
        text: "tokens" for token rows, "vectors" for the split's own word vectors.
        tokenizer: A Hugging Face tokenizer, for "tokens".
        max_tokens: The longest token row, special tokens included.
        context: False gives every utterance a row of its own (the ablation).
        max_lengths: modality -> steps; longer feature sequences keep their first so many steps.
        normalizer: Applied to the valence-arousal scores; None leaves them as they are.
        authors: Cut long dialogues as the authors' code does, see `TokenRows`.
        full: Pad to `max_tokens` and `max_lengths`, not to the longest of the batch; it changes
            no number.
        buckets: Most groups of like length that an audio or visual sequence of a batch is cut
            into, each padded by itself; it changes no number.

    Raises:
        UserError: a modality is asked for that the split does not have, `max_tokens` leaves no room
            beside the special tokens, or a length is below 1.
    """

    def __init__(
        self,
        split: Split,
        *,
        modalities: Sequence[Modality] | None = None,
        text: Literal["tokens", "vectors"] = "vectors",
        tokenizer: PreTrainedTokenizerBase | None = None,
        max_tokens: int = 512,
        context: bool = True,
        max_lengths: Mapping[Modality, int] | None = None,
        normalizer: Normalizer | None = None,
        authors: bool = False,
        full: bool = False,
        buckets: int = 1,
    ) -> None:
        available = {*split.feature_modalities} | ({"text"} if text == "tokens" else set())
        if modalities is None:
            modalities = tuple(name for name in MODALITIES if name in available)
        for name in modalities:
            if name not in available:
                given = ", ".join(split.feature_modalities) or "no modality"
                raise UserError(
                    f"split {split.name!r} has no {name} features (it has features of {given}); "
                    "choose other modalities" + (" or text as tokens" if name == "text" else "")
                )
        self.split = split
        self.modalities = tuple(name for name in MODALITIES if name in modalities)
        self.max_lengths = dict(max_lengths or {})
        for name, length in self.max_lengths.items():
            if length < 1:
                raise UserError(f"the longest {name} sequence must be at least 1, got {length}")
        self._labels = split.labels  # [N, L]
        self._groups = torch.tensor(
            [place for place, length in enumerate(split.dialogue_lengths) for _ in range(length)]
        )  # [N]
        self._coordinates: dict[Modality, Tensor] = {}
        for name in self.modalities:
            if name in split.coordinate_modalities:
                scores = split.coordinates(name)
                self._coordinates[name] = normalizer.apply(scores, name) if normalizer else scores
        self._full, self._buckets = full, buckets
        self._rows: TokenRows | None = None
        if text == "tokens" and "text" in self.modalities:
            if tokenizer is None:
                raise ValueError("text as tokens needs a tokenizer")
            self._rows = TokenRows(
                split,
                tokenizer,
                max_tokens=max_tokens,
                context=context,
                authors=authors,
                full=full,
            )

    def __len__(self) -> int:
        return len(self.split)

    def __call__(self, indices: Sequence[int]) -> Batch:
        """Make the batch of the given utterances, in the given order.

        Args:
            indices: B >= 1 places in `split.utterances`.

        Returns:
            The batch; sequences are padded to the longest of the batch.
        """
        chosen = torch.tensor(indices, dtype=torch.int64)  # [B]
        inputs: dict[str, ModalityInput] = {
            name: self._features(name, indices)
            for name in self.modalities
            if not self._is_rows(name)
        }
        if self._rows is not None:
            inputs["text"] = self._rows.pick(indices)
        return Batch(
            utterance_ids=tuple(self.split.utterances[index].id for index in indices),
            labels=self._labels[chosen],
            coordinates={name: scores[chosen] for name, scores in self._coordinates.items()},
            groups=self._groups[chosen],
            **inputs,  # type: ignore[arg-type]
        )

    @property
    def dialogue_tokens(self) -> list[int] | None:
        """Tokens of the rows of each dialogue; None without token rows."""
        return None if self._rows is None else self._rows.dialogue_tokens

    def _is_rows(self, modality: Modality) -> bool:
        return modality == "text" and self._rows is not None

    def _features(
        self, modality: Modality, indices: Sequence[int]
    ) -> FeatureSequence | BucketedSequences:
        limit = self.max_lengths.get(modality)
        sequences = [first_steps(self.split.utterances[i], modality, limit) for i in indices]
        lengths = [len(sequence) for sequence in sequences]  # [B]
        if self._full and limit is not None:
            return _padded(sequences, width=limit)
        return padded_buckets(sequences, length_buckets(lengths, self._buckets))


def padded_buckets(
    sequences: Sequence[Tensor], places: Sequence[Sequence[int]]
) -> FeatureSequence | BucketedSequences:
    """Pad sequences group by group.

    Args:
        sequences: B of [T, F].
        places: Groups of places in `sequences`, as `length_buckets` gives them.
    """
    if len(places) == 1:
        return _padded(sequences)
    parts = tuple(_padded([sequences[i] for i in part]) for part in places)
    order = torch.tensor([i for part in places for i in part]).argsort()
    return BucketedSequences(parts=parts, order=order)


def _padded(sequences: Sequence[Tensor], width: int = 0) -> FeatureSequence:
    lengths = torch.tensor([len(sequence) for sequence in sequences])  # [B]
    features = torch.nn.utils.rnn.pad_sequence(list(sequences), batch_first=True)  # [B, T, F]
    missing = width - features.shape[1]
    if missing > 0:
        features = torch.nn.functional.pad(features, (0, 0, 0, missing))
    mask = torch.arange(features.shape[1]) < lengths[:, None]  # [B, T]
    return FeatureSequence(features=features, mask=mask)


def length_buckets(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Group sequences by length so that padding each group to its longest costs least.

    A step costs the same wherever it stands, attention a little more in long sequences, and every
    group costs as much as some steps more: tiny groups are not worth their overhead.

    Args:
        lengths: steps of each sequence, each at least 1.
        most: groups at most.

    Returns:
        Groups of places in `lengths`, the shortest sequences first.
    """
    order = sorted(range(len(lengths)), key=lambda place: (lengths[place], place))
    if most <= 1 or len(order) < 2:
        return [list(range(len(lengths)))]

    def cost(first: int, stop: int) -> float:
        longest = lengths[order[stop - 1]]
        return (stop - first) * longest * (1 + longest / 1024) + 64

    # best[k]: least cost of the first k sequences, and where their last group starts, for each
    # number of groups.
    best: list[tuple[float, list[int]]] = [(0.0, [])] + [
        (cost(0, stop), [0]) for stop in range(1, len(order) + 1)
    ]
    for _ in range(most - 1):
        best = [best[0]] + [
            min(
                [best[stop]]
                + [(best[cut][0] + cost(cut, stop), [*best[cut][1], cut]) for cut in range(1, stop)]
            )
            for stop in range(1, len(order) + 1)
        ]
    cuts = [*best[-1][1], len(order)]
    return [order[a:b] for a, b in pairwise(cuts)]
