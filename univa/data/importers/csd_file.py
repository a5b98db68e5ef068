"""Computational sequences of the CMU Multimodal SDK: HDF5 files (`.csd`), read by h5py.

    <root>/data/<video>/features     [n, F] numbers, or words
    <root>/data/<video>/intervals    [n, 2] seconds
    <root>/metadata/<name>           a byte string, or an array of one string, of JSON

Sequences that the SDK has aligned have `<video>[0]`, `<video>[1]`, ... for the segments of a video;
they are put together again.

A row belongs to a segment of a video where their intervals have more than 1e-5 s in common, which
is the SDK's rule: a row that straddles the border of two segments belongs to both.
"""

from __future__ import annotations

import importlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from univa.errors import UserError, first_line

__all__ = ["OVERLAP_SECONDS", "Csd", "Segment", "SegmentFeatures", "video_of"]

OVERLAP_SECONDS = 1e-5
_MEND = "give a computational sequence as the CMU Multimodal SDK writes it"
# What h5py raises where a file is damaged or laid out in another way.
_ODD = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError)
_SILENCE = {"sp", "sil"}


def video_of(key: str) -> str:
    """The video of a key: `abc` of `abc` and of `abc[3]`."""
    return key.split("[")[0]


@dataclass(frozen=True)
class Segment:
    """A stretch of a video.

    Attributes:
        id: name of the utterance.
        video: name of the video.
        start: seconds.
        end: seconds.
    """

    id: str
    video: str
    start: float
    end: float


class Csd:
    """An open computational sequence.

    Args:
        path: the file.

    Attributes:
        path: the file.
        keys: video -> keys of its parts, in order.
        metadata: name -> value.

    Raises:
        UserError: h5py is not installed; the file is missing, no HDF5 or of another layout.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            h5py = importlib.import_module("h5py")
        except ImportError as error:
            raise UserError(
                f"{path}: computational sequences need the package h5py ({error}): "
                "pip install 'univa[csd]'"
            ) from None
        if not path.is_file():
            raise UserError(f"{path}: no such file; {_MEND}")
        try:
            self._file = h5py.File(path, "r")
            roots = [self._file[name] for name in self._file]
            (root,) = [r for r in roots if isinstance(r, h5py.Group) and "data" in r]
            self._data = root["data"]
            names = list(self._data)
            self.metadata = {
                name: _decoded(value[()]) for name, value in root.get("metadata", {}).items()
            }
        except _ODD as error:
            raise UserError(
                f"{path}: no computational sequence <root>/data/<video> "
                f"({first_line(error)}); {_MEND}"
            ) from None
        self.keys: dict[str, list[str]] = {}
        for name in sorted(names, key=_place):
            self.keys.setdefault(video_of(name), []).append(name)
        if not self.keys:
            raise UserError(f"{path}: no video in it; {_MEND}")
        self._last: tuple[str, list[Any], NDArray[np.float64]] | None = None

    def entry(self, key: str) -> tuple[Any, NDArray[np.float64]]:
        """Features (left on disk, [n, F]) and intervals [n, 2] of one part of a video.

        Raises:
            UserError: one of the two is missing, cannot be read, or does not fit the other.
        """
        try:
            features, intervals = self._data[key]["features"], self._data[key]["intervals"]
            times = np.asarray(intervals, dtype=np.float64)
            times = times[None, :] if times.ndim == 1 and len(times) == 2 else times
            if len(features.shape) == 1:  # the SDK lets a single row be a vector
                features = features[()][None, :] if len(times) == 1 else features[()][:, None]
            if times.shape != (len(times), 2) or features.shape[:1] != times.shape[:1]:
                raise ValueError(f"features {features.shape}, intervals {times.shape}")
            if len(features.shape) != 2 or not np.isfinite(times).all():
                raise ValueError(f"features {features.shape}, or a time that is not finite")
        except _ODD as error:
            raise UserError(
                f"{self.path}: video {key!r} has no features [n, F] with intervals [n, 2] "
                f"({first_line(error)}); {_MEND}"
            ) from None
        return features, times

    def numbers(self, key: str) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Features [n, F] and intervals [n, 2] of one part of a video, read.

        Raises:
            UserError: as `entry`; the features are words.
        """
        features, times = self.entry(key)
        if features.dtype.kind not in "fiu":
            raise UserError(f"{self.path}: video {key!r} has words, not numbers; give the labels")
        return self._rows(key, features, 0, len(features)), times

    def size(self) -> int:
        """F, the numbers of a row.

        Raises:
            UserError: the rows are words.
        """
        features, _ = self.entry(next(iter(self.keys.values()))[0])
        if features.dtype.kind not in "fiu":
            raise UserError(f"{self.path}: its features are words, not numbers; {_MEND}")
        return int(features.shape[1])

    def overlapping(self, segment: Segment) -> NDArray[Any]:
        """The rows of a segment in the order of their starts: [n, F], n perhaps 0."""
        parts, times = self._video(segment.video)
        if not parts:
            return np.empty((0, 1))
        common = np.minimum(times[:, 1], segment.end) - np.maximum(times[:, 0], segment.start)
        rows = np.flatnonzero(common > OVERLAP_SECONDS)
        found, offset = [], 0
        for features in parts:
            inside = rows[(rows >= offset) & (rows < offset + len(features))] - offset
            if len(inside):
                first = inside[0]
                values = self._rows(segment.video, features, first, inside[-1] + 1)
                found.append(values[inside - first])
            offset += len(features)
        if not found:
            return np.empty((0, 1))
        return np.concatenate(found)[np.argsort(times[rows, 0], kind="stable")]

    def words(self, segment: Segment) -> str:
        """The words of a segment, without pauses.

        Raises:
            UserError: the rows are numbers.
        """
        found = self.overlapping(segment)
        if len(found) and found.dtype.kind in "fiu":
            raise UserError(
                f"{self.path}: its features are numbers, not words; give TimestampedWords, or a "
                "table with id and text"
            )
        rows = found.reshape(-1).tolist()
        words = (row.decode("utf-8", "replace") if isinstance(row, bytes) else row for row in rows)
        return " ".join(w for w in map(str, words) if w and w not in _SILENCE)

    def _rows(self, key: str, features: Any, first: int, end: int) -> NDArray[Any]:
        try:
            return np.asarray(features[first:end])
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"{self.path}: video {key!r} is damaged ({first_line(error)}); get the file anew"
            ) from None

    def _video(self, video: str) -> tuple[list[Any], NDArray[np.float64]]:
        """Parts and intervals [n, 2] of a video; those of the last one are kept."""
        if self._last is None or self._last[0] != video:
            entries = [self.entry(key) for key in self.keys.get(video, [])]
            times = np.concatenate([times for _, times in entries] or [np.empty((0, 2))])
            self._last = (video, [features for features, _ in entries], times)
        return self._last[1], self._last[2]


