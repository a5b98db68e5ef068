"""Valence-arousal coordinates of emotion words and the emotion similarity matrix."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from univa.errors import UserError

__all__ = ["EMOTION_COORDINATES", "label_coordinates", "similarity_matrix"]

# (valence, arousal) in 0..1. NRC-VAD lexicon v1 (Mohammad, ACL 2018), the seven words that UniVA
# uses; "neutral" is the centre of the space, as the authors have it (the lexicon: .469, .184).
EMOTION_COORDINATES: dict[str, tuple[float, float]] = {
    "happy": (1.000, 0.735),
    "sad": (0.225, 0.333),
    "anger": (0.167, 0.865),
    "surprise": (0.875, 0.875),
    "disgust": (0.052, 0.775),
    "fear": (0.073, 0.840),
    "neutral": (0.500, 0.500),
}


def label_coordinates(labels: Sequence[str]) -> Tensor:
    """Coordinates of a label set, rescaled to [-1, 1] per axis over that set.

    Args:
        labels: L emotion names, case ignored, all among `EMOTION_COORDINATES`; at least two that
            differ in valence and in arousal.

    Returns:
        [L, 2] float64 (valence, arousal), each column spanning [-1, 1] exactly.

    Raises:
        UserError: a label is unknown, or the set does not span an axis.
    """
    unknown = [name for name in labels if name.lower() not in EMOTION_COORDINATES]
    if unknown:
        raise UserError(
            f"no valence-arousal coordinates for label {unknown[0]!r}; "
            f"known labels: {', '.join(EMOTION_COORDINATES)}"
        )
    points = torch.tensor(
        [EMOTION_COORDINATES[name.lower()] for name in labels], dtype=torch.float64
    )
    if len(labels) == 0 or bool((points.amax(0) == points.amin(0)).any()):
        raise UserError(
            "a similarity matrix needs at least two labels that differ in valence and in arousal; "
            f"got {list(labels)}"
        )
    low, high = points.amin(0), points.amax(0)
    return 2 * (points - low) / (high - low) - 1


def similarity_matrix(labels: Sequence[str]) -> Tensor:
    """Emotion similarity matrix M (the UniVA slides, Module 3).

    M_jl is the cosine between the rescaled coordinates of emotions j and l.

    Args:
        labels: L emotion names, as for `label_coordinates`.

    Returns:
        [L, L] float64 in [-1, 1], symmetric, ones on the diagonal.

    Raises:
        UserError: as `label_coordinates`.
    """
    points = label_coordinates(labels)  # [L, 2]
    unit = points / points.norm(dim=1, keepdim=True)
    return unit @ unit.T
