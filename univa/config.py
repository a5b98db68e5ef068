"""What a training run is: nested keyword-only dataclasses, read from the command line by tyro.

The text below each field is its documentation and its `--help`. A wrong value is refused where it
is set, by a message that names the field.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

import tyro

from univa.errors import UserError
from univa.files import atomic_write_json
from univa.models import ModelConfig

__all__ = [
    "DataConfig",
    "LossConfig",
    "OptimizerConfig",
    "SyntheticConfig",
    "ThresholdConfig",
    "TrainConfig",
]

# They say where and how a run goes on, not what it is: `--resume` may change them. The order of
# sums depends on `device` and `threads`: with others a run goes on, but its last bits differ.
_RUNTIME_FIELDS = ("device", "progress", "resume", "run_folder", "save_every", "threads")


def _check(holds: bool, name: str, value: object, rule: str) -> None:
    if not holds:
        raise UserError(f"--{name.replace('_', '-')}: {value!r} is not allowed; it must be {rule}")


def _check_types(section: str, config: Any) -> None:
    """Check what a type says: choices, whole and finite numbers. A file may hold anything."""
    hints = get_type_hints(type(config))
    for item in fields(config):
        value, hint = getattr(config, item.name), hints[item.name]
        if is_dataclass(hint):
            continue
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        if not any(_is(value, kind) for kind in kinds):
            rule = " or ".join(_RULES.get(kind) or _choices(kind) for kind in kinds)
            _check(False, f"{section}{item.name}", value, rule)


_RULES: dict[Any, str] = {
    bool: "true or false",
    float: "a finite number",
    int: "a whole number",
    str: "a text",
    type(None): "none",
}


def _choices(kind: Any) -> str:
    return "one of " + ", ".join(get_args(kind))


def _is(value: object, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if kind is float:
        return type(value) in (int, float) and math.isfinite(cast(float, value))
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _at_least(section: str, config: object, low: float, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _check(value >= low, f"{section}{name}", value, f"at least {low}")


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
        _check_types(section, self)
        _at_least(section, self, 1, "train_dialogues", "valid_dialogues", "test_dialogues")
        _at_least(section, self, 1, "mean_utterances", "text_size", "audio_size", "vision_size")
        _at_least(section, self, 0, "noise")
        _check(0 <= self.discordance <= 1, f"{section}discordance", self.discordance, "in [0, 1]")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the utterances come from and how they make batches."""

    source: Literal["synthetic", "authors-text"] = "synthetic"
    """The embedded corpus, or a folder in the text layout of the UniVA authors."""
    folder: Annotated[str | None, tyro.conf.arg(aliases=["--data"])] = None
    """Folder with final_multi_labels.csv and preprocess_data/videos_structure.json."""
    va_file: Annotated[str | None, tyro.conf.arg(aliases=["--va-file"])] = None
    """JSON file of valence-arousal scores, such as `univa va score-text` writes. If left out:
    preprocess_data/raw_utt_text_textVA.json of the folder."""
    batch_size: int = 32
    """Most utterances in a batch of one process; whole dialogues are packed up to it."""
    context: bool = True
    """With a text encoder: encode each utterance within its dialogue, not by itself."""
    max_tokens: int = 512
    """With a text encoder: tokens of the longest row; longer dialogues are cut into consecutive
    windows of whole utterances."""
    authors_normalization: bool = False
    """Normalise valence and arousal as the authors' code does: both columns by the mean and
    standard deviation of the valence column. Else each column by its own."""
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)
    """The synthetic corpus."""

    def __post_init__(self) -> None:
        _check_types("data.", self)
        _at_least("data.", self, 1, "batch_size")
        _at_least("data.", self, 3, "max_tokens")


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
    """Weight of the contrastive term of text."""
    audio_weight: float = 1.0
    """Weight of the contrastive term of audio."""
    vision_weight: float = 1.0
    """Weight of the contrastive term of vision."""
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

    def __post_init__(self) -> None:
        _check_types("loss.", self)
        _check(self.temperature > 0, "loss.temperature", self.temperature, "above 0")
        _check(0 <= self.alpha <= 1, "loss.alpha", self.alpha, "in [0, 1]")
        _check(0 <= self.self_weight <= 1, "loss.self_weight", self.self_weight, "in [0, 1]")
        _at_least("loss.", self, 0, "radius", "text_weight", "audio_weight", "vision_weight")

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

    def __post_init__(self) -> None:
        name = "optimizer."
        _check_types(name, self)
        _check(self.learning_rate > 0, f"{name}learning_rate", self.learning_rate, "above 0")
        encoder_rate = self.text_encoder_learning_rate
        _check(
            encoder_rate is None or encoder_rate > 0,
            f"{name}text_encoder_learning_rate",
            encoder_rate,
            "above 0 (to keep the encoder as it is: --model.freeze-text-encoder)",
        )
        _at_least(name, self, 0, "weight_decay", "clip_norm")
        _check(0 <= self.beta1 < 1, f"{name}beta1", self.beta1, "in [0, 1)")
        _check(0 <= self.beta2 < 1, f"{name}beta2", self.beta2, "in [0, 1)")
        _check(self.eps > 0, f"{name}eps", self.eps, "above 0")
        fraction = self.warmup_fraction
        _check(0 <= fraction <= 1, f"{name}warmup_fraction", fraction, "in [0, 1]")


