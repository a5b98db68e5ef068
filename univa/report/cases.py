"""The case study: which test utterances the report shows (the slides' Table 4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from univa.batch import MODALITIES
from univa.data import Split
from univa.runs.read import FinishedRun

__all__ = ["Plane", "choose_cases", "describe_cases"]


@dataclass(frozen=True, kw_only=True)
class Plane:
    """A square window on valence-arousal space, drawn in a box of 100 by 100.

    Attributes:
        low: smallest (valence, arousal).
        high: largest.
    """

    low: tuple[float, float]
    high: tuple[float, float]

    @classmethod
    def around(cls, points: Tensor) -> Plane:
        """[-1, 1] twice where all scores [P, 2] are in it, else what holds them all."""
        if len(points) == 0 or bool((points.abs() <= 1).all()):
            return cls(low=(-1.0, -1.0), high=(1.0, 1.0))
        low, high = points.amin(0), points.amax(0)
        high = torch.where(high > low, high, low + 1)
        return cls(low=(float(low[0]), float(low[1])), high=(float(high[0]), float(high[1])))

    def place(self, point: tuple[float, float]) -> tuple[float, float]:
        """Where a score is drawn: x to the right, y downward, both within 6 to 94."""
        x, y = (
            6 + 88 * (value - low) / (high - low)
            for value, low, high in zip(point, self.low, self.high, strict=True)
        )
        return round(x, 2), round(100 - y, 2)


def choose_cases(
    labels: Tensor, predictions: Sequence[Tensor], spread: Tensor, *, most: int, seed: int = 0
) -> list[int]:
    """Choose utterances by rule, so that nobody picks the flattering ones.

    In turn, until there are enough: for each label, one that has it and is predicted exactly by the
    first run, and one that has it and is not; one without any label; one that the runs do not all
    judge alike; one whose modalities lie far apart in valence-arousal space.

    Args:
        labels: [N, L] bool.
        predictions: [N, L] bool of each run.
        spread: [N] largest distance between two modalities' scores; 0 without scores.
        most: how many.
        seed: of the order in which utterances are tried.

    Returns:
        Ascending places, min(most, N) of them.
    """
    count = len(labels)
    if count <= most:
        return list(range(count))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    right = torch.stack([(one == labels).all(dim=1) for one in predictions])  # [R, N]

    def drawn(condition: Tensor) -> Iterator[int]:
        return iter(order[condition[order]].tolist())

    sources = []
    for label in range(labels.shape[1]):
        sources += [drawn(labels[:, label] & right[0]), drawn(labels[:, label] & ~right[0])]
    sources += [drawn(~labels.any(dim=1)), drawn(right.any(dim=0) & ~right.all(dim=0))]
    if bool((spread > 0).any()):
        sources.append(iter(spread.argsort(descending=True, stable=True).tolist()))
    sources.append(drawn(torch.ones(count, dtype=torch.bool)))  # in the end there is always one
    chosen: set[int] = set()
    for source in cycle(sources):
        index = next((i for i in source if i not in chosen), None)
        if index is not None:
            chosen.add(index)
        if len(chosen) == most:
            return sorted(chosen)
    raise AssertionError("the last source has every utterance")


def describe_cases(
    runs: Sequence[FinishedRun], names: Sequence[str], split: Split, *, most: int
) -> dict[str, Any]:
    """What the page shows of some test utterances.

    Args:
        runs: with predictions for every utterance of the split.
        names: of the runs.
        split: the test split.
        most: how many utterances.

    Returns:
        "rows": for each its id, text, truth, points of the modalities, and each run's predictions;
        "plane": the window that the points are drawn in; "total": N.
    """
    modalities = split.coordinate_modalities
    scores = {name: split.coordinates(name) for name in modalities}
    points = torch.stack([*scores.values()], dim=1) if scores else torch.zeros(len(split), 0, 2)
    spread = torch.zeros(len(split))
    for a in range(len(modalities)):
        for b in range(a):
            spread = spread.maximum((points[:, a] - points[:, b]).norm(dim=1))
    chosen = choose_cases(runs[0].labels, [run.predictions for run in runs], spread, most=most)
    plane = Plane.around(points.reshape(-1, 2))
    labels = runs[0].label_names
    rows: list[dict[str, Any]] = []
    for index in chosen:
        utterance = split.utterances[index]
        truth = _names(runs[0].labels[index], labels)
        said: list[dict[str, Any]] = []
        for run, name in zip(runs, names, strict=True):
            predicted = _names(run.predictions[index], labels)
            said.append(
                {
                    "run": name,
                    "labels": [
                        {
                            "name": label,
                            "hit": label in truth,
                            "chance": float(run.probabilities[index, labels.index(label)]),
                        }
                        for label in predicted
                    ],
                    "missed": [label for label in truth if label not in predicted],
                    "right": predicted == truth,
                }
            )
        scores_of = utterance.coordinates
        places = [
            {"modality": name, "score": scores_of[name], "place": plane.place(scores_of[name])}
            for name in MODALITIES
            if name in scores_of
        ]
        rows.append(
            {
                "id": utterance.id,
                "text": utterance.text,
                "truth": truth,
                "points": places,
                "said": said,
                "any": sorted({*truth, *(one["name"] for run in said for one in run["labels"])}),
            }
        )
    return {"rows": rows, "plane": plane, "total": len(split)}


def _names(flags: Tensor, labels: Sequence[str]) -> list[str]:
    return [name for name, flag in zip(labels, flags.tolist(), strict=True) if flag]
