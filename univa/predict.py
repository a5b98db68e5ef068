"""Predict the emotions of one's own dialogues: `univa predict`.

    univa predict runs/first dialogues.jsonl
    univa predict runs/first dialogues.jsonl --format jsonl --output predictions.jsonl
    producer | univa predict runs/first - --format jsonl --batch-size 1 | consumer

`univa.dialogues` says what a line of input is, `univa.pipeline` does the work.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, TextIO

import tyro

from univa.console import WIDTH, cut, pad, printable, progress, text_width
from univa.dialogues import DialogueRecord, read_dialogues
from univa.errors import UserError
from univa.files import atomic_path, check_writable
from univa.pipeline import UniVAPipeline, UtterancePrediction

__all__ = ["Predict", "head_lines", "table_lines"]

_ID, _EMOTIONS, _VA = 14, 26, 12  # columns of a table row; the text has what is left


@dataclass(kw_only=True)
class Predict:
    """Predict emotions of dialogues with the best checkpoint of a run.

    One line of input is one dialogue: {"id": "d1", "utterances": [{"text": "...", "features":
    {"audio": "FILE", "vision": "FILE"}}]}. What an utterance needs is what the model was trained
    on; features are .npy or .safetensors files, [steps, size] (docs/predict.md).
    """

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    dialogues: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """JSON lines of dialogues; - reads standard input."""
    format: Literal["table", "jsonl"] | None = None
    """A table of 80 columns, or one JSON object per utterance with every probability. If left out:
    jsonl with --output, else table."""
    output: Path | None = None
    """File to write, whole or not at all; standard output if left out, batch by batch."""
    text_scorer: Path | None = None
    """Folder of `univa va fit-text`: also give valence and arousal of each text."""
    batch_size: int | None = None
    """Most utterances in a batch; the run's own if left out. With 1 each dialogue is answered at
    once."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes CUDA where there is a GPU."""
    progress: bool = True
    """Show progress, but not on the terminal that shows the predictions."""

    def run(self) -> None:
        """Predict, and print or write.

        Raises:
            UserError: as `UniVAPipeline`; the input or the output cannot be opened.
        """
        if self.batch_size is not None and self.batch_size < 1:
            raise UserError(f"--batch-size: {self.batch_size} is less than 1")
        if self.output is not None:
            check_writable(self.output)
        with ExitStack() as stack:
            file, source, folder, size = self._input(stack)
            pipeline = UniVAPipeline(
                self.run_folder,
                text_scorer=self.text_scorer,
                batch_size=self.batch_size,
                device=self.device,
            )
            shown = self.progress and (self.output is not None or not sys.stdout.isatty())
            bar = stack.enter_context(
                progress(description="predicting", total=size, unit="B", scale=True, enabled=shown)
            )

            def records() -> Iterator[DialogueRecord]:
                before = 0
                for record, read in read_dialogues(file, source, folder=folder):
                    yield record
                    bar.update(read - before)
                    before = read

            out: TextIO = sys.stdout
            if self.output is not None:
                path = stack.enter_context(atomic_path(self.output))
                out = stack.enter_context(path.open("w", encoding="utf-8"))
            self._write(out, pipeline.stream(records()), scored=self.text_scorer is not None)

    def _input(self, stack: ExitStack) -> tuple[BinaryIO, str, Path, int | None]:
        """The open file, its name, what relative paths start at, and its size if that is known."""
        if self.dialogues == "-":
            return sys.stdin.buffer, "standard input", Path(), None
        path = Path(self.dialogues)
        try:
            file = stack.enter_context(path.open("rb"))
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); give JSON lines") from None
        return file, str(path), path.parent, path.stat().st_size if path.is_file() else None

    def _write(
        self, out: TextIO, predictions: Iterator[UtterancePrediction], *, scored: bool
    ) -> None:
        chosen = self.format or ("table" if self.output is None else "jsonl")
        lines: Callable[[UtterancePrediction], list[str]]
        if chosen == "table":
            out.write("".join(f"{line}\n" for line in head_lines(scored=scored)))

            def lines(one: UtterancePrediction) -> list[str]:
                return table_lines(one, scored=scored)

        else:

            def lines(one: UtterancePrediction) -> list[str]:
                return [json.dumps(one.to_dict(), ensure_ascii=False)]

        for prediction in predictions:
            out.write("".join(f"{line}\n" for line in lines(prediction)))
            out.flush()


def head_lines(*, scored: bool) -> list[str]:
    """The head of the table."""
    return [_row("utterance", "emotions", "V     A", "text", scored=scored)]


def table_lines(prediction: UtterancePrediction, *, scored: bool) -> list[str]:
    """The lines of one utterance in the table, of 80 columns at most.

    Where no emotion is above its threshold the likeliest stands in brackets. Emotions that do not
    fit one line go on in the next.
    """
    chances = prediction.probabilities
    names: Any = prediction.emotions
    if names:
        said = ", ".join(f"{printable(name)}\xa0{chances[name]:.2f}" for name in names)
    else:
        best = max(chances, key=lambda name: chances[name])
        said = f"- ({printable(best)}\xa0{chances[best]:.2f})"
    va = prediction.va.get("text")
    point = "-" if va is None else f"{va[0]:+.2f} {va[1]:+.2f}"
    parts = [part.replace("\xa0", " ") for part in textwrap.wrap(said, _EMOTIONS)]
    first, *more = parts
    return [
        _row(prediction.id, first, point, prediction.text or "", scored=scored),
        *(_row("", part, "", "", scored=scored) for part in more),
    ]


def _row(name: str, emotions: str, point: str, text: str, *, scored: bool) -> str:
    cells = [pad(printable(name), _ID), pad(emotions, _EMOTIONS)]
    if scored:
        cells.append(pad(point, _VA))
    cells.append(cut(printable(text), WIDTH - sum(text_width(cell) + 2 for cell in cells)))
    return "  ".join(cells).rstrip()