@dataclass(frozen=True, kw_only=True)
class ThresholdConfig:
    """When a label is predicted. Searched on the validation split only."""

    search: Literal["fixed", "shared", "per-label"] = "fixed"
    """Use `value`; or search one threshold for all labels; or one for each label."""
    value: float = 0.18
    """The threshold without a search, in (0, 1); the authors' is 0.18."""
    objective: Literal["micro_f1", "macro_f1", "mean_f1"] = "micro_f1"
    """What the search maximises; mean_f1 is the mean of both."""

    def __post_init__(self) -> None:
        _check_types("threshold.", self)
        _check(0 < self.value < 1, "threshold.value", self.value, "in (0, 1)")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run."""

    model: ModelConfig
    """The model. Its labels choose the label columns of the data."""
    data: DataConfig = field(default_factory=DataConfig)
    """The data."""
    loss: LossConfig = field(default_factory=LossConfig)
    """The objective."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """The optimiser."""
    threshold: ThresholdConfig = field(default_factory=ThresholdConfig)
    """The decision."""
    preset: tyro.conf.Suppress[str] = "custom"
    """Name of the preset that the run started from."""
    epochs: int = 15
    """Passes over the training split."""
    seed: int = 1111
    """Seed of initial weights, dropout and data order."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs the model (not the loss) under autocast."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes CUDA where there is a GPU. The last bits of the results depend
    on it, also after `--resume`."""
    threads: int = 0
    """CPU threads of each process; 0 leaves the number to torch. The last bits of the results
    depend on it, also after `--resume`. More than one slows small models down where other processes
    want the cores."""
    save_every: int = 500
    """Steps between checkpoints within an epoch; 0 saves at the ends of epochs only."""
    run_folder: str | None = None
    """Folder to make for the run; runs/PRESET-DATE-TIME if left out."""
    resume: str | None = None
    """Go on with the run in this folder, with the config that it has."""
    progress: bool = True
    """Draw a progress bar."""

    def __post_init__(self) -> None:
        _check_types("", self)
        _at_least("", self, 1, "epochs")
        _at_least("", self, 0, "save_every", "seed", "threads")
        if self.model.prior != (self.loss.prior is not None):
            raise UserError(
                f"--loss.prior is {self.loss.prior} but --model.prior is {self.model.prior}: a "
                "model without prior needs both --loss.prior None and --model.no-prior"
            )
        if self.data.source == "synthetic":
            for option, value in (("--data", self.data.folder), ("--va-file", self.data.va_file)):
                if value is not None:
                    raise UserError(
                        f"{option}: {value} would not be read, the data source is the synthetic "
                        "corpus; give --data.source authors-text or the preset mosei-text, or "
                        f"drop {option}"
                    )
        if self.data.source == "authors-text" and not self.uses_tokens:
            raise UserError(
                'data source "authors-text" has no word vectors: give a pretrained encoder with '
                "--text-encoder FOLDER"
            )

    @property
    def uses_tokens(self) -> bool:
        """True where a pretrained encoder reads the text."""
        return "text" in self.model.modalities and self.model.text_encoder is not None

    def resolved(self) -> TrainConfig:
        """The same with absolute paths, so that the run folder is readable from anywhere."""

        def absolute(path: str | None) -> str | None:
            # What is no path here may be the name of an encoder on the hub.
            return str(Path(path).resolve()) if path is not None and Path(path).exists() else path

        return replace(
            self,
            model=replace(self.model, text_encoder=absolute(self.model.text_encoder)),
            data=replace(
                self.data, folder=absolute(self.data.folder), va_file=absolute(self.data.va_file)
            ),
        )

    def to_dict(self) -> dict[str, Any]:
        """Nested dict of plain JSON types."""
        return json.loads(json.dumps(asdict(self)))

    def differences(self, other: TrainConfig) -> list[str]:
        """Where another config would give other numbers: "loss.alpha is 0.2, not 0.4"."""
        return [
            f"{name} is {here}, not {there}"
            for name, here, there in _compare(self.to_dict(), other.to_dict(), "")
            if name not in _RUNTIME_FIELDS
        ]

    def save(self, path: Path) -> None:
        """Write the config as JSON, whole or not at all."""
        atomic_write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: Path) -> TrainConfig:
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing or not a config.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(
                f"{path}: no such file; {path.parent} is not the folder of a training run"
            ) from None
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: not readable as JSON ({error})") from error
        return cls.from_dict(content, source=str(path))

    @classmethod
    def from_dict(cls, content: Any, *, source: str) -> TrainConfig:
        """Undo `to_dict`. Fields that are missing get their defaults.

        Args:
            content: nested dicts.
            source: what to name in messages.

        Raises:
            UserError: a field is unknown or its value not allowed.
        """
        return _from_dict(cls, content, source, "")


def _compare(here: Any, there: Any, name: str) -> list[tuple[str, Any, Any]]:
    if isinstance(here, dict) and isinstance(there, dict):
        prefix = f"{name}." if name else ""
        keys = sorted(here.keys() | there.keys())
        return [x for k in keys for x in _compare(here.get(k), there.get(k), prefix + k)]
    return [] if here == there else [(name, here, there)]


def _from_dict(kind: type[Any], content: Any, source: str, prefix: str) -> Any:
    """Build a config dataclass from nested dicts; a stray or missing field is a UserError."""
    if not isinstance(content, Mapping):
        raise UserError(f"{source}: field {prefix.rstrip('.') or 'config'} must be an object")
    hints = get_type_hints(kind)
    names = {f.name for f in fields(kind)}
    for name in content:
        if name not in names:
            raise UserError(f"{source}: unknown field {prefix}{name}; remove it")
    values: dict[str, Any] = {}
    for name, value in content.items():
        if is_dataclass(hints[name]):
            value = _from_dict(hints[name], value, source, f"{prefix}{name}.")
        values[name] = tuple(value) if isinstance(value, list) else value
    try:
        return kind(**values)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    except (TypeError, ValueError) as error:
        raise UserError(f"{source}: {prefix.rstrip('.') or 'config'}: {error}") from error
