"""From utterances to a batch: padding, token rows of dialogues, normalised coordinates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from univa.batch import MODALITIES, Batch, FeatureSequence, Modality, TokenizedDialogues
from univa.data.corpus import Split
from univa.data.normalization import VANormalizer
from univa.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Collator"]


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
        normalizer: VANormalizer | None = None,
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
        self._rows: _TokenRows | None = None
        if text == "tokens" and "text" in self.modalities:
            if tokenizer is None:
                raise ValueError("text as tokens needs a tokenizer")
            self._rows = _TokenRows(split, tokenizer, max_tokens, context)

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
        inputs: dict[str, TokenizedDialogues | FeatureSequence] = {
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

    def _is_rows(self, modality: Modality) -> bool:
        return modality == "text" and self._rows is not None

    def _features(self, modality: Modality, indices: Sequence[int]) -> FeatureSequence:
        limit = self.max_lengths.get(modality)
        sequences = [self.split.utterances[i].features[modality][:limit] for i in indices]
        lengths = torch.tensor([len(sequence) for sequence in sequences])  # [B]
        features = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True)  # [B, T, F]
        mask = torch.arange(features.shape[1]) < lengths[:, None]  # [B, T]
        return FeatureSequence(features=features, mask=mask)


@dataclass(frozen=True, kw_only=True)
class _SpecialTokens:
    """What stands before, between and after the utterances of a row, and what pads it."""

    before: list[int]
    between: list[int]
    after: list[int]
    padding: int
    unknown: int


class _TokenRows:
    """Token rows of a split: windows of dialogues, and where each utterance lies."""

    def __init__(
        self, split: Split, tokenizer: PreTrainedTokenizerBase, max_tokens: int, context: bool
    ) -> None:
        special = _special_tokens(tokenizer)
        room = max_tokens - len(special.before) - len(special.after)
        if room < 1:
            raise UserError(
                f"max_tokens {max_tokens} leaves no room beside {len(special.before)} + "
                f"{len(special.after)} special tokens; make it larger"
            )
        self._padding = special.padding
        self._rows: list[Tensor] = []  # [G_all] of [T] int64
        self._row_of: list[int] = []  # [N]
        self._span_of: list[tuple[int, int]] = []  # [N] first token and the one after the last
        texts = [utterance.text for utterance in split.utterances]
        # An utterance without a token still needs one of its own to be pooled over.
        tokens = [
            (ids or [special.unknown])[:room]
            for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        ]
        start = 0
        for length in split.dialogue_lengths:
            dialogue = tokens[start : start + length]
            start += length
            sizes = [len(ids) for ids in dialogue]
            windows = _windows(sizes, room, len(special.between)) if context else [1] * length
            for count in windows:
                self._add_row(dialogue[:count], special)
                dialogue = dialogue[count:]

    def _add_row(self, utterances: list[list[int]], special: _SpecialTokens) -> None:
        row = list(special.before)
        for place, ids in enumerate(utterances):
            if place:
                row += special.between
            self._row_of.append(len(self._rows))
            self._span_of.append((len(row), len(row) + len(ids)))
            row += ids
        self._rows.append(torch.tensor(row + special.after))

    def pick(self, indices: Sequence[int]) -> TokenizedDialogues:
        """Collect the rows of the given utterances, each row once, in order of appearance."""
        appearing = dict.fromkeys(self._row_of[i] for i in indices)
        row_places = {row: place for place, row in enumerate(appearing)}
        rows = [self._rows[row] for row in row_places]
        input_ids = torch.nn.utils.rnn.pad_sequence(
            rows, batch_first=True, padding_value=self._padding
        )  # [G, T]
        steps = torch.arange(input_ids.shape[1])  # [T]
        lengths = torch.tensor([len(row) for row in rows])  # [G]
        spans = torch.tensor([self._span_of[i] for i in indices])  # [B, 2]
        return TokenizedDialogues(
            input_ids=input_ids,
            attention_mask=(steps < lengths[:, None]).long(),
            dialogue_index=torch.tensor([row_places[self._row_of[i]] for i in indices]),
            utterance_mask=(steps >= spans[:, :1]) & (steps < spans[:, 1:]),
        )


def _windows(sizes: Sequence[int], room: int, gap: int) -> list[int]:
    """Cut a dialogue into the fewest windows of consecutive utterances, as even as that allows.

    Args:
        sizes: Tokens of each utterance, none above `room`.
        room: Tokens that a window holds.
        gap: Tokens between two utterances.

    Returns:
        Number of utterances of each window.
    """

    def fill(capacity: int) -> list[int]:
        windows, used = [0], 0
        for size in sizes:
            extra = size + gap if windows[-1] else size
            if windows[-1] and used + extra > capacity:
                windows.append(0)
                used, extra = 0, size
            windows[-1] += 1
            used += extra
        return windows

    fewest = len(fill(room))
    low, high = max(sizes), room
    while low < high:  # the least capacity that still needs no more windows
        middle = (low + high) // 2
        low, high = (low, middle) if len(fill(middle)) == fewest else (middle + 1, high)
    return fill(high)


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> _SpecialTokens:
    """How the tokenizer marks the start of a row, the gap between two texts and the end."""
    before, between, after = _template(tokenizer)
    spare = next(t for t in (tokenizer.eos_token_id, tokenizer.sep_token_id, 0) if t is not None)
    padding, unknown = tokenizer.pad_token_id, tokenizer.unk_token_id
    return _SpecialTokens(
        before=before,
        between=between,
        after=after,
        padding=spare if padding is None else padding,
        unknown=spare if unknown is None else unknown,
    )


def _template(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int], list[int]]:
    """What the tokenizer puts before, between and after a pair of texts."""
    text: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    pair: list[int] = tokenizer("a", "a")["input_ids"]
    places = [i for i in range(len(pair)) if text and pair[i : i + len(text)] == text]
    if len(places) == 2 and len(pair) > 2 * len(text):
        first, second = places
        return pair[:first], pair[first + len(text) : second], pair[second + len(text) :]
    # The tokenizer adds nothing by itself: do as the family that its special tokens are of does.
    # RoBERTa puts two separators between two texts, BERT one.
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    doubled = tokenizer.sep_token == "</s>"
    separator = [] if sep is None else [sep]
    return ([] if cls is None else [cls]), separator * (1 + doubled), separator
