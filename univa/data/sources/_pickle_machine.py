"""What every interpreter of pickles needs: the bytes, the stack, and a bound on the memory.

A few bytes of a pickle can ask for much memory or time: a memo names one value again and again, a
call makes a new value of it. So every value is charged for when it is made, out of one budget for
the file that is never refilled.
"""

from __future__ import annotations

import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from univa.errors import UserError

__all__ = ["MARK", "Bytes", "Machine", "PartArray", "PartDtype", "PartGlobal", "PartMark", "shown"]

_MAX_TEXT = 1 << 24  # bytes of one string; more is not data of ours
_MAX_WHOLE = 1 << 10  # bytes of one whole number, whose hash is worked out at each use
_BUDGET = 1 << 29  # bytes of all values of one file, each at about three times its size
_SHOWN = 80  # characters of a text of the file in a message
_OLD = "an array of pickle protocol 2 or older comes as text: write the file again with protocol 4"


@dataclass(frozen=True)
class PartGlobal:
    """A known name. It is not the thing."""

    kind: str


class PartMark:
    """Where a run of items starts on the stack."""


@dataclass
class Bytes:
    """Bytes of the file; `content` once they have been read."""

    offset: int
    size: int
    content: bytes | None = None


@dataclass
class PartDtype:
    """A dtype under construction."""

    dtype: np.dtype[Any]


@dataclass
class PartArray:
    """An array under construction; `value` once its state has come."""

    value: Any = None


MARK = PartMark()
_PARTS = (PartGlobal, Bytes, PartDtype, PartArray)


def shown(value: object) -> str:
    """A value of the file as a message may hold it: short, on one line, without control codes.

    Anything but a text is named by its type: to write a list out may take forever.
    """
    if not isinstance(value, str):
        return f"of type {type(value).__name__}"
    return repr(value[:_SHOWN]) + ("..." if len(value) > _SHOWN else "")


class Machine:
    """A file, a stack, a memo and a budget.

    Args:
        path: the file's name.
        file: the file, open.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.size = path.stat().st_size
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.charged = 0

    def refuse(self, what: str) -> UserError:
        """The error that says what is wrong, and where."""
        return UserError(
            f"{self.path}, byte {self.file.tell()}: {what}; only numpy arrays, lists, dicts, "
            "strings and numbers are read from a pickle"
        )

    def charge(self, size: int) -> None:
        """Take bytes out of the budget.

        Raises:
            UserError: it is spent.
        """
        self.charged += size
        if self.charged > _BUDGET:
            raise self.refuse(f"its values take more than {_BUDGET >> 20} MiB of memory ({_OLD})")

    # Reading

    def take(self, count: int) -> bytes:
        data = self.file.read(count)
        if len(data) < count:
            raise self.refuse("the pickle ends early")
        return data

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self, size: int) -> str:
        if size > _MAX_TEXT:
            raise self.refuse(f"a text of {size} bytes ({_OLD})")
        return self.take(size).decode("utf-8", "surrogatepass")

    def whole(self, size: int) -> int:
        if size > _MAX_WHOLE:
            raise self.refuse(f"a whole number of {size} bytes")
        return int.from_bytes(self.take(size), "little", signed=True)

    def line(self) -> str:
        data = self.file.readline(_MAX_TEXT)
        if not data.endswith(b"\n"):
            if len(data) == _MAX_TEXT:
                raise self.refuse(f"a line of more than {_MAX_TEXT} bytes ({_OLD})")
            raise self.refuse("the pickle ends early")
        return data[:-1].decode("latin1")

    def payload(self, size: int) -> Bytes:
        """Step over bytes, whatever their number."""
        here = self.file.tell()
        if here + size > self.size:
            raise self.refuse("the pickle ends early")
        self.file.seek(size, 1)
        return Bytes(here, size)

    def raw(self, data: Any) -> bytes:
        """Bytes as such; those that were stepped over are read, once."""
        if isinstance(data, bytes):
            return data
        if not isinstance(data, Bytes) or data.size > _MAX_TEXT:
            raise self.refuse("a broken value")
        if data.content is None:
            self.charge(data.size)
            here = self.file.tell()
            self.file.seek(data.offset)
            data.content = self.take(data.size)
            self.file.seek(here)
        return data.content

    # The stack

    def push(self, value: Any) -> None:
        """Put a value that has just been made on the stack."""
        # The value, its copy in the result, and what the growth of lists and dicts leaves over.
        self.charge(3 * sys.getsizeof(value) + (512 if isinstance(value, _PARTS) else 64))
        self.stack.append(value)

    def refer(self, value: Any) -> None:
        """Put a value that is somewhere else, too, on the stack."""
        self.charge(128)  # bounds the time as well
        self.stack.append(value)

    def put(self, place: int) -> None:
        """Remember the top of the stack."""
        if not self.stack:
            raise self.refuse("a broken pickle (nothing to remember)")
        self.charge(128)
        self.memo[place] = self.stack[-1]

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is MARK:
            raise self.refuse("a broken pickle (nothing to take)")
        return self.stack.pop()

    def pop_mark(self) -> list[Any]:
        for place in range(len(self.stack) - 1, -1, -1):
            if self.stack[place] is MARK:
                items = self.stack[place + 1 :]
                del self.stack[place:]
                return items
        raise self.refuse("a broken pickle (no mark)")

    def top(self, kind: type[Any]) -> Any:
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise self.refuse(f"a broken pickle (no {kind.__name__} to fill)")
        return self.stack[-1]
