"""A folder of feature sequences, one per utterance.

    FOLDER/index.jsonl      {"kind": "features", ...}, which may be left out, and then for each
                            utterance {"id": "a_1", "file": "0.safetensors", "steps": T, "size": F}
    FOLDER/*.safetensors    "features" [T, F], floating point

Instead of steps and size a line may have "shape": [T, F]; with "key" a file may hold many tensors.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from univa.batch import Modality
from univa.data.corpus import FeatureSlice
from univa.errors import UserError
from univa.utils.text_files import at, check_modality, read_text

__all__ = ["INDEX", "FeatureFolder", "read_feature_folder"]

INDEX = "index.jsonl"
_MEND = "mend the line or extract the features anew"


class FeatureFolder:
    """Reads the sequences of a folder, one at a time.

    Args:
        folder: the folder.
        entries: (utterance id, file, key, steps, size) of each sequence.
    """

    def __init__(self, folder: Path, entries: list[tuple[str, str, str, int, int]]) -> None:
        self.folder = folder
        self.entries = entries
        self._open: tuple[str, Any] | None = None

    def read(self, start: int, steps: int) -> Tensor:
        """First steps of sequence `start`: [steps, F] float32.

        Raises:
            UserError: the file is missing or damaged, is not what the index says, or holds NaN or
                infinity.
        """
        name, file, key, length, size = self.entries[start]
        path = self.folder / file
        try:
            if self._open is None or self._open[0] != file:
                self._open = (file, safe_open(path, framework="pt"))
            part = self._open[1].get_slice(key)
            shape = list(part.get_shape())
            if shape != [length, size]:
                raise UserError(
                    f"{path}: {key!r} has the shape {shape}, not {[length, size]} as {INDEX} says; "
                    "extract the features anew"
                )
            values: Tensor = part[:steps]
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"{path}: no features of utterance {name!r} can be read ({error}); extract them "
                "anew"
            ) from None
        if not values.is_floating_point():
            raise UserError(
                f"{path}: {key!r} is {values.dtype}; features must be floating point: write them "
                "anew"
            )
        values = values.to(torch.float32)
        if not bool(values.isfinite().all()):
            row = int((~values.isfinite()).any(dim=1).nonzero()[0, 0]) + 1
            raise UserError(
                f"{path}: NaN or infinite feature of utterance {name!r} at step {row}; extract the "
                "features anew, or take the utterance out"
            )
        return values


def read_feature_folder(
    folder: Path, modality: Modality
) -> tuple[dict[str, FeatureSlice], list[Path]]:
    """Read the index of a folder.

    Args:
        folder: the folder.
        modality: whose features these must be, where the index says whose they are.

    Returns:
        Utterance id -> its features, and the files that were named.

    Raises:
        UserError: the index is missing or a line of it is odd; a file is missing; the features
            are of another modality.
    """
    index = folder / INDEX
    text = read_text(index, mend="give a finished folder of `univa data extract-audio` or -vision")
    entries: list[tuple[str, str, str, int, int]] = []
    known: set[str] = set()
    for row, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
            if row == 1 and values.get("kind") == "features":
                said = values.get("modality")
                mend = f"give them with --{said}-features"
                check_modality(index, "features", said, modality, mend=mend)
                continue
            name, file, key = values["id"], values["file"], values.get("key", "features")
            steps, size = values.get("shape") or (values["steps"], values["size"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            what = f"{type(error).__name__}: {error}"
            raise UserError(
                f"{at(index, row)}: no object with id, file, steps, size ({what}); {_MEND}"
            ) from None
        if not all(isinstance(item, str) for item in (name, file, key)):
            raise UserError(f"{at(index, row)}: id, file and key must be texts; {_MEND}")
        if not all(type(item) is int and item > 0 for item in (steps, size)):
            raise UserError(
                f"{at(index, row)}: shape {[steps, size]} is not [steps, size] above 0; {_MEND}"
            )
        if Path(file).is_absolute() or ".." in Path(file).parts:
            raise UserError(f"{at(index, row)}: file {file!r} is not inside the folder; {_MEND}")
        if name in known:
            raise UserError(f"{at(index, row)}: utterance {name!r} comes twice; keep one line")
        known.add(name)
        entries.append((name, file, key, steps, size))
    if not entries:
        raise UserError(f"{index}: no features in it; {_MEND}")
    files = [folder / file for file in sorted({entry[1] for entry in entries})]
    for path in files:
        if not path.is_file():
            raise UserError(f"{path}: no such file, but {INDEX} names it; extract it anew")
    source = FeatureFolder(folder, entries)
    places = {
        entry[0]: FeatureSlice(source=source, start=number, steps=entry[3], size=entry[4])
        for number, entry in enumerate(entries)
    }
    return places, [index, *files]
