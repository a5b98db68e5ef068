"""What a training run is: nested keyword-only dataclasses, read from the command line by tyro.

The text below each field is its documentation and its `--help`. A wrong value is refused where it
is set, by a message that names the field.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_type_hints

import tyro

from univa.config.authors import check_authors
from univa.config.checks import at_least, check, check_types
from univa.config.sections import (
    DataConfig,
    LossConfig,
    OptimizerConfig,
    SyntheticConfig,
    ThresholdConfig,
)
from univa.errors import UserError
from univa.models import ModelConfig
from univa.utils.files import atomic_write_json

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
_RUNTIME_FIELDS = (
    "data.workers",
    "device",
    "progress",
    "resume",
    "run_folder",
    "save_every",
    "tensorboard",
    "threads",
    "timeout",
)


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
    authors: bool = False
    """All as the authors' code does it, number for number, and as slow: --data.authors,
    --data.sampler utterances, --data.padding full, rows of 512 tokens, two equal views, equal
    layers at the start, threshold 0.18 (docs/training.md names everything). It sets these options;
    given one by one with another value they are refused."""
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
    compile: bool = False
    """Compile the model with torch.compile (the first steps take minutes). It changes the last
    bits."""
    timeout: float = 1800.0
    """With several processes: seconds that one waits for another before it ends with an error."""
    tensorboard: bool = False
    """Also write the log for TensorBoard, into the run folder; needs the extra "tensorboard"."""
    progress: bool = True
    """Draw a progress bar."""

    def __post_init__(self) -> None:
        check_types("", self)
        at_least("", self, 1, "epochs")
        at_least("", self, 0, "save_every", "seed", "threads")
        check(self.timeout > 0, "timeout", self.timeout, "above 0")
        if self.threshold.search == "either-or" and len(self.model.labels) != 2:
            raise UserError("--threshold.search either-or is for two labels of which one holds")
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
        if self.authors:
            check_authors(self)
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
                self.data,
                folder=absolute(self.data.folder),
                va_file=absolute(self.data.va_file),
                lexicon=absolute(self.data.lexicon),
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
