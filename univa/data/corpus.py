"""What a data set is here: utterances in dialogues, dialogues in splits, three splits."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from univa.batch import MODALITIES, Modality
from univa.errors import UserError

__all__ = ["Corpus", "Dialogue", "LazyFeatures", "Split", "StepSource", "Utterance", "first_steps"]


class StepSource(Protocol):
    """Where the feature sequences of many utterances lie."""

    def read(self, start: int, steps: int) -> Tensor:
        """The [steps, F] float32 sequence that starts at `start`, in the source's own counting."""
        ...


@dataclass(frozen=True, kw_only=True)
class FeatureSlice:
    """Where one feature sequence lies: `steps` vectors of `size` numbers at `start`."""

    source: StepSource
    start: int
    steps: int
    size: int


class LazyFeatures(Mapping[Modality, Tensor]):
    """Feature sequences of one utterance that are read when they are asked for."""

    def __init__(self, places: Mapping[Modality, FeatureSlice]) -> None:
        self.places = dict(places)

    def __getitem__(self, modality: Modality) -> Tensor:
        return self.first(modality, None)

    def first(self, modality: Modality, limit: int | None) -> Tensor:
        """At most the first `limit` steps, reading no more than those."""
        place = self.places[modality]
        steps = place.steps if limit is None else min(limit, place.steps)
        return place.source.read(place.start, steps)

    def __contains__(self, modality: object) -> bool:
        return modality in self.places  # without reading

    def __iter__(self) -> Iterator[Modality]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


@dataclass(frozen=True, kw_only=True, eq=False)
class Utterance:
    """One utterance: what was said, how it was labelled and what each modality measured.

    Attributes:
        id: Identifier, unique in the corpus.
        dialogue_id: Identifier of the dialogue (the video) that it belongs to.
        text: What was said; may be empty.
        labels: [L] float32, 1 where the emotion is present, else 0.
        coordinates: modality -> (valence, arousal) in the scale of whoever scored them.
        features: modality -> [T, F] float32, T >= 1 steps: word vectors, audio or video frames. A
            `LazyFeatures` reads them when they are asked for.
    """

    id: str
    dialogue_id: str
    text: str
    labels: Tensor
    coordinates: dict[Modality, tuple[float, float]] = field(default_factory=dict)
    features: Mapping[Modality, Tensor] = field(default_factory=dict)


def first_steps(utterance: Utterance, modality: Modality, limit: int | None) -> Tensor:
    """At most the first `limit` steps of a feature sequence: [T, F]."""
    if isinstance(utterance.features, LazyFeatures):
        return utterance.features.first(modality, limit)
    return utterance.features[modality][:limit]


def _size(features: Mapping[Modality, Tensor], modality: Modality) -> int:
    if isinstance(features, LazyFeatures):
        return features.places[modality].size
    return features[modality].shape[-1]


