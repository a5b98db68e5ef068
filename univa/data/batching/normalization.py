"""Normalisation of valence-arousal scores, which gives the loss's radius its unit.

The radius of the contrastive loss (0.1 in the authors' runs) is a distance between *normalised*
scores. The statistics are those of the run's train split, fitted anew whenever the run goes on;
nothing but the loss needs them, so they are not stored. `AuthorsNormalizer` is the
authors' own way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from univa.batch import Modality
from univa.data.corpus import Split
from univa.errors import UserError

__all__ = ["AuthorsNormalizer", "Normalizer", "VANormalizer"]


class Normalizer(Protocol):
    """Anything that normalises the scores of one modality of one split."""

    def apply(self, coordinates: Tensor, modality: Modality) -> Tensor:
        """[N, 2] (valence, arousal) of a whole split -> [N, 2] normalised."""
        ...


@dataclass(frozen=True, kw_only=True)
class AuthorsNormalizer:
    """Normalises as the authors' code does, to the last bit.

    Each split is normalised by itself, and both columns by the mean and the standard deviation of
    the *valence* column, in float32.

    Attributes:
        twice: Modalities that are normalised a second time: their word vectors' scores.
    """

    twice: tuple[Modality, ...] = ()

    def apply(self, coordinates: Tensor, modality: Modality) -> Tensor:
        """Normalise all scores of one modality of one split.

        Args:
            coordinates: [N, 2] float32 (valence, arousal) of the whole split, N >= 2.
            modality: Whose they are.

        Raises:
            UserError: fewer than two scores, or all valences are equal.
        """
        for _ in range(1 + (modality in self.twice)):
            valence = coordinates[:, 0]
            if len(valence) < 2 or bool((valence == valence[0]).all()):
                raise UserError(
                    f"{modality}: the authors' normalisation divides by the standard deviation of "
                    f"the valences, and these {len(valence)} do not differ; give scores that "
                    "differ, or --data.no-authors"
                )
            coordinates = (coordinates - valence.mean()) / valence.std()
        return coordinates


@dataclass(frozen=True, kw_only=True)
class VANormalizer:
    """Shifts and scales (valence, arousal) per modality and axis.

    Attributes:
        mean: modality -> (mean of valence, mean of arousal).
        std: modality -> (standard deviation of valence, of arousal), unbiased, above 0.
    """

    mean: dict[Modality, tuple[float, float]]
    std: dict[Modality, tuple[float, float]]

    @classmethod
    def fit(cls, split: Split) -> VANormalizer:
        """Take the statistics of one split, the train split.

        Args:
            split: Its modalities with scores are the ones that can be normalised.

        Raises:
            UserError: as `from_coordinates`.
        """
        scores = {name: split.coordinates(name) for name in split.coordinate_modalities}
        return cls.from_coordinates(scores)

    @classmethod
    def from_coordinates(cls, coordinates: Mapping[Modality, Tensor]) -> VANormalizer:
        """Take the statistics of scores.

        Args:
            coordinates: modality -> [N, 2] (valence, arousal), floating point, N >= 2.

        Raises:
            UserError: fewer than two scores, or all scores of an axis are equal.
        """
        mean: dict[Modality, tuple[float, float]] = {}
        std: dict[Modality, tuple[float, float]] = {}
        for modality, scores in coordinates.items():
            if len(scores) < 2:
                raise UserError(
                    f"{modality}: {len(scores)} valence-arousal score(s) cannot be normalised; "
                    "the train split needs at least two utterances"
                )
            centre, spread = [], []
            for axis in (0, 1):
                # In float64 the order of summation, which differs between machines, leaves no
                # trace in the normalised float32 scores.
                column = scores[:, axis].double()
                centre.append(float(column.mean()))
                spread.append(float(column.std()))
                if not bool(torch.isfinite(column).all()):
                    raise UserError(f"{modality}: NaN or infinite valence-arousal score")
                # Not `spread == 0`: equal values may leave a spread of rounding error.
                if bool((column == column[0]).all()):
                    name = ("valence", "arousal")[axis]
                    raise UserError(
                        f"{modality}: every {name} score of the train split is "
                        f"{float(column[0]):g}, so it cannot be normalised; give scores that "
                        f"differ, or train without the scores of {modality}"
                    )
            mean[modality] = (centre[0], centre[1])
            std[modality] = (spread[0], spread[1])
        return cls(mean=mean, std=std)

    def apply(self, coordinates: Tensor, modality: Modality) -> Tensor:
        """Normalise scores of one modality.

        Args:
            coordinates: [..., 2] (valence, arousal), floating point.
            modality: One that was fitted.

        Returns:
            [..., 2] of the same dtype: (coordinates - mean) / std.

        Raises:
            UserError: the modality was not fitted.
        """
        if modality not in self.mean:
            raise UserError(
                f"no statistics to normalise the valence-arousal scores of {modality}; the train "
                "split has none"
            )
        mean = coordinates.new_tensor(self.mean[modality])
        std = coordinates.new_tensor(self.std[modality])
        return (coordinates - mean) / std
