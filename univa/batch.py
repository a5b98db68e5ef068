"""The typed batch that data sets produce and the model and the loss consume."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

__all__ = [
    "MODALITIES",
    "Batch",
    "BucketedSequences",
    "FeatureSequence",
    "Modality",
    "ModalityInput",
    "TokenizedDialogues",
]

Modality = Literal["text", "audio", "vision"]
MODALITIES: tuple[Modality, ...] = ("text", "audio", "vision")

_T = TypeVar("_T", bound="_TensorRecord")


class _TensorRecord:
    """Moves every tensor of a dataclass, also inside nested records and dicts."""

    def to(self: _T, device: torch.device | str, *, non_blocking: bool = False) -> _T:
        """Return a copy with every tensor on `device`."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self: _T) -> _T:
        """Return a copy in page-locked memory, from which copies to a GPU need not wait."""
        return self._map(Tensor.pin_memory)

    def _map(self: _T, change: Callable[[Tensor], Tensor]) -> _T:
        def move(value: Any) -> Any:
            if isinstance(value, Tensor):
                return change(value)
            if isinstance(value, _TensorRecord):
                return value._map(change)
            if isinstance(value, dict):
                return {key: move(item) for key, item in value.items()}
            if isinstance(value, tuple):
                return tuple(move(item) for item in value)
            return value

        return replace(self, **{f.name: move(getattr(self, f.name)) for f in fields(self)})  # type: ignore[type-var, arg-type]


@dataclass(frozen=True, kw_only=True)
class FeatureSequence(_TensorRecord):
    """One feature vector per time step: word vectors, audio frames or video frames.

    Attributes:
        features: [B, T, F] float32; zero where `mask` is False.
        mask: [B, T] bool, True at real steps. Every row has at least one True.
    """

    features: Tensor
    mask: Tensor


@dataclass(frozen=True, kw_only=True)
class BucketedSequences(_TensorRecord):
    """The sequences of a batch in groups of like length, each group padded by itself.

    Attributes:
        parts: the groups, B sequences in all.
        order: [B] int64; entry i is where utterance i stands when the groups are put one after the
            other.
    """

    parts: tuple[FeatureSequence, ...]
    order: Tensor


@dataclass(frozen=True, kw_only=True)
class TokenizedDialogues(_TensorRecord):
    """Token ids of whole dialogues, and where each utterance of the batch lies in them.

    Each of the G token rows is encoded once, whatever the number of utterances picked from it.

    Attributes:
        input_ids: [G, T] int64 token ids, special tokens and padding included.
        attention_mask: [G, T] int64, 1 at real tokens.
        dialogue_index: [B] int64 in 0..G-1, the token row that holds each utterance.
        utterance_mask: [B, T] bool, True at the utterance's own tokens. At least one per row.
    """

    input_ids: Tensor
    attention_mask: Tensor
    dialogue_index: Tensor
    utterance_mask: Tensor


ModalityInput = TokenizedDialogues | FeatureSequence | BucketedSequences


@dataclass(frozen=True, kw_only=True)
class Batch(_TensorRecord):
    """B utterances with their inputs, labels and valence-arousal scores.

    Attributes:
        utterance_ids: B identifiers, for messages and prediction files.
        labels: [B, L] float32, 1 where the emotion is present, else 0.
        coordinates: modality -> [B, 2] float32 (valence, arousal), normalised; a modality without
            scores is absent and has no contrastive term.
        groups: [B] int64, equal for utterances of one dialogue.
        text: token rows of dialogues, or word vectors, or None.
        audio: audio features or None.
        vision: visual features or None.
    """

    utterance_ids: tuple[str, ...]
    labels: Tensor
    coordinates: dict[Modality, Tensor]
    groups: Tensor
    text: ModalityInput | None = None
    audio: FeatureSequence | BucketedSequences | None = None
    vision: FeatureSequence | BucketedSequences | None = None

    def __len__(self) -> int:
        return len(self.utterance_ids)

    @property
    def inputs(self) -> dict[Modality, ModalityInput]:
        """The modalities that are present: the keyword arguments of the model's `forward`."""
        present = {"text": self.text, "audio": self.audio, "vision": self.vision}
        return {name: value for name, value in present.items() if value is not None}  # type: ignore[misc]