class SegmentFeatures:
    """The rows of one sequence that belong to each of many segments.

    Args:
        csd: the sequence.
        segments: whose rows; `read` counts them from 0.
        non_finite: what a row with NaN or infinity becomes: "drop" leaves it out, "zero" sets its
            bad numbers to 0, "error" lets it be.
    """

    def __init__(self, csd: Csd, segments: list[Segment], *, non_finite: str) -> None:
        self.csd, self.segments, self.non_finite = csd, segments, non_finite
        self.size = csd.size()

    def rows(self, number: int) -> tuple[NDArray[np.float32], int]:
        """Rows [n, F] of a segment after the treatment, and how many were not finite."""
        segment = self.segments[number]
        found = self.csd.overlapping(segment)
        if not len(found):
            return np.empty((0, self.size), np.float32), 0
        if found.shape[1] != self.size:
            raise UserError(
                f"{self.csd.path}: video {segment.video!r} has {found.shape[1]} numbers in a row, "
                f"others have {self.size}; {_MEND}"
            )
        with np.errstate(over="ignore"):
            values = found.astype(np.float32)
        bad = ~np.isfinite(values)
        rows = bad.any(axis=1)
        if self.non_finite == "drop":
            values = values[~rows]
        elif self.non_finite == "zero":
            values[bad] = 0
        return values, int(rows.sum())

    def read(self, start: int, steps: int) -> Tensor:
        """First steps of segment `start`: [steps, F] float32; one of zeros where it has none."""
        values, _ = self.rows(start)
        if not len(values):
            values = np.zeros((1, self.size), np.float32)
        return torch.from_numpy(values[:steps])


def _decoded(value: Any) -> Any:
    """A value of the metadata: JSON in a string, or in an array of one string."""
    if isinstance(value, np.ndarray):
        value = value.reshape(-1)[0] if value.size else ""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    try:
        return json.loads(text)
    except ValueError:
        return text


def _place(key: str) -> tuple[str, int]:
    number = re.search(r"\[(\d+)\]$", key)
    return video_of(key), int(number[1]) if number else -1
