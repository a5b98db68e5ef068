"""The preset `own`: a model for whatever a store holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from univa.batch import MODALITIES, Modality
from univa.config import DataConfig, LossConfig, OptimizerConfig, ThresholdConfig, TrainConfig
from univa.data import MOSEI_LABELS
from univa.data.store.read import MALFORMED, malformed, open_manifest
from univa.models import ModelConfig

__all__ = ["own"]

_MOST_STEPS = 1500


def own(store: str | None = None, *, text_encoder: str) -> TrainConfig:
    """Your own corpus: a store of `univa data import-...`, given with --data.

    Labels, modalities, sizes and longest sequences (up to 1500 steps) are those of the store, and
    without valence-arousal scores alpha is 0. Text, if there is any, is for the text encoder, but
    for a store with word vectors.

    Args:
        store: its folder; None is for the help.
        text_encoder: folder or hub name of the encoder.

    Raises:
        UserError: the store cannot be read.
    """
    labels, modalities, alpha, sizes = MOSEI_LABELS, MODALITIES, 0.2, {}
    encoder: str | None = text_encoder
    if store is not None:
        head, lines = open_manifest(Path(store))
        try:
            labels, features = tuple(head["labels"]), head["features"]
            utterances = [line for line in lines if line["kind"] == "utterance"]
            text = "text" in features or any(line["text"].strip() for line in utterances)
            modalities = tuple(m for m in MODALITIES if m in features or (m == "text" and text))
            modalities = modalities or ("text",)
            encoder = None if "text" in features else text_encoder
            alpha = 0.2 if set(utterances[0]["va"]) & set(modalities) else 0.0
            sizes = _sizes(features, utterances)
        except MALFORMED as error:
            raise malformed(Path(store), error) from None
    return TrainConfig(
        preset="own",
        model=ModelConfig(
            labels=labels,
            modalities=modalities,
            hidden_size=128,
            num_heads=4,
            feedforward_size=512,
            initializer_range=None,
            text_encoder=encoder,
            text_layers=1,
            audio_layers=1,
            vision_layers=1,
            **sizes,
        ),
        data=DataConfig(source="store", max_tokens=256),
        loss=LossConfig(radius=0.3, alpha=alpha),
        optimizer=OptimizerConfig(learning_rate=5e-4, text_encoder_learning_rate=5e-5),
        threshold=ThresholdConfig(search="per-label", objective="mean_f1"),
        epochs=10,
    )


def _sizes(features: dict[Modality, int], utterances: Sequence[dict[str, Any]]) -> dict[str, Any]:
    longest = {m: max(line["features"][m][2] for line in utterances) for m in features}
    sizes: dict[str, Any] = {f"{m}_dim": size for m, size in features.items()}
    return sizes | {f"max_{m}_length": min(n, _MOST_STEPS) for m, n in longest.items()}
