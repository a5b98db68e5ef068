"""Commands of `univa va`: each is a dataclass whose fields are the options."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from univa.console import note
from univa.data import read_authors_text, read_vectors
from univa.errors import UserError
from univa.files import atomic_folder, atomic_write_json, check_writable
from univa.va.fit import FitSettings, fit_text, model_card
from univa.va.score import score_corpus
from univa.va.table import TableFormat, read_va_table
from univa.va.text import TextVAScorer

__all__ = ["FitText", "ScoreText"]


@dataclass(kw_only=True)
class FitText:
    """Fit a text valence-arousal scorer on a CSV of sentences, such as EmoBank's emobank.csv."""

    data: Path
    """CSV file with a header: sentences, valence, arousal and split."""
    encoder: str
    """Folder of a `transformers` text encoder with its tokenizer, or a hub name."""
    output: Path
    """New folder for the scorer, its metrics and its model card."""
    table: Annotated[TableFormat, tyro.conf.arg(name="")] = field(default_factory=TableFormat)
    """Columns, splits and scale of the CSV."""
    settings: Annotated[FitSettings, tyro.conf.arg(name="")] = field(default_factory=FitSettings)
    """Hyper-parameters."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes CUDA where there is a GPU."""
    progress: bool = True
    """Draw a progress bar and print a line per epoch."""

    def run(self) -> dict[str, Any]:
        """Fit, print the test figures, write the folder.

        Raises:
            UserError: bad input, or something is at `output` already. Then nothing is written.
        """
        if self.output.exists():
            raise UserError(f"{self.output}: exists already; give another --output or move it away")
        splits = read_va_table(self.data, self.table)
        torch.manual_seed(self.settings.seed)
        scorer = TextVAScorer.from_encoder(
            self.encoder, max_tokens=self.settings.max_tokens, dropout=self.settings.dropout
        ).to(_device(self.device))
        # The folder is opened before the fit, so that one that cannot be written costs no time.
        with atomic_folder(self.output) as folder:
            figures = fit_text(scorer, splits, self.settings, progress=self.progress)
            scorer.save_pretrained(folder)
            atomic_write_json(folder / "metrics.json", figures)
            card = model_card(self.data.name, Path(self.encoder).name, figures)
            (folder / "README.md").write_text(card, encoding="utf-8")
        for name, value in figures["test"].items():
            print(f"test {name}: Pearson r {value['pearson']:.4f}, CCC {value['ccc']:.4f}")
        note(f"scorer in {self.output}")
        return {"folder": self.output, **figures}


@dataclass(kw_only=True)
class ScoreText:
    """Score every utterance of a data folder; write a file like raw_utt_text_textVA.json."""

    data: Path
    """Folder with final_multi_labels.csv and preprocess_data/videos_structure.json, or the
    safetensors file of a corpus of vectors, whose JSON file beside it has the texts."""
    scorer: Path
    """Folder that `univa va fit-text` wrote."""
    output: Path
    """JSON file to write: split -> utterance id -> [text, valence, arousal]. It is replaced."""
    batch_size: int = 64
    """Utterances per batch."""
    max_tokens: int | None = None
    """Cut longer utterances to this many tokens; as in the fit if left out."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes CUDA where there is a GPU."""
    progress: bool = True
    """Draw a progress bar."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"batch_size: {self.batch_size} is less than 1; give a positive number")

    def run(self) -> dict[str, Any]:
        """Score and write the file.

        Raises:
            UserError: bad input. Then the output is as it was.
        """
        # Scores that are there may be stale or broken: they are what this replaces.
        if self.data.suffix == ".safetensors":
            corpus = read_vectors(self.data)
        else:
            corpus = read_authors_text(self.data, scores=False)
        scorer = TextVAScorer.from_pretrained(self.scorer).to(_device(self.device))
        if self.max_tokens is not None:
            scorer.set_max_tokens(self.max_tokens)
        check_writable(self.output)
        scores = score_corpus(scorer, corpus, batch_size=self.batch_size, progress=self.progress)
        atomic_write_json(self.output, scores)
        count = sum(map(len, scores.values()))
        print(f"{count} utterances scored into {self.output}")
        return {"file": self.output, "utterances": count}


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device: cuda is asked for, but torch sees no GPU; use --device cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
