"""Token rows of dialogues, and where each utterance lies in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from univa.batch import TokenizedDialogues
from univa.data.corpus import Split
from univa.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["TokenRows"]


@dataclass(frozen=True, kw_only=True)
class _SpecialTokens:
    """What stands before, between and after the utterances of a row, and what pads it."""

    before: list[int]
    between: list[int]
    after: list[int]
    padding: int
    unknown: int


class TokenRows:
    """Token rows of a split: windows of dialogues, and where each utterance lies.

    Args:
        split: where the utterances come from.
        tokenizer: a Hugging Face tokenizer.
        max_tokens: the longest row, special tokens included.
        context: False gives every utterance a row of its own.
        authors: as the authors' code has it, one row per dialogue: where it is too long, the
            longest utterance (the first of several) loses a token at its end until it fits. Rows
            are padded with id 0, whatever the tokenizer's own is.
        full: pad every row to `max_tokens`, not to the longest of the batch.

    Raises:
        UserError: `max_tokens` leaves no room beside the special tokens, or, with `authors`, for
            one token of each utterance of a dialogue.
    """

    def __init__(
        self,
        split: Split,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_tokens: int,
        context: bool = True,
        authors: bool = False,
        full: bool = False,
    ) -> None:
        special = _special_tokens(tokenizer)
        room = max_tokens - len(special.before) - len(special.after)
        if room < 1:
            raise UserError(
                f"max_tokens {max_tokens} leaves no room beside {len(special.before)} + "
                f"{len(special.after)} special tokens; make it larger"
            )
        self._split = split
        self._padding = 0 if authors else special.padding
        self._width = max_tokens if full else 0
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
            name = split.utterances[start].dialogue_id
            start += length
            if authors and context:
                self._add_row(_shortened(dialogue, room, len(special.between), name), special)
                continue
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

    @property
    def dialogue_tokens(self) -> list[int]:
        """Tokens of the rows of each dialogue."""
        sizes: dict[str, dict[int, int]] = {}
        for utterance, row in zip(self._split.utterances, self._row_of, strict=True):
            sizes.setdefault(utterance.dialogue_id, {})[row] = len(self._rows[row])
        return [sum(rows.values()) for rows in sizes.values()]

    def pick(self, indices: Sequence[int]) -> TokenizedDialogues:
        """Collect the rows of the given utterances, each row once, in order of appearance."""
        appearing = dict.fromkeys(self._row_of[i] for i in indices)
        row_places = {row: place for place, row in enumerate(appearing)}
        rows = [self._rows[row] for row in row_places]
        input_ids = torch.nn.utils.rnn.pad_sequence(
            rows, batch_first=True, padding_value=self._padding
        )  # [G, T]
        missing = self._width - input_ids.shape[1]
        if missing > 0:
            input_ids = torch.nn.functional.pad(input_ids, (0, missing), value=self._padding)
        steps = torch.arange(input_ids.shape[1])  # [T]
        lengths = torch.tensor([len(row) for row in rows])  # [G]
        spans = torch.tensor([self._span_of[i] for i in indices])  # [B, 2]
        return TokenizedDialogues(
            input_ids=input_ids,
            attention_mask=(steps < lengths[:, None]).long(),
            dialogue_index=torch.tensor([row_places[self._row_of[i]] for i in indices]),
            utterance_mask=(steps >= spans[:, :1]) & (steps < spans[:, 1:]),
        )


def _shortened(dialogue: list[list[int]], room: int, gap: int, name: str) -> list[list[int]]:
    """Take tokens off the longest utterances until the dialogue fits one row, as the authors do."""
    lengths = [len(ids) for ids in dialogue]
    room -= gap * (len(dialogue) - 1)
    if room < len(dialogue):
        raise UserError(
            f"dialogue {name!r}: {len(dialogue)} utterances do not fit one row of tokens; make "
            "--data.max-tokens larger, or give --data.no-authors, which cuts it into windows"
        )
    while sum(lengths) > room:
        lengths[lengths.index(max(lengths))] -= 1
    return [ids[:length] for ids, length in zip(dialogue, lengths, strict=True)]


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
