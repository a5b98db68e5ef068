"""An array that stays in its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["PickledArray"]


class PickledArray:
    """An array inside a pickle, mapped when it is asked for.

    Attributes:
        path: the file.
        dtype: of the elements; never an object dtype.
        shape: the array's shape.
        offset: first byte of the elements in the file.
        fortran: True where the first axis runs fastest.
    """

    def __init__(
        self,
        path: Path,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        offset: int,
        *,
        fortran: bool = False,
    ) -> None:
        self.path, self.dtype, self.shape, self.offset = path, dtype, shape, offset
        self.fortran = fortran and len(shape) > 1

    def __repr__(self) -> str:
        return f"PickledArray({self.dtype}, {self.shape}, byte {self.offset} of {self.path})"

    def __len__(self) -> int:
        return self.shape[0]

    def load(self) -> NDArray[Any]:
        """The whole array, read-only; its pages come from the file as they are touched."""
        return self._map(self.offset, self.shape, "F" if self.fortran else "C")

    def row(self, index: int, stop: int | None = None) -> NDArray[Any]:
        """One entry of the first axis, mapping only that entry's bytes.

        Args:
            index: which entry, from 0.
            stop: with it, only the first so many entries of the second axis.
        """
        if not 0 <= index < self.shape[0]:
            raise IndexError(f"row {index} of {self.shape[0]}")
        if self.fortran:
            return self.load()[index][:stop]
        shape = self.shape[1:]
        size = int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize
        if stop is not None and shape:
            shape = (min(stop, shape[0]), *shape[1:])
        return self._map(self.offset + index * size, shape, "C")

    def _map(self, offset: int, shape: tuple[int, ...], order: str) -> NDArray[Any]:
        if 0 in shape:
            return np.zeros(shape, self.dtype)
        whole = shape or (1,)
        mapped = np.memmap(self.path, self.dtype, "r", offset, whole, order=order)  # type: ignore[call-overload]
        return np.asarray(mapped).reshape(shape, order=order)  # type: ignore[call-overload]
