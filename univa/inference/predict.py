"""Predict the emotions of one's own dialogues: `univa predict`.

    univa predict runs/first dialogues.jsonl
    univa predict runs/first dialogues.jsonl --format jsonl --output predictions.jsonl
    producer | univa predict runs/first - --format jsonl --batch-size 1 | consumer

`univa.inference.dialogues` says what a line of input is, `univa.inference.pipeline` does the work.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, TextIO

import tyro

from univa.batch import MODALITIES, Modality
from univa.errors import UserError
from univa.inference.dialogues import DialogueRecord, read_dialogues
from univa.inference.pipeline import UniVAPipeline, UtterancePrediction
from univa.media.extract import MediaEncoder
from univa.utils.console import (
    WIDTH,
    cut,
    json_text,
    pad,
    printable,
    progress,
    text_width,
    wants_json,
)
from univa.utils.files import atomic_path, check_writable

__all__ = ["Predict", "head_lines", "table_lines"]

_ID, _EMOTIONS, _VA = 14, 26, 13  # columns of a table row; the text has what is left
_SETTINGS: dict[Modality, tuple[str, ...]] = {
    "audio": ("chunk_seconds",),
    "vision": ("rate", "frames"),
}


@dataclass(kw_only=True)
class Predict:
    """Predict emotions of dialogues with the best checkpoint of a run.

    One line of input is one dialogue: {"id": "d1", "utterances": [{"text": "...", "features":
    {"audio": "FILE", "vision": "FILE"}}]}. What an utterance needs is what the model was trained
    on; features are .npy or .safetensors files, [steps, size]. With encoders, media files beside
    the text ("audio": "FILE") do instead (docs/predict.md).
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
    audio_scorer: Path | None = None
    """Folder of `univa va fit-audio`: also give them of each audio file."""
    vision_scorer: Path | None = None
    """Folder of `univa va fit-vision`: also give them of each image or video."""
    audio_encoder: str | None = None
    """Encoder of `univa data extract-audio` that the model's features are from (folder or hub
    name): take audio files."""
    audio_chunk_seconds: float | None = None
    """`--chunk-seconds` of that extraction; 30 if left out."""
    vision_encoder: str | None = None
    """Encoder of `univa data extract-vision` that the model's features are from (folder or hub
    name): take images and videos."""
    vision_rate: float | None = None
    """`--rate` of that extraction; 5 if left out."""
    vision_frames: int | None = None
    """`--frames` of that extraction, instead of a rate."""
    batch_size: int | None = None
    """Most utterances in a batch; the run's own if left out. With 1 each dialogue is answered at
    once."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes CUDA where there is a GPU."""
    progress: bool = True
    """Show progress, but not on the terminal that shows the predictions."""

    def run(self) -> dict[str, Any]:
        """Predict, and print or write.

        Returns:
            With `--json` and no --output "predictions", which then are all in memory; else
            "output", and the numbers of "dialogues" and "utterances".

        Raises:
            UserError: as `UniVAPipeline`; the input or the output cannot be opened.
        """
        as_document = wants_json() and self.output is None
        if as_document and self.format is not None:
            raise UserError("--format would not be read with --json: give one, or --output, too")
        if self.batch_size is not None and self.batch_size < 1:
            raise UserError(f"--batch-size: {self.batch_size} is less than 1")
        if self.output is not None:
            check_writable(self.output)
        given = {m: getattr(self, f"{m}_scorer") for m in MODALITIES}
        scorers = {m: folder for m, folder in given.items() if folder is not None}
        with _writing(self.output), ExitStack() as stack:
            file, source, folder, size = self._input(stack)
            pipeline = UniVAPipeline(
                self.run_folder,
                scorers=scorers,
                encoders=self._encoders(),
                batch_size=self.batch_size,
                device=self.device,
            )
            apart = self.output is not None or as_document or not sys.stdout.isatty()
            bar = stack.enter_context(
                progress(
                    description="predicting",
                    total=size,
                    unit="B",
                    scale=True,
                    enabled=self.progress and apart,
                )
            )
            dialogues = before = 0

            def records() -> Iterator[DialogueRecord]:
                nonlocal dialogues, before
                for record, read in read_dialogues(file, source, folder=folder):
                    yield record
                    bar.update(read - before)
                    before = read
                    dialogues += 1

            predictions = pipeline.stream(records())
            if as_document:
                return {"predictions": [one.to_dict() for one in predictions]}
            out: TextIO = sys.stdout
            if self.output is not None:
                path = stack.enter_context(atomic_path(self.output))
                out = stack.enter_context(path.open("w", encoding="utf-8"))
            utterances = self._write(out, predictions, scored=bool(scorers))
        return {"output": self.output, "dialogues": dialogues, "utterances": utterances}

    def _encoders(self) -> dict[Modality, MediaEncoder]:
        encoders: dict[Modality, MediaEncoder] = {}
        for modality, names in _SETTINGS.items():
            source = getattr(self, f"{modality}_encoder")
            given = {name: getattr(self, f"{modality}_{name}") for name in names}
            given = {name: value for name, value in given.items() if value is not None}
            if source is not None:
                encoders[modality] = MediaEncoder(source, modality, **given)
            elif given:
                option = f"{modality}-{next(iter(given))}".replace("_", "-")
                raise UserError(f"--{option} is for media files; give --{modality}-encoder, too")
        return encoders

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
    ) -> int:
        chosen = self.format or ("table" if self.output is None else "jsonl")
        lines: Callable[[UtterancePrediction], list[str]]
        if chosen == "table":
            out.write("".join(f"{line}\n" for line in head_lines(scored=scored)))

            def lines(one: UtterancePrediction) -> list[str]:
                return table_lines(one, scored=scored)

        else:

            def lines(one: UtterancePrediction) -> list[str]:
                return [json_text(one.to_dict(), out)]

        count = 0
        for count, prediction in enumerate(predictions, 1):  # noqa: B007
            out.write("".join(f"{line}\n" for line in lines(prediction)))
            out.flush()
        return count


