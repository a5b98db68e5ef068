"""Commands of `univa va` that score: each is a dataclass whose fields are the options."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from univa.batch import Modality
from univa.data import Corpus, read_authors_text, read_vectors
from univa.errors import UserError
from univa.media.manifest import Columns, Item, read_items
from univa.media.preprocess import PREPROCESSORS
from univa.media.resume import ItemLog, file_marks
from univa.utils.console import note
from univa.utils.files import atomic_write_json, check_writable
from univa.utils.processes import choose_device
from univa.va.hub import HubScorer
from univa.va.regressor import Scorer, VARegressor
from univa.va.score import items_of, score_corpus, score_file, score_items
from univa.va.text import TextVAScorer
from univa.va.words import LexiconScorer

__all__ = ["Score", "ScoreText"]


@dataclass(kw_only=True)
class Score:
    """Score every utterance of a manifest in one modality; write one file for `--data.va-file`.

    Three kinds of scorer: a folder that `univa va fit-*` wrote, any Hugging Face regression model,
    or a lexicon. A speech model such as audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim has
    the outputs arousal, dominance, valence of about 0 to 1: `--order arousal dominance valence
    --output-range 0 1`, which are also what is taken from its config and the default. Files that
    are already scored are not scored again when a run is stopped and the command given once more.
    """

    modality: Modality
    """What to score."""
    manifest: Path
    """CSV or JSON lines with id, split and text, audio or vision. For text also a folder in the
    authors' layout or the safetensors file of a corpus of vectors, as for score-text."""
    output: Path
    """JSON file to write: split -> utterance id -> [text or file, valence, arousal], and "meta"
    with the normalisation's parameters. It is replaced."""
    model: str | None = None
    """Folder that `univa va fit-*` wrote, or folder or hub name of a regression model."""
    lexicon: Path | None = None
    """Instead of a model, for text: file of the NRC-VAD lexicon."""
    order: tuple[str, ...] | None = None
    """Names of the outputs of someone else's model; those of its config's id2label if left out."""
    output_range: tuple[float, float] | None = None
    """Its outputs that stand for lowest and highest; 0 and 1 if left out."""
    columns: Annotated[Columns, tyro.conf.arg(name="")] = field(default_factory=Columns)
    """Columns of the manifest."""
    batch_size: int = 16
    """Utterances per batch."""
    max_tokens: int | None = None
    """Cut longer texts to this many tokens; as in the fit if left out."""
    max_seconds: float | None = None
    """Cut longer clips to this many seconds; as in the fit if left out, else whole."""
    frames: int | None = None
    """Most frames of a clip; as in the fit if left out, else 8."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes CUDA where there is a GPU."""
    progress: bool = True
    """Draw a progress bar."""

    def __post_init__(self) -> None:
        _check_batch_size(self.batch_size)
        if (self.model is None) == (self.lexicon is None):
            raise UserError("give one of --model and --lexicon")
        if self.lexicon is not None and self.modality != "text":
            raise UserError(f"--lexicon scores text, not {self.modality}; give a --model")
        for name in ("max_tokens", "max_seconds", "frames"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{name}: {value} is not above 0; give a positive number")
        unused = {"text": "max_tokens", "audio": "max_seconds", "vision": "frames"}
        for modality, name in unused.items():
            if modality != self.modality and getattr(self, name) is not None:
                option = "--" + name.replace("_", "-")
                raise UserError(f"{option} is for {modality}; leave it out for {self.modality}")

    def run(self) -> dict[str, Any]:
        """Score and write the file.

        Raises:
            UserError: bad input. Then the output is as it was.
        """
        items = self._items()
        scorer, about = self._scorer()
        check_writable(self.output)
        head = {"batch_size": self.batch_size, **about}
        log = self.output.with_name(self.output.name + ".partial")
        mend = f"give the options of that run, or delete {log} to start anew"
        with ItemLog(log, head, mend=mend) as finished:
            if finished.done:
                note(f"going on after {len(finished.done)} finished utterances")
            scores = score_items(
                scorer,
                items,
                batch_size=self.batch_size,
                progress=self.progress,
                log=finished,
            )
        about.pop("files", None)
        if isinstance(scorer, LexiconScorer):
            about["without_words"] = scorer.unknown([item.written for item in items])
            note(f"{about['without_words']} texts have no word of the lexicon; they are at 0, 0")
        content = score_file(scores, about)
        atomic_write_json(self.output, content)
        finished.remove()
        if isinstance(scorer, HubScorer) and content["meta"]["at_ends"]:
            note(
                f"{content['meta']['at_ends']} of {len(items)} utterances have a score at -1 or 1, "
                "where scores are cut; where these are many, --output-range is not the model's"
            )
        print(f"{len(items)} utterances scored into {self.output}")
        return {"file": self.output, "utterances": len(items)}

    def _items(self) -> list[Item]:
        if self.modality == "text" and (
            self.manifest.is_dir() or self.manifest.suffix == ".safetensors"
        ):
            return items_of(_text_corpus(self.manifest))
        return read_items(self.manifest, self.modality, self.columns)

    def _scorer(self) -> tuple[Scorer, dict[str, Any]]:
        """The scorer, and what it is: what decides the scores beside the items."""
        about: dict[str, Any] = {"modality": self.modality}
        scorer: Scorer
        if self.lexicon is not None:
            from univa.data.lexicon import read_lexicon

            scorer = LexiconScorer(read_lexicon(self.lexicon))
            return scorer, {
                **about,
                "lexicon": self.lexicon.name,
                "files": file_marks(self.lexicon),
            }
        assert self.model is not None
        folder = Path(self.model)
        settings = {
            "max_tokens": self.max_tokens,
            "max_seconds": self.max_seconds,
            "frames": self.frames,
        }
        if _is_ours(folder):
            if self.order is not None or self.output_range is not None:
                raise UserError(
                    f"{folder}: a scorer of univa, whose outputs are known; leave out --order and "
                    "--output-range"
                )
            scorer = VARegressor.from_pretrained(folder, self.modality, **settings)
        else:
            if not folder.exists() and self.model.startswith((".", "/", "~")):
                raise UserError(f"{folder}: no such folder; give the folder of a model")
            output_range = self.output_range or (0.0, 1.0)
            scorer = HubScorer.from_pretrained(
                self.model, self.modality, order=self.order, output_range=output_range, **settings
            )
            about["order"] = None if self.order is None else list(self.order)
            about["output_range"] = list(output_range)
        about |= {
            "model": folder.name,
            **scorer.preprocessor.settings(),
            "files": file_marks(folder),
        }
        return scorer.to(choose_device(self.device)), about


def _is_ours(folder: Path) -> bool:
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("kind")
    except (OSError, ValueError, AttributeError):
        return False
    return kind in {f"univa-{modality}-va" for modality in PREPROCESSORS}


def _text_corpus(path: Path) -> Corpus:
    # Scores that are there may be stale or broken: they are what is replaced.
    if path.suffix == ".safetensors":
        return read_vectors(path)
    return read_authors_text(path, scores=False)


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise UserError(f"batch_size: {batch_size} is less than 1; give a positive number")


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
        _check_batch_size(self.batch_size)

    def run(self) -> dict[str, Any]:
        """Score and write the file.

        Raises:
            UserError: bad input. Then the output is as it was.
        """
        corpus = _text_corpus(self.data)
        device = choose_device(self.device)
        scorer = TextVAScorer.from_pretrained(self.scorer, max_tokens=self.max_tokens).to(device)
        check_writable(self.output)
        scores = score_corpus(scorer, corpus, batch_size=self.batch_size, progress=self.progress)
        atomic_write_json(self.output, scores)
        count = sum(map(len, scores.values()))
        print(f"{count} utterances scored into {self.output}")
        return {"file": self.output, "utterances": count}
