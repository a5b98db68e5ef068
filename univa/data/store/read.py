"""A store of features: safetensors shards without padding, and a manifest that describes them.

    STORE/manifest.jsonl                    one JSON object per line, see below
    STORE/train-audio-00000.safetensors     "features" [steps, F]: many sequences, one after another

Lines of the manifest, told apart by "kind": one `store` (version, labels, dtype, feature sizes);
one `shard` for each file (bytes, SHA-256); one `utterance` for each utterance, split after split
and dialogue after dialogue (ids, text, labels, valence-arousal scores as given, and for each
modality shard, first step and steps); one `end` with the SHA-256 of all lines before it.

Opening a store looks at the size of every shard that it offers. Shards are mapped when one of their
sequences is asked for, and checked against their SHA-256 once in a run; the workers of a run share
what has been checked. Training checks those of the validation and test splits before its first
step: their damage must not show after hours.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from univa.batch import MODALITIES, Modality
from univa.data.corpus import Corpus, Dialogue, FeatureSlice, LazyFeatures, Split, Utterance
from univa.errors import UserError

__all__ = [
    "MALFORMED",
    "MANIFEST",
    "VERSION",
    "Shard",
    "check_shards",
    "file_sha256",
    "malformed",
    "open_manifest",
    "read_manifest",
    "read_store",
    "shards_of",
]

MANIFEST = "manifest.jsonl"
PROGRESS = "progress.jsonl"
VERSION = 1
# The conversion keeps what is sound: shards whose checksum fits are not written again.
MEND = f"delete {MANIFEST} there and run the same `univa data` command again"
_NAME = re.compile(r"[\w-]+\.safetensors", re.ASCII)  # no path: a manifest leads nowhere else
_DTYPES = {"float32": "F32", "float16": "F16"}
MALFORMED = (KeyError, TypeError, ValueError, IndexError, AttributeError)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Shard:
    """One file of feature vectors.

    Args:
        path: the file.
        size_bytes: how large the file must be.
        sha256: what its SHA-256 must be.
        rows: feature vectors in it.
        size: F.
        dtype: "float32" or "float16".
        checked: flags that all processes of a run share, one per shard.
        place: which flag is this shard's.
    """

    def __init__(
        self,
        path: Path,
        *,
        size_bytes: int,
        sha256: str,
        rows: int,
        size: int,
        dtype: str,
        checked: Tensor,
        place: int,
    ) -> None:
        self.path, self.sha256, self.rows, self.size = path, sha256, rows, size
        self.size_bytes = size_bytes
        self.dtype, self._checked, self._place = dtype, checked, place
        self._mapped: NDArray[Any] | None = None

    def read(self, start: int, steps: int) -> Tensor:
        """The sequence of `steps` vectors that starts at `start`: [steps, F] float32.

        Raises:
            UserError: the file is missing, or is not what the manifest says.
        """
        if self._mapped is None:
            self._mapped = self._open()
        return torch.from_numpy(self._mapped[start : start + steps].astype(np.float32))

    def check_size(self) -> None:
        """Look whether the file is there and as large as it should be, without reading it.

        Raises:
            UserError: it is not.
        """
        try:
            found = self.path.stat().st_size
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror}); {MEND}") from None
        if found != self.size_bytes:
            raise UserError(
                f"{self.path}: damaged, it has {found} bytes, not {self.size_bytes}; {MEND}"
            )

    def check(self) -> None:
        """Compare the file with its SHA-256, once.

        Raises:
            UserError: it is missing or damaged.
        """
        if self._checked[self._place]:
            return
        try:
            found = file_sha256(self.path)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror}); {MEND}") from None
        if found != self.sha256:
            raise UserError(
                f"{self.path}: damaged, its SHA-256 is {found[:12]}..., not {self.sha256[:12]}...; "
                + MEND
            )
        self._checked[self._place] = 1

    def _open(self) -> NDArray[Any]:
        self.check()
        with self.path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            entry = json.loads(file.read(length))["features"]
        if entry["shape"] != [self.rows, self.size] or entry["dtype"] != _DTYPES[self.dtype]:
            raise UserError(f"{self.path}: not of the shape in the manifest; {MEND}")
        start = 8 + length + entry["data_offsets"][0]
        shape = (self.rows, self.size)
        return np.memmap(self.path, self.dtype, "r", start, shape)


def read_manifest(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of a manifest but for the last, checked as a whole.

    Raises:
        UserError: the manifest is missing, cut off or damaged.
    """
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; give the folder of a store") from None
        raise UserError(
            f"{path}: no such file; the store was not finished: run the same `univa data` command "
            "again"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {MEND}") from None
    cut = content.rstrip(b"\n").rfind(b"\n") + 1
    try:
        end = json.loads(content[cut:])
        whole = end["kind"] == "end" and end["sha256"] == hashlib.sha256(content[:cut]).hexdigest()
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise UserError(f"{path}: damaged or cut off (its SHA-256 does not fit); {MEND}")
    return (json.loads(line) for line in content[:cut].splitlines())


def open_manifest(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The first line of a manifest, and those between it and the last.

    Raises:
        UserError: as `read_manifest`; or it is of another version.
    """
    lines = list(read_manifest(folder))
    head = lines[0] if lines and isinstance(lines[0], dict) else {}
    if head.get("kind") != "store" or head.get("version") != VERSION:
        raise UserError(
            f"{folder / MANIFEST}: version {head.get('version')!r} of the format, this reads "
            f"{VERSION}; convert the data again, into another folder"
        )
    return head, lines[1:]


def malformed(folder: Path, error: BaseException) -> UserError:
    """What to raise where a manifest's lines are not as expected, one of `MALFORMED`."""
    what = f"{type(error).__name__}: {error}"
    return UserError(f"{folder / MANIFEST}: not what `univa data` writes ({what}); {MEND}")


def read_store(
    folder: Path | str,
    *,
    modalities: Sequence[Modality] = MODALITIES,
    text: Literal["tokens", "vectors"] = "tokens",
) -> Corpus:
    """Open a store.

    Args:
        folder: the store.
        modalities: which features to offer.
        text: "vectors" offers the word vectors, with the scores that go with them.

    Returns:
        The corpus; features are read from their shards when they are asked for.

    Raises:
        UserError: the manifest is missing or damaged, of another version, or has no such features.
    """
    folder = Path(folder)
    head, lines = open_manifest(folder)
    tokens = text == "tokens"
    wanted = [m for m in MODALITIES if m in modalities and not (m == "text" and tokens)]
    utterances: dict[str, list[Utterance]] = {"train": [], "valid": [], "test": []}
    try:
        for modality in wanted:
            if modality not in head["features"]:
                raise UserError(
                    f"{folder}: no {modality} features in this store; take {modality} out of "
                    "--model.modalities, or convert the data with them"
                )
        shards = shards_of(folder, head, lines)
        for line in lines:
            if line["kind"] == "utterance":
                utterances[line["split"]].append(_utterance(line, wanted, tokens, shards))
        source, labels = str(folder), tuple(head["labels"])
        used = {place.source for us in utterances.values() for u in us for place in _places(u)}
    except MALFORMED as error:
        raise malformed(folder, error) from None
    for shard in shards.values():
        if shard in used:
            shard.check_size()
    splits = {
        name: Split(
            name=name,
            dialogues=tuple(
                Dialogue(id=dialogue, utterances=tuple(group))
                for dialogue, group in groupby(items, key=lambda item: item.dialogue_id)
            ),
        )
        for name, items in utterances.items()
    }
    return Corpus(label_names=labels, source=source, **splits)


def check_shards(split: Split) -> None:
    """Compare the shards that a split's features lie in with their SHA-256, each once in a run.

    Args:
        split: of any corpus; what is not in a store is let pass.

    Raises:
        UserError: one is missing or damaged.
    """
    for utterance in split.utterances:
        for place in _places(utterance):
            if isinstance(place.source, Shard):
                place.source.check()


def _places(utterance: Utterance) -> Iterator[FeatureSlice]:
    if isinstance(utterance.features, LazyFeatures):
        yield from utterance.features.places.values()


def shards_of(folder: Path, head: dict[str, Any], lines: list[dict[str, Any]]) -> dict[str, Shard]:
    """The shards that the lines of a manifest name: name -> shard."""
    lines = [line for line in lines if line["kind"] == "shard"]
    checked = torch.zeros(len(lines), dtype=torch.uint8).share_memory_()
    shards: dict[str, Shard] = {}
    for place, line in enumerate(lines):
        if not _NAME.fullmatch(line["name"]):
            raise ValueError(f"{line['name']!r} is no name of a shard")
        shards[line["name"]] = Shard(
            folder / line["name"],
            size_bytes=int(line["bytes"]),
            sha256=str(line["sha256"]),
            rows=int(line["rows"]),
            size=int(head["features"][line["modality"]]),
            dtype={name: name for name in _DTYPES}[head["dtype"]],
            checked=checked,
            place=place,
        )
    return shards


def _utterance(
    line: dict[str, Any], wanted: Sequence[Modality], tokens: bool, shards: dict[str, Shard]
) -> Utterance:
    places: dict[Modality, FeatureSlice] = {}
    for modality in wanted:
        shard, start, steps = line["features"][modality]
        source = shards[shard]
        if not 0 <= start < start + steps <= source.rows:
            raise ValueError(f"steps {start} to {start + steps} of {source.rows} in {shard}")
        places[modality] = FeatureSlice(source=source, start=start, steps=steps, size=source.size)
    names: dict[Modality, str] = {
        "text": "text" if tokens else "text_vectors",
        "audio": "audio",
        "vision": "vision",
    }
    return Utterance(
        id=line["id"],
        dialogue_id=line["dialogue"],
        text=line["text"],
        labels=torch.tensor(line["labels"], dtype=torch.float32),
        coordinates={
            modality: (line["va"][name][0], line["va"][name][1])
            for modality, name in names.items()
            if name in line["va"]
        },
        features=LazyFeatures(places),
    )