def head_lines(*, scored: bool) -> list[str]:
    """The head of the table."""
    return [_row("utterance", "emotions", "  V     A", "text", scored=scored)]


def table_lines(prediction: UtterancePrediction, *, scored: bool) -> list[str]:
    """The lines of one utterance in the table, of 80 columns at most.

    Where no emotion is above its threshold the likeliest stands in brackets. Emotions that do not
    fit one line go on in the next; so do valence and arousal, with t for those of the text, a of
    audio, v of vision.
    """
    chances = prediction.probabilities
    names: Any = prediction.emotions
    if names:
        said = ", ".join(f"{printable(name)}\xa0{chances[name]:.2f}" for name in names)
    else:
        best = max(chances, key=lambda name: chances[name])
        said = f"- ({printable(best)}\xa0{chances[best]:.2f})"
    points = [
        f"{modality[0]} -" if va is None else f"{modality[0]} {va[0]:+.2f} {va[1]:+.2f}"
        for modality, va in prediction.va.items()
    ]
    parts = [part.replace("\xa0", " ") for part in textwrap.wrap(said, _EMOTIONS)]
    (first, point), *more = zip_longest(parts, points, fillvalue="")
    return [
        _row(prediction.id, first, point, prediction.text or "", scored=scored),
        *(_row("", part, point, "", scored=scored) for part, point in more),
    ]


def _row(name: str, emotions: str, point: str, text: str, *, scored: bool) -> str:
    cells = [pad(printable(name), _ID), pad(emotions, _EMOTIONS)]
    if scored:
        cells.append(pad(point, _VA))
    cells.append(cut(printable(text), WIDTH - sum(text_width(cell) + 2 for cell in cells)))
    return "  ".join(cells).rstrip()


@contextmanager
def _writing(output: Path | None) -> Iterator[None]:
    """One line for a full disk."""
    try:
        yield
    except OSError as error:
        if output is None:
            raise
        raise UserError(f"{output}: cannot write: {error.strerror or error}") from error