@dataclass(frozen=True, kw_only=True, eq=False)
class Dialogue:
    """The utterances of one dialogue in the order in which they were said.

    Attributes:
        id: Identifier, unique in the corpus.
        utterances: At least one utterance, each with this dialogue's id.
    """

    id: str
    utterances: tuple[Utterance, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Dialogues for one purpose. An utterance's index is its place in `utterances`.

    Attributes:
        name: "train", "valid" or "test".
        dialogues: At least one dialogue.
    """

    name: str
    dialogues: tuple[Dialogue, ...]

    def __len__(self) -> int:
        return len(self.utterances)

    @cached_property
    def utterances(self) -> tuple[Utterance, ...]:
        """All utterances, dialogue after dialogue."""
        return tuple(item for dialogue in self.dialogues for item in dialogue.utterances)

    @property
    def dialogue_lengths(self) -> list[int]:
        """Number of utterances of each dialogue."""
        return [len(dialogue.utterances) for dialogue in self.dialogues]

    @cached_property
    def labels(self) -> Tensor:
        """Labels of all utterances, [N, L] float32."""
        return torch.stack([item.labels for item in self.utterances])

    @property
    def feature_modalities(self) -> tuple[Modality, ...]:
        """The modalities that have feature sequences."""
        return tuple(name for name in MODALITIES if name in self.utterances[0].features)

    @property
    def coordinate_modalities(self) -> tuple[Modality, ...]:
        """The modalities that have valence-arousal scores."""
        return tuple(name for name in MODALITIES if name in self.utterances[0].coordinates)

    def coordinates(self, modality: Modality) -> Tensor:
        """Valence-arousal scores of one modality as they were given.

        Args:
            modality: One of `coordinate_modalities`.

        Returns:
            [N, 2] float32 (valence, arousal), not normalised.

        Raises:
            UserError: the modality has no scores.
        """
        if modality not in self.coordinate_modalities:
            raise UserError(f"split {self.name!r} has no valence-arousal scores of {modality}")
        points = [item.coordinates[modality] for item in self.utterances]
        return torch.tensor(points, dtype=torch.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class Corpus:
    """Three splits over one label set. Checked when it is made.

    Attributes:
        label_names: L emotion names, the order of the label columns.
        train: What the model is fitted to.
        valid: What the epoch and the threshold are chosen on.
        test: What is reported.
        source: Where it comes from, for messages.

    Raises:
        UserError: as `validate`.
    """

    label_names: tuple[str, ...]
    train: Split
    valid: Split
    test: Split
    source: str = "corpus"

    def __post_init__(self) -> None:
        self.validate()

    @property
    def splits(self) -> dict[str, Split]:
        """The splits by name."""
        return {"train": self.train, "valid": self.valid, "test": self.test}

    @property
    def feature_sizes(self) -> dict[Modality, int]:
        """modality -> F, the size of one feature vector."""
        first = self.train.utterances[0]
        return {name: _size(first.features, name) for name in self.train.feature_modalities}

    def longest(self, modality: Modality) -> int:
        """Steps of the longest feature sequence of a modality, in any split."""
        return max(
            u.features.places[modality].steps
            if isinstance(u.features, LazyFeatures)
            else len(u.features[modality])
            for split in self.splits.values()
            for u in split.utterances
        )

    @property
    def coordinate_modalities(self) -> tuple[Modality, ...]:
        """The modalities that have valence-arousal scores."""
        return self.train.coordinate_modalities

    def validate(self) -> None:
        """Check that the corpus can be trained on.

        Raises:
            UserError: a split is empty or misnamed, a dialogue is empty, an id comes twice, labels
                do not match `label_names`, feature sizes or the present modalities differ between
                utterances, or a feature or a valence-arousal score is NaN or infinite. The message
                names the source, the split and the utterance.
        """
        if not self.label_names:
            raise UserError(f"{self.source}: no label names; give at least one")
        twice = _repeated(self.label_names)
        if twice:
            raise UserError(f"{self.source}: label {twice!r} is named twice; name it once")
        for name, split in self.splits.items():
            if split.name != name:
                raise UserError(f"{self.source}: the {name} split is named {split.name!r}")
            if not split.dialogues:
                raise UserError(
                    f"{self.source}: split {name!r} is empty; put at least one dialogue into it"
                )
            for dialogue in split.dialogues:
                if not dialogue.utterances:
                    raise UserError(
                        f"{self.source}, split {name!r}: dialogue {dialogue.id!r} has no "
                        "utterances; remove it or add them"
                    )
        self._check_ids()
        first = self.train.utterances[0]
        for name, split in self.splits.items():
            for utterance in split.utterances:
                place = f"{self.source}, split {name!r}, utterance {utterance.id!r}"
                _check_labels(utterance, self.label_names, place)
                _check_coordinates(utterance, first, place)
                _check_features(utterance, first, place)

    def _check_ids(self) -> None:
        dialogues = [d.id for split in self.splits.values() for d in split.dialogues]
        twice = _repeated(dialogues)
        if twice is not None:
            raise UserError(
                f"{self.source}: dialogue id {twice!r} comes twice; ids must be unique over all "
                "splits"
            )
        twice = _repeated([u.id for split in self.splits.values() for u in split.utterances])
        if twice is not None:
            raise UserError(
                f"{self.source}: utterance id {twice!r} comes twice; ids must be unique over all "
                "splits"
            )
        for split in self.splits.values():
            for dialogue in split.dialogues:
                for utterance in dialogue.utterances:
                    if utterance.dialogue_id != dialogue.id:
                        raise UserError(
                            f"{self.source}: utterance {utterance.id!r} lies in dialogue "
                            f"{dialogue.id!r} but names {utterance.dialogue_id!r}; mend its "
                            "dialogue id"
                        )


def _repeated(names: Iterable[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)


def _check_labels(utterance: Utterance, label_names: tuple[str, ...], place: str) -> None:
    labels = utterance.labels
    if labels.dtype != torch.float32 or labels.ndim != 1:
        raise UserError(
            f"{place}: labels must be a float32 vector, got {labels.dtype} of shape "
            f"{tuple(labels.shape)}"
        )
    if len(labels) != len(label_names):
        raise UserError(
            f"{place}: {len(labels)} labels but {len(label_names)} label names "
            f"({', '.join(label_names)}); give one value per name"
        )
    if not bool(((labels == 0) | (labels == 1)).all()):
        raise UserError(f"{place}: labels must be 0 or 1, got {labels.tolist()}")


def _check_coordinates(utterance: Utterance, first: Utterance, place: str) -> None:
    if utterance.coordinates.keys() != first.coordinates.keys():
        raise UserError(
            f"{place}: valence-arousal scores of {_listed(utterance.coordinates)}, but utterance "
            f"{first.id!r} has scores of {_listed(first.coordinates)}; give every utterance the "
            "same"
        )
    for modality, point in utterance.coordinates.items():
        if not (math.isfinite(point[0]) and math.isfinite(point[1])):
            raise UserError(
                f"{place}: valence-arousal score of {modality} is {tuple(point)}; give finite "
                "numbers"
            )


def _check_features(utterance: Utterance, first: Utterance, place: str) -> None:
    if utterance.features.keys() != first.features.keys():
        raise UserError(
            f"{place}: features of {_listed(utterance.features)}, but utterance {first.id!r} has "
            f"features of {_listed(first.features)}; give every utterance the same"
        )
    for modality in utterance.features:
        expected = _size(first.features, modality)
        if isinstance(utterance.features, LazyFeatures):  # its values are checked where it is made
            given = _size(utterance.features, modality)
            if given != expected:
                raise UserError(
                    f"{place}: {modality} feature size {given}, but utterance {first.id!r} has "
                    f"{expected}; give every utterance the same size"
                )
            continue
        steps = utterance.features[modality]
        if steps.ndim != 2 or steps.shape[0] == 0 or steps.dtype != torch.float32:
            raise UserError(
                f"{place}: {modality} features must be float32 [steps >= 1, size], got "
                f"{steps.dtype} of shape {tuple(steps.shape)}"
            )
        if steps.shape[1] != expected:
            raise UserError(
                f"{place}: {modality} feature size {steps.shape[1]}, but utterance {first.id!r} "
                f"has {expected}; give every utterance the same size"
            )
        if not bool(torch.isfinite(steps).all()):
            row = int((~torch.isfinite(steps)).any(dim=1).nonzero()[0, 0]) + 1
            raise UserError(
                f"{place}: NaN or infinite {modality} feature at step {row}; remove or replace it"
            )


def _listed(modalities: Iterable[str]) -> str:
    return ", ".join(sorted(modalities)) or "no modality"
