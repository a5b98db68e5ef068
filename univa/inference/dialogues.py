"""Dialogues of one's own to predict: JSON lines, checked, with feature files read when needed.

One line is one dialogue; relative paths start at the folder of the file:

    {"id": "d1", "utterances": [
        {"id": "d1_0", "text": "I did not expect that!",
         "features": {"audio": "d1_0.wavlm.safetensors", "vision": "d1_0.clip.npy"}}]}

`id` may be left out (the number of the line, the dialogue's id with the utterance's number). A
feature file holds one floating-point array [steps, size]: `.npy`, or `.safetensors` with one tensor
or one named "features". A media file stands beside the text ("audio": "d1_0.wav", "vision":
"d1_0.mp4"), with "start" and "end" in seconds where it is a stretch of it. Other fields are not
looked at.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from univa.batch import MODALITIES, Modality
from univa.data.corpus import Dialogue, FeatureSlice, LazyFeatures, Utterance
from univa.errors import UserError, first_line
from univa.media.decode import Clip
from univa.media.extract import MediaEncoder
from univa.models import ModelConfig

__all__ = ["DialogueRecord", "parse_dialogue", "read_dialogues"]

_TENSOR = "features"  # its name in a safetensors file with several


@dataclass(frozen=True, kw_only=True)
class UtteranceRecord:
    """An utterance as it was given.

    Attributes:
        id: its name.
        text: what was said; None where nothing is given.
        features: modality -> a file or an array [T, F].
        media: modality -> an audio file; an image, a folder of images or a video; or a stretch.
    """

    id: str
    text: str | None
    features: dict[Modality, Any] = field(default_factory=dict)
    media: dict[Modality, Clip] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DialogueRecord:
    """A dialogue as it was given.

    Attributes:
        id: its name.
        utterances: at least one.
        place: where it stands, for messages.
        folder: what relative paths start at.
    """

    id: str
    utterances: tuple[UtteranceRecord, ...]
    place: str
    folder: Path

    def load(
        self,
        model: ModelConfig,
        *,
        reads_tokens: bool,
        encoders: Mapping[Modality, MediaEncoder] | None = None,
    ) -> Dialogue:
        """The dialogue for a model: every modality of it is there, and of its size.

        Heads of feature files are read here, their values when they are asked for. Media files
        are encoded here.

        Args:
            model: what the model sees.
            reads_tokens: its text comes as tokens.
            encoders: what makes features of media files where no features are given.

        Raises:
            UserError: an utterance lacks a modality of the model, or its features cannot be read
                or are of another size; utterance and modality are named.
        """
        return Dialogue(
            id=self.id,
            utterances=tuple(
                Utterance(
                    id=one.id,
                    dialogue_id=self.id,
                    text=one.text or "",
                    labels=torch.zeros(len(model.labels)),
                    features=LazyFeatures(
                        {
                            modality: self._features(one, modality, model, encoders or {})
                            for modality in model.modalities
                            if self._needs_features(one, modality, reads_tokens)
                        }
                    ),
                )
                for one in self.utterances
            ),
        )

    def _where(self, utterance: UtteranceRecord) -> str:
        return f"{self.place}, utterance {utterance.id!r}"

    @contextmanager
    def naming(self, utterance: UtteranceRecord, modality: Modality) -> Iterator[None]:
        """Put before an error inside the block which line and utterance it belongs to."""
        try:
            yield
        except UserError as error:
            raise UserError(f"{self._where(utterance)}, {modality}: {error}") from None

    def _needs_features(
        self, utterance: UtteranceRecord, modality: Modality, reads_tokens: bool
    ) -> bool:
        if modality != "text" or not reads_tokens:
            return True
        if utterance.text is None:
            raise UserError(f"{self._where(utterance)}: no text, which the model needs; give it")
        return False

    def _features(
        self,
        utterance: UtteranceRecord,
        modality: Modality,
        model: ModelConfig,
        encoders: Mapping[Modality, MediaEncoder],
    ) -> FeatureSlice:
        where = self._where(utterance)
        given = utterance.features.get(modality)
        if given is None and modality in utterance.media:
            if modality not in encoders:
                raise UserError(
                    f"{where}: {modality} is a media file, and the model reads features: give "
                    f"--{modality}-encoder, the encoder it was trained on, or name a file of "
                    f"features as features.{modality}"
                )
            with self.naming(utterance, modality):
                encoders[modality].check([utterance.media[modality]])
                given = encoders[modality](utterance.media[modality])
        if given is None:
            what = "word vectors" if modality == "text" else f"{modality} features"
            raise UserError(
                f"{where}: no {what}, which the model needs (it sees "
                f"{', '.join(model.modalities)}); name a file as features.{modality}"
            )
        source: _Array | _File
        if isinstance(given, str | Path):
            source = _File(self.folder / given, f"{where}, {modality}")
        else:
            source = _Array(given, f"{where}, {modality}")
        if len(source.shape) != 2 or source.shape[0] == 0:
            raise UserError(
                f"{source.place}: the features have the shape {list(source.shape)}, not "
                "[steps, size] with at least one step; mend them"
            )
        steps, size = source.shape
        if size != model.feature_size(modality):
            raise UserError(
                f"{source.place}: the features have {size} columns, the model reads "
                f"{model.feature_size(modality)}; extract them with what it was trained on"
            )
        return FeatureSlice(source=source, start=0, steps=steps, size=size)


class _Source:
    """One feature sequence; `read` gives its first steps."""

    place: str
    shape: tuple[int, ...]

    def first(self, steps: int) -> Tensor:
        raise NotImplementedError

    def read(self, start: int, steps: int) -> Tensor:
        values = self.first(start + steps)[start:]
        if not values.is_floating_point():
            raise UserError(f"{self.place}: the features are {values.dtype}, not floating point")
        values = values.float()
        if not bool(values.isfinite().all()):
            row = int((~values.isfinite()).any(dim=1).nonzero()[0, 0]) + 1
            raise UserError(
                f"{self.place}: NaN or infinite feature at step {row}; extract them anew"
            )
        return values


class _Array(_Source):
    """Features that are in memory: anything numpy takes, or a tensor."""

    def __init__(self, values: Any, place: str) -> None:
        self.place = place
        try:
            self._values = values if isinstance(values, Tensor) else torch.tensor(np.array(values))
        except (TypeError, ValueError):
            raise UserError(f"{place}: the features are no array of numbers; mend them") from None
        self.shape = tuple(self._values.shape)

    def first(self, steps: int) -> Tensor:
        return self._values[:steps]


class _File(_Source):
    """A file of features, opened for its head and again for its values."""

    def __init__(self, path: Path, place: str) -> None:
        self.path, self.place = path, f"{place}: {path}"
        self._tensor = _TENSOR
        if path.suffix not in (".npy", ".safetensors"):
            raise UserError(f"{self.place}: neither .npy nor .safetensors; convert it")
        self.shape = tuple(self._read(None))

    def first(self, steps: int) -> Tensor:
        values = self._read(steps)
        if not isinstance(values, Tensor):
            raise UserError(f"{self.place}: no array of numbers in it; write the file anew")
        return values

    def _read(self, steps: int | None) -> Any:
        """The first steps, or the shape."""
        try:
            if self.path.suffix == ".npy":
                array = np.load(self.path, mmap_mode="r", allow_pickle=False)
                if steps is None:
                    return array.shape
                return torch.from_numpy(np.array(array[:steps]))
            with safe_open(self.path, framework="pt") as file:
                names = list(file.keys())
                name = names[0] if len(names) == 1 else _TENSOR
                if name not in names:
                    raise UserError(
                        f"{self.place}: {len(names)} tensors in it, none named {_TENSOR!r}; "
                        "give a file with one"
                    )
                part = file.get_slice(name)
                return part.get_shape() if steps is None else part[:steps]
        except (OSError, ValueError, TypeError, EOFError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or first_line(error)
            raise UserError(f"{self.place}: cannot be read ({reason})") from None


def parse_dialogue(record: Any, *, number: int, place: str, folder: Path) -> DialogueRecord:
    """Check the object of one dialogue.

    Args:
        record: a mapping as in the module's docstring; features may also be arrays.
        number: its number, from 1, for the name of one without an id.
        place: where it stands, for messages.
        folder: what relative paths start at.

    Raises:
        UserError: it is something else; the message names the place.
    """
    if not isinstance(record, Mapping):
        raise UserError(f"{place}: not an object with utterances; see docs/predict.md")
    name = _name(record, str(number), place)
    utterances = record.get("utterances")
    if not isinstance(utterances, list | tuple) or not utterances:
        raise UserError(f"{place}: utterances must be a list of at least one; give them")
    parsed: dict[str, UtteranceRecord] = {}
    for k, one in enumerate(utterances):
        here = f"{place}, utterance {k + 1}"
        if not isinstance(one, Mapping):
            raise UserError(f'{here}: not an object; write {{"text": ...}}')
        own = _name(one, f"{name}_{k}", here)
        if own in parsed:
            raise UserError(f"{here}: the id {own!r} comes twice in this dialogue; mend one")
        text = one.get("text")
        if text is not None and not isinstance(text, str):
            raise UserError(f"{here}: text is {type(text).__name__}, not a string; mend it")
        _check_unicode(text or "", f"{here}: text")
        features = one.get("features") or {}
        if not isinstance(features, Mapping) or not set(features) <= set(MODALITIES):
            raise UserError(
                f"{here}: features must be an object with {', '.join(MODALITIES)}; mend it"
            )
        parsed[own] = UtteranceRecord(
            id=own,
            text=text,
            features={m: features[m] for m in MODALITIES if features.get(m) is not None},
            media=_media(one, here, folder),
        )
    return DialogueRecord(id=name, utterances=tuple(parsed.values()), place=place, folder=folder)


def _media(one: Mapping[str, Any], here: str, folder: Path) -> dict[Modality, Clip]:
    times: list[float | None] = []
    for name in ("start", "end"):
        value = one.get(name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (number and 0 <= value < math.inf):
            raise UserError(f"{here}: {name} is no time in seconds; mend it")
        times.append(value)
    start, end = times[0] or 0.0, times[1]
    if end is not None and end <= start:
        raise UserError(f"{here}: from {start:g} s to {end:g} s is no stretch of time; mend it")
    media: dict[Modality, Clip] = {}
    for modality in MODALITIES[1:]:
        path = one.get(modality)
        if path is not None:
            if not isinstance(path, str | Path) or not str(path):
                raise UserError(f"{here}: {modality} is not the path of a media file; mend it")
            media[modality] = Clip(path=folder / path, start=start, end=end)
    return media


def _name(record: Mapping[str, Any], default: str, place: str) -> str:
    name = record.get("id", default)
    if isinstance(name, int) and not isinstance(name, bool):
        name = str(name)
    if not isinstance(name, str) or not name:
        raise UserError(f"{place}: id must be a string that is not empty; mend it")
    _check_unicode(name, f"{place}: id")
    return name


def _check_unicode(text: str, what: str) -> None:
    """UserError where a text cannot be written: JSON may hold a half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ascii(text[error.start])[1:-1]
        raise UserError(f"{what} holds {half}, which is half a character; mend it") from None


def read_dialogues(
    file: BinaryIO, source: str, *, folder: Path
) -> Iterator[tuple[DialogueRecord, int]]:
    """Read JSON lines one by one; blank lines are passed over.

    Args:
        file: open for reading bytes.
        source: its name, for messages.
        folder: what relative paths start at.

    Yields:
        A dialogue, and the bytes that it and what was before it took.

    Raises:
        UserError: a line is not a dialogue; its number is named.
    """
    read = 0
    for number, line in enumerate(_lines(file, source), 1):
        read += len(line)
        place = f"{source}, line {number}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            if not text:
                continue
            record = json.loads(text)
        except UnicodeDecodeError as error:
            raise UserError(f"{place}: not UTF-8 at byte {error.start + 1}; mend it") from None
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", None) or str(error)
            column = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
            raise UserError(f"{place}: not JSON ({reason}{column}); mend it") from None
        yield parse_dialogue(record, number=number, place=place, folder=folder), read


def _lines(file: BinaryIO, source: str) -> Iterator[bytes]:
    try:
        yield from file
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror or error})") from None
