"""Reader of the whole of the authors' file layout: text as `authors_text`, and features.

    FOLDER/preprocess_data/final_feat/A/MOSEI_train_audio_utt_VA.pkl      audio frames
    FOLDER/preprocess_data/final_feat/V/MOSEI_train_vision_utt_VA.pkl     video frames
    FOLDER/preprocess_data/final_feat/T/MOSEI_train_text_glove300_VA.pkl  GloVe word vectors

and the same for valid and test, and for M3ED. Each holds a zero-padded array [N, T, F], its mask
[N, T] and N pairs (valence, arousal); N runs over the utterances in the order of the structure
file. The arrays stay in their files: an utterance's own steps are mapped when a batch needs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from univa.batch import MODALITIES, Modality
from univa.data.corpus import Corpus, Dialogue, FeatureSlice, LazyFeatures, Split
from univa.data.sources.authors_text import read_authors_text
from univa.data.sources.safe_pickle import PickledArray, read_pickle
from univa.errors import UserError

__all__ = ["FeatureTable", "feature_file", "read_authors", "read_feature_table"]

_FOLDERS: dict[Modality, tuple[str, str]] = {
    "text": ("T", "text_glove300"),
    "audio": ("A", "audio_utt"),
    "vision": ("V", "vision_utt"),
}


@dataclass(frozen=True, kw_only=True)
class FeatureTable:
    """One feature file: an array of padded sequences and what belongs to it.

    Attributes:
        path: the file.
        array: [N, T, F], on disk.
        lengths: [N] int64 steps of each sequence, at least 1. A sequence without a step (nothing
            was found in it) counts as one step: the padding's zeros.
        empty: how many sequences have no step.
        coordinates: [N, 2] float64 (valence, arousal) as the file has them.
        labels: [N, L] that the file repeats, or None.
    """

    path: Path
    array: PickledArray
    lengths: NDArray[np.int64]
    empty: int
    coordinates: NDArray[np.float64]
    labels: NDArray[Any] | None

    def read(self, start: int, steps: int) -> Tensor:
        """First steps of sequence `start`: [steps, F] float32.

        Raises:
            UserError: a value is NaN or infinite.
        """
        values = np.array(self.array.row(start, steps), dtype=np.float32)
        if not np.isfinite(values).all():
            raise UserError(
                f"{self.path}: NaN or infinite feature in sequence {start}; mend the file"
            )
        return torch.from_numpy(values)


def feature_file(folder: Path, split: str, modality: Modality, *, otherwise: str = "") -> Path:
    """Path of one feature file; the data set's name before it may be any.

    Args:
        folder: the layout.
        split: whose.
        modality: of what.
        otherwise: what else than putting the file there may be done, in words.

    Raises:
        UserError: there is none, or more than one.
    """
    part, name = _FOLDERS[modality]
    here = folder / "preprocess_data" / "final_feat" / part
    found = sorted(here.glob(f"*_{split}_{name}_VA.pkl"))
    if len(found) == 1:
        return found[0]
    how_many = "no" if not found else "more than one"
    raise UserError(
        f"{here}: {how_many} file *_{split}_{name}_VA.pkl; put the {modality} features there"
        + (f", or {otherwise}" if otherwise else "")
    )


def read_feature_table(path: Path, split: str, modality: Modality, count: int) -> FeatureTable:
    """Read one feature file but for its array.

    Args:
        path: the file.
        split: which split it is for.
        modality: whose features it holds.
        count: utterances of the split.

    Raises:
        UserError: it is not a pickle of plain data, a part is missing or of a wrong shape, or a
            mask is not ones and then zeros.
    """
    content = read_pickle(path)
    if isinstance(content, dict) and split in content:
        content = content[split]
    names = (modality, f"{modality}_utt_mask", f"{modality}_VA_values")
    for name in names:
        if not isinstance(content, dict) or name not in content:
            raise UserError(f"{path}: no {name!r} in it; give the authors' file of split {split!r}")
    array, mask, scores = (content[name] for name in names)
    if isinstance(array, np.ndarray):
        raise UserError(
            f"{path}: written with pickle protocol 2 or older, which cannot be mapped; write it "
            "again with protocol 4"
        )
    if not isinstance(array, PickledArray) or len(array.shape) != 3 or array.dtype.kind != "f":
        raise UserError(
            f"{path}: {modality!r} must be an array [N, T, F] of floating-point numbers"
        )
    if array.shape[0] != count:
        raise UserError(
            f"{path}: {array.shape[0]} utterances, but the structure file has {count} in split "
            f"{split!r}; give the file that belongs to it"
        )
    mask = _loaded(mask)
    if mask is None or mask.shape != array.shape[:2]:
        raise UserError(f"{path}: {names[1]!r} must be of shape {array.shape[:2]}")
    real = mask != 0
    lengths = real.sum(axis=1).astype(np.int64)
    wrong = (real != (np.arange(array.shape[1]) < lengths[:, None])).any(axis=1).nonzero()[0]
    if len(wrong):
        raise UserError(
            f"{path}: the mask of sequence {wrong[0]} is not ones and then zeros; move its steps "
            "to the front"
        )
    points = _points(scores, count)
    if points is None:
        raise UserError(f"{path}: {names[2]!r} must be {count} pairs of valence and arousal")
    labels = _loaded(content.get("labels_class"))
    return FeatureTable(
        path=path,
        array=array,
        lengths=np.maximum(lengths, 1),
        empty=int((lengths == 0).sum()),
        coordinates=points,
        labels=labels,
    )


def _points(scores: Any, count: int) -> NDArray[np.float64] | None:
    """Pairs as an array; a list is looked through first: written out, a small file may be huge."""
    rows: Any = _loaded(scores)
    if rows is None:
        if not isinstance(scores, list | tuple) or len(scores) != count:
            return None
        rows = [_pair(item) for item in scores]
        if None in rows:
            return None
    elif rows.shape != (count, 2):
        return None
    try:
        return np.array(rows, np.float64)
    except (TypeError, ValueError, OverflowError):
        return None


def _pair(item: Any) -> list[Any] | None:
    if isinstance(item, PickledArray | np.ndarray):
        array = _loaded(item) if item.shape == (2,) else None
        return None if array is None else array.tolist()
    whole = isinstance(item, list | tuple) and len(item) == 2
    return list(item) if whole and all(isinstance(x, int | float | str) for x in item) else None


def _loaded(value: Any) -> NDArray[Any] | None:
    if isinstance(value, PickledArray):
        return value.load()
    return value if isinstance(value, np.ndarray) else None


def read_authors(
    folder: Path | str,
    *,
    modalities: Sequence[Modality] = MODALITIES,
    text: Literal["tokens", "vectors"] = "tokens",
    labels: Sequence[str] | None = None,
    va_file: Path | str | None = None,
    require_va: bool = False,
) -> Corpus:
    """Read text, labels, features and valence-arousal scores of the authors' layout.

    Args:
        folder: folder in the authors' layout, of CMU-MOSEI or M3ED.
        modalities: what to read; files of others need not be there.
        text: "vectors" reads GloVe vectors and the scores in their file, "tokens" the scores of
            the text in `raw_utt_text_textVA.json`.
        labels: as `read_authors_text`.
        va_file: as `read_authors_text`; for "tokens" only.
        require_va: whether absent scores of the text are an error.

    Returns:
        The corpus; features are read from their files when they are asked for.

    Raises:
        UserError: as `read_authors_text`, `read_feature_table`; labels in a feature file differ.
    """
    folder = Path(folder)
    tokens = text == "tokens"
    corpus = read_authors_text(
        folder,
        va_file=va_file,
        labels=labels,
        require_va=require_va and tokens and "text" in modalities,
        scores=tokens,
    )
    wanted = [m for m in MODALITIES if m in modalities and not (m == "text" and tokens)]
    splits = {
        name: _with_features(folder, split, wanted, check_labels=labels is None)
        for name, split in corpus.splits.items()
    }
    return Corpus(label_names=corpus.label_names, source=corpus.source, **splits)


def _with_features(
    folder: Path, split: Split, modalities: Sequence[Modality], *, check_labels: bool
) -> Split:
    tables = {
        modality: read_feature_table(
            feature_file(
                folder,
                split.name,
                modality,
                otherwise=f"take {modality} out of --model.modalities",
            ),
            split.name,
            modality,
            len(split),
        )
        for modality in modalities
    }
    for table in tables.values():
        if (
            check_labels
            and table.labels is not None
            and not np.array_equal(table.labels, split.labels.numpy())
        ):
            raise UserError(
                f"{table.path}: its labels are not those of split {split.name!r}; the file belongs "
                "to other utterances"
            )
    index, dialogues = 0, []
    for dialogue in split.dialogues:
        utterances = []
        for utterance in dialogue.utterances:
            places = {
                modality: FeatureSlice(
                    source=table,
                    start=index,
                    steps=int(table.lengths[index]),
                    size=table.array.shape[2],
                )
                for modality, table in tables.items()
            }
            points = {
                modality: (float(table.coordinates[index, 0]), float(table.coordinates[index, 1]))
                for modality, table in tables.items()
            }
            utterances.append(
                replace(
                    utterance,
                    features=LazyFeatures(places),
                    coordinates={**utterance.coordinates, **points},
                )
            )
            index += 1
        dialogues.append(Dialogue(id=dialogue.id, utterances=tuple(utterances)))
    return Split(name=split.name, dialogues=tuple(dialogues))
