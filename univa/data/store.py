"""A store of features: safetensors shards without padding, and a manifest that describes them.

    STORE/manifest.jsonl                    one JSON object per line, see below
    STORE/train-audio-00000.safetensors     "features" [steps, F]: many sequences, one after another

Lines of the manifest, told apart by "kind": one `store` (version, labels, dtype, feature sizes);
one `shard` for each file (bytes, SHA-256); one `utterance` for each utterance, split after split
and dialogue after dialogue (ids, text, labels, valence-arousal scores as given, and for each
modality shard, first step and steps); one `end` with the SHA-256 of all lines before it.

Shards are mapped when one of their sequences is asked for, and checked against their SHA-256 once
in a run; the workers of a run share what has been checked.
"""

from __future__ import annotations

import hashlib
import json
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
from univa.data.corpus import Corpus, Dialogue, LazyFeatures, Place, Split, Utterance
from univa.errors import UserError

__all__ = ["MANIFEST", "VERSION", "Shard", "file_sha256", "read_manifest", "read_store"]

MANIFEST = "manifest.jsonl"
VERSION = 1
_MEND = "make the store again with `univa data convert`"
_DTYPES = {"float32": "F32", "float16": "F16"}


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Shard:
    """One file of feature vectors.

    Args:
        path: the file.
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
        sha256: str,
        rows: int,
        size: int,
        dtype: str,
        checked: Tensor,
        place: int,
    ) -> None:
        self.path, self.sha256, self.rows, self.size = path, sha256, rows, size
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
            raise UserError(f"{self.path}: cannot be read ({error.strerror}); {_MEND}") from None
        if found != self.sha256:
            raise UserError(
                f"{self.path}: damaged, its SHA-256 is {found[:12]}..., not {self.sha256[:12]}...; "
                f"delete it and {_MEND}"
            )
        self._checked[self._place] = 1

    def _open(self) -> NDArray[Any]:
        self.check()
        with self.path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            entry = json.loads(file.read(length))["features"]
        if entry["shape"] != [self.rows, self.size] or entry["dtype"] != _DTYPES[self.dtype]:
            raise UserError(f"{self.path}: not of the shape in the manifest; {_MEND}")
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
        raise UserError(
            f"{path}: no such file; the store was not finished: run the same `univa data convert` "
            "again"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {_MEND}") from None
    cut = content.rstrip(b"\n").rfind(b"\n") + 1
    try:
        end = json.loads(content[cut:])
        whole = end["kind"] == "end" and end["sha256"] == hashlib.sha256(content[:cut]).hexdigest()
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise UserError(f"{path}: damaged or cut off (its SHA-256 does not fit); {_MEND}")
    return (json.loads(line) for line in content[:cut].splitlines())


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
    lines = read_manifest(folder)
    head = next(lines, {})
    if head.get("kind") != "store" or head.get("version") != VERSION:
        raise UserError(
            f"{folder / MANIFEST}: version {head.get('version')!r} of the format, this reads "
            f"{VERSION}; {_MEND}"
        )
    tokens = text == "tokens"
    wanted = [m for m in MODALITIES if m in modalities and not (m == "text" and tokens)]
    for modality in wanted:
        if modality not in head["features"]:
            raise UserError(
                f"{folder}: no {modality} features in this store; take {modality} out of "
                "--model.modalities, or convert the data with them"
            )
    checked = torch.zeros(head["shards"], dtype=torch.uint8).share_memory_()
    shards: dict[str, Shard] = {}
    utterances: dict[str, list[Utterance]] = {"train": [], "valid": [], "test": []}
    for line in lines:
        if line["kind"] == "shard":
            shards[line["name"]] = Shard(
                folder / line["name"],
                sha256=line["sha256"],
                rows=line["rows"],
                size=head["features"][line["modality"]],
                dtype=head["dtype"],
                checked=checked,
                place=len(shards),
            )
        else:
            found = _utterance(line, wanted, tokens, shards)
            utterances[line["split"]].append(found)
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
    return Corpus(label_names=tuple(head["labels"]), source=str(folder), **splits)


def _utterance(
    line: dict[str, Any], wanted: Sequence[Modality], tokens: bool, shards: dict[str, Shard]
) -> Utterance:
    places: dict[Modality, Place] = {}
    for modality in wanted:
        shard, start, steps = line["features"][modality]
        source = shards[shard]
        places[modality] = Place(source=source, start=start, steps=steps, size=source.size)
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
