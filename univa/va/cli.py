"""Commands of `univa va` that fit: each is a dataclass whose fields are the options."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
import tyro

from univa.batch import Modality
from univa.errors import UserError
from univa.utils.console import note
from univa.utils.files import atomic_folder, atomic_write_json
from univa.utils.processes import choose_device
from univa.va.card import model_card, report_lines
from univa.va.fit import FitSettings, fit
from univa.va.regressor import VARegressor
from univa.va.table import TableFormat, read_va_table

__all__ = ["FitAudio", "FitText", "FitVision"]


def _own_table() -> TableFormat:
    """The columns of a manifest, with valence and arousal as the scorers give them."""
    return TableFormat(
        valence_column="valence",
        arousal_column="arousal",
        dev_split="valid",
        value_range=(-1.0, 1.0),
    )


@dataclass(kw_only=True)
class _Fit:
    """What fitting has in common."""

    modality: ClassVar[Modality]

    data: Path
    """CSV file with a header, or JSON lines: text or file, valence, arousal and split."""
    output: Path
    """New folder for the scorer, its metrics and its model card."""
    encoder: str
    """Folder of a `transformers` encoder with its tokenizer or preprocessor, or a hub name."""
    table: Annotated[TableFormat, tyro.conf.arg(name="")] = field(default_factory=_own_table)
    """Columns, splits and scale of the table."""
    settings: Annotated[FitSettings, tyro.conf.arg(name="")] = field(default_factory=FitSettings)
    """Hyper-parameters."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes CUDA where there is a GPU."""
    progress: bool = True
    """Draw a progress bar and print a line per epoch."""

    def front_settings(self) -> dict[str, Any]:
        """Options of the preprocessor."""
        raise NotImplementedError

    def run(self) -> dict[str, Any]:
        """Fit, print the test figures, write the folder.

        Raises:
            UserError: bad input, or something is at `output` already. Then nothing is written.
        """
        if self.output.exists():
            raise UserError(f"{self.output}: exists already; give another --output or move it away")
        splits = read_va_table(self.data, self.table, self.modality)
        torch.manual_seed(self.settings.seed)
        scorer = VARegressor.from_encoder(
            self.encoder,
            self.modality,
            dropout=self.settings.dropout,
            pooling=self.settings.pooling,
            **self.front_settings(),
        ).to(choose_device(self.device))
        # The folder is opened before the fit, so that one that cannot be written costs no time.
        with atomic_folder(self.output) as folder:
            figures = fit(scorer, splits, self.settings, progress=self.progress)
            scorer.save_pretrained(folder)
            atomic_write_json(folder / "metrics.json", figures)
            card = model_card(self.modality, self.data.name, Path(self.encoder).name, figures)
            (folder / "README.md").write_text(card, encoding="utf-8")
        print("\n".join(report_lines(figures)))
        note(f"scorer in {self.output}")
        return {"folder": self.output, **figures}


@dataclass(kw_only=True)
class FitText(_Fit):
    """Fit a text valence-arousal scorer on a table of texts, such as EmoBank's emobank.csv."""

    modality: ClassVar[Modality] = "text"

    table: Annotated[TableFormat, tyro.conf.arg(name="")] = field(default_factory=TableFormat)
    """Columns, splits and scale of the table."""
    max_tokens: int = 64
    """Longer texts are cut to this many tokens."""

    def front_settings(self) -> dict[str, Any]:
        """`max_tokens`."""
        return {"max_tokens": self.max_tokens}


@dataclass(kw_only=True)
class FitAudio(_Fit):
    """Fit a valence-arousal scorer of speech on a table of audio files."""

    modality: ClassVar[Modality] = "audio"

    settings: Annotated[FitSettings, tyro.conf.arg(name="")] = field(
        default_factory=lambda: FitSettings(batch_size=16, encoder_learning_rate=3e-5)
    )
    """Hyper-parameters."""
    max_seconds: float = 15.0
    """Longer clips are cut to their beginning; scoring cuts them, too."""

    def __post_init__(self) -> None:
        if not self.max_seconds > 0:
            raise UserError(f"max_seconds: {self.max_seconds:g} is not above 0")

    def front_settings(self) -> dict[str, Any]:
        """`max_seconds`."""
        return {"max_seconds": self.max_seconds}


@dataclass(kw_only=True)
class FitVision(_Fit):
    """Fit a valence-arousal scorer of pictures on a table of images, frame folders or videos."""

    modality: ClassVar[Modality] = "vision"

    settings: Annotated[FitSettings, tyro.conf.arg(name="")] = field(
        default_factory=lambda: FitSettings(batch_size=16, encoder_learning_rate=3e-5)
    )
    """Hyper-parameters."""
    frames: int = 8
    """Most frames of a clip, evenly spread."""

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise UserError(f"frames: {self.frames} is less than 1")

    def front_settings(self) -> dict[str, Any]:
        """`frames`."""
        return {"frames": self.frames}
