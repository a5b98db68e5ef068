"""The parts of a training config; the text below each field is its documentation and `--help`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from univa.config.checks import at_least, check, check_types

__all__ = ["DataConfig", "LossConfig", "OptimizerConfig", "SyntheticConfig", "ThresholdConfig"]


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """The embedded synthetic corpus (source "synthetic" only)."""

    seed: int = 1111
    """Seed of the corpus; independent of the training seed."""
    train_dialogues: int = 240
    """Dialogues in the training split."""
    valid_dialogues: int = 40
    """Dialogues in the validation split."""
    test_dialogues: int = 60
    """Dialogues in the test split."""
    mean_utterances: int = 8
    """Mean number of utterances of a dialogue."""
    text_size: int = 32
    """Size of a word vector."""
    audio_size: int = 24
    """Size of an audio frame's feature vector."""
    vision_size: int = 20
    """Size of a video frame's feature vector."""
    discordance: float = 0.2
    """Probability that a modality shows another emotion than the one felt, in [0, 1]."""
    noise: float = 0.15
    """Standard deviation of the noise of what a modality shows, at least 0."""

    def __post_init__(self) -> None:
        section = "data.synthetic."
        check_types(section, self)
        at_least(section, self, 1, "train_dialogues", "valid_dialogues", "test_dialogues")
        at_least(section, self, 1, "mean_utterances", "text_size", "audio_size", "vision_size")
        at_least(section, self, 0, "noise")
        check(0 <= self.discordance <= 1, f"{section}discordance", self.discordance, "in [0, 1]")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the utterances come from and how they make batches."""

    source: Literal["synthetic", "authors-text", "authors", "store", "vectors"] = "synthetic"
    """The embedded corpus; the text, or all, of a folder in the layout of the UniVA authors (for
    all, also the store that `univa data convert` makes of it); a store of any corpus; or a
    safetensors file with one vector per utterance and modality."""
    folder: Annotated[str | None, tyro.conf.arg(aliases=["--data"])] = None
    """Folder with final_multi_labels.csv or preprocess_data/utt_annot.json and with
    preprocess_data/videos_structure.json; or a store; or, for vectors, the safetensors file."""
    va_file: Annotated[str | None, tyro.conf.arg(aliases=["--va-file"])] = None
    """JSON file of valence-arousal scores, such as `univa va score-text` writes. If left out:
    preprocess_data/raw_utt_text_textVA.json of the folder."""
    lexicon: Annotated[str | None, tyro.conf.arg(aliases=["--lexicon"])] = None
    """Your copy of the NRC-VAD lexicon (version 1 or 2), which has the valence and arousal of any
    label for the correlation prior. If left out, the labels must be among the seven words that are
    built in (happy, sad, anger, surprise, disgust, fear, neutral)."""
    valid_fraction: float = 0.15
    """Source "vectors" only, whose file has no validation split: share of the training videos that
    are held out for it, in (0, 1)."""
    batch_size: int = 32
    """Most utterances in a batch of one process."""
    batch_tokens: int = 0
    """With a text encoder: dialogues are packed up to so many tokens too, where that comes first;
    0 sets no bound."""
    sampler: Literal["dialogues", "utterances"] = "dialogues"
    """Pack whole dialogues, each of which the text encoder reads once; or draw single utterances,
    as the authors' code does."""
    context: bool = True
    """With a text encoder: encode each utterance within its dialogue, not by itself."""
    max_tokens: int = 512
    """With a text encoder: tokens of the longest row; longer dialogues are cut into consecutive
    windows of whole utterances."""
    authors: bool = False
    """The part of --authors that reads data: both valence and arousal are normalised by the
    mean and standard deviation of the split's valences (those of word vectors twice), and a
    dialogue that is too long loses the ends of its longest utterances, rather than being cut into
    windows."""
    padding: Literal["batch", "full"] = "batch"
    """Pad to the longest of the batch; or to max_tokens and the model's longest sequences, as the
    authors' code does, which changes no number."""
    buckets: int = 4
    """Audio, visual and word-vector sequences of a batch are encoded in at most so many groups of
    like length; 1 pads all to the longest. It changes no number but for rounding."""
    workers: int = 0
    """Processes that make the batches ahead of the training process; 0 makes them in it."""
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)
    """The synthetic corpus."""

    def __post_init__(self) -> None:
        check_types("data.", self)
        at_least("data.", self, 1, "batch_size", "buckets")
        at_least("data.", self, 0, "batch_tokens", "workers")
        check(0 < self.valid_fraction < 1, "data.valid_fraction", self.valid_fraction, "in (0, 1)")
        at_least("data.", self, 3, "max_tokens")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The UniVA objective."""

    temperature: float = 0.7
    """Temperature of the contrastive loss, above 0."""
    radius: float = 0.1
    """Utterances closer than this in normalised valence-arousal space are positives."""
    alpha: float = 0.45
    """Weight of the contrastive terms, in [0, 1]; the rest weighs classification and prior."""
    text_weight: float = 3.0
    """Weight of the contrastive term of text, where the data has valence-arousal scores of it."""
    audio_weight: float = 1.0
    """Weight of the contrastive term of audio, where the data has valence-arousal scores of it."""
    vision_weight: float = 1.0
    """Weight of the contrastive term of vision, where the data has valence-arousal scores of it."""
    classification: Literal["kl", "bce"] = "kl"
    """KL divergence to the softmax of the labels, or binary cross-entropy of sigmoids. It also
    decides what the probabilities are: softmax or sigmoid of the logits."""
    prior: Literal["norm", "quadratic"] | None = "norm"
    """Emotion-correlation prior: the authors' code, the slides, or none."""
    self_weight: float = 0.5
    """Weight of the self pair in the contrastive loss, in [0, 1]; 0.5 equals the authors' two equal
    views."""
    no_positives: Literal["skip", "zero"] = "skip"
    """What an utterance without positives does to the contrastive mean."""
    normalize: bool = False
    """L2-normalise embeddings inside the contrastive loss."""
    gather: bool = False
    """With several processes: compute the objective of the batches of all of them together, as one
    process with all of it would. Else each process has the objective of its own batch, as in the
    authors' code."""

    def __post_init__(self) -> None:
        check_types("loss.", self)
        check(self.temperature > 0, "loss.temperature", self.temperature, "above 0")
        check(0 <= self.alpha <= 1, "loss.alpha", self.alpha, "in [0, 1]")
        check(0 <= self.self_weight <= 1, "loss.self_weight", self.self_weight, "in [0, 1]")
        at_least("loss.", self, 0, "radius", "text_weight", "audio_weight", "vision_weight")

    @property
    def modality_weights(self) -> dict[str, float]:
        """modality -> weight of its contrastive term."""
        return {"text": self.text_weight, "audio": self.audio_weight, "vision": self.vision_weight}


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with warm-up, then linear decay to 0."""

    learning_rate: float = 5e-5
    """Highest learning rate, above 0."""
    text_encoder_learning_rate: float | None = None
    """Highest learning rate of the pretrained text encoder; the same if left out."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    beta1: float = 0.9
    """Decay of the mean of gradients, in [0, 1)."""
    beta2: float = 0.999
    """Decay of the mean of squared gradients, in [0, 1)."""
    eps: float = 1e-8
    """Added to the root of the second moment, above 0."""
    warmup_fraction: float = 0.1
    """Share of all steps in which the learning rate rises from 0, in [0, 1]."""
    clip_norm: float = 1.0
    """Gradients longer than this are scaled down to it; 0 does not clip."""
    accumulate: int = 1
    """Batches whose gradients are averaged, by their number of utterances, for one step."""
    fused: bool = True
    """One fused kernel for the update. It changes the last bits."""

    def __post_init__(self) -> None:
        name = "optimizer."
        check_types(name, self)
        check(self.learning_rate > 0, f"{name}learning_rate", self.learning_rate, "above 0")
        encoder_rate = self.text_encoder_learning_rate
        check(
            encoder_rate is None or encoder_rate > 0,
            f"{name}text_encoder_learning_rate",
            encoder_rate,
            "above 0 (to keep the encoder as it is: --model.freeze-text-encoder)",
        )
        at_least(name, self, 0, "weight_decay", "clip_norm")
        at_least(name, self, 1, "accumulate")
        check(0 <= self.beta1 < 1, f"{name}beta1", self.beta1, "in [0, 1)")
        check(0 <= self.beta2 < 1, f"{name}beta2", self.beta2, "in [0, 1)")
        check(self.eps > 0, f"{name}eps", self.eps, "above 0")
        fraction = self.warmup_fraction
        check(0 <= fraction <= 1, f"{name}warmup_fraction", fraction, "in [0, 1]")


@dataclass(frozen=True, kw_only=True)
class ThresholdConfig:
    """When a label is predicted. Searched on the validation split only."""

    search: Literal["fixed", "shared", "per-label", "either-or"] = "fixed"
    """Use `value`; or search one threshold for all labels; or one for each label; or, of two labels
    of which one holds, one for the second, by accuracy."""
    value: float = 0.18
    """The threshold without a search, in (0, 1); the authors' is 0.18."""
    objective: Literal["micro_f1", "macro_f1", "mean_f1"] = "micro_f1"
    """What the search maximises; mean_f1 is the mean of both."""

    def __post_init__(self) -> None:
        check_types("threshold.", self)
        check(0 < self.value < 1, "threshold.value", self.value, "in (0, 1)")
