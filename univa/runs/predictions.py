"""What a model says about a split, and the file of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from univa.metrics import Metrics
from univa.utils.files import atomic_write_text

__all__ = ["SplitResult", "write_predictions"]


@dataclass(frozen=True, kw_only=True)
class SplitResult:
    """What a model says about one split.

    Attributes:
        utterance_ids: N identifiers.
        probabilities: [N, L] float32 on the CPU.
        predictions: [N, L] bool, by the thresholds of the checkpoint.
        labels: [N, L] float32 of 0 and 1.
        metrics: their agreement.
    """

    utterance_ids: tuple[str, ...]
    probabilities: Tensor
    predictions: Tensor
    labels: Tensor
    metrics: Metrics


def write_predictions(path: Path, result: SplitResult) -> None:
    """Write one JSON object per utterance: id, labels, predictions, probabilities.

    Args:
        path: the file; written whole or not at all.
        result: what a model says about a split.
    """
    rows = zip(
        result.utterance_ids,
        result.labels.int().tolist(),
        result.predictions.int().tolist(),
        result.probabilities.tolist(),
        strict=True,
    )
    keys = ("id", "labels", "predictions", "probabilities")
    lines = (json.dumps(dict(zip(keys, row, strict=True))) for row in rows)
    atomic_write_text(path, "".join(f"{line}\n" for line in lines))
