"""Reads pickles of numpy arrays, lists, dicts, strings and numbers; nothing else, and runs nothing.

Python's own unpickler calls whatever a file names. This one is an interpreter of the few opcodes
that plain data needs. The only globals that it knows are numpy's for rebuilding an array, a scalar
or a dtype, and it does not call them: it works out what they stand for. Everything else is refused
by name.

Memory stays small whatever the file's size: the bytes of an array are stepped over, and mapped
when rows of it are asked for; all other values have one budget.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from univa.data.sources._pickle_machine import (
    MARK,
    Bytes,
    Machine,
    PartArray,
    PartDtype,
    PartGlobal,
    PartMark,
    shown,
)
from univa.data.sources.pickled_array import PickledArray
from univa.errors import UserError

__all__ = ["PickledArray", "read_pickle"]

_MAX_KEY = 1 << 12  # characters of a dict key: two equal ones are compared at each use
_MAX_DTYPE = 16  # characters of a dtype's code
_MAX_AXES = 32

_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_GLOBALS = {
    **{(module, "_reconstruct"): "array" for module in _MODULES},
    **{(module, "scalar"): "scalar" for module in _MODULES},
    ("numpy.core.numeric", "_frombuffer"): "buffer",
    ("numpy._core.numeric", "_frombuffer"): "buffer",
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",  # how protocol 2 writes bytes
    ("__builtin__", "bytes"): "empty",  # and no bytes
}
_KINDS = "biufSU"  # numbers, and text of fixed width; no objects, no records


def read_pickle(path: Path | str) -> Any:
    """Read a pickle of plain data.

    Args:
        path: the file, of any pickle protocol.

    Returns:
        Dicts, lists, tuples, strings, bytes, numbers, None and `PickledArray`s.

    Raises:
        UserError: the file is missing or broken, or holds anything else; what it is gets named.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _Reader(path, file).read()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


class _Reader(Machine):
    """The interpreter. A method of `_OPCODES` handles one opcode."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        super().__init__(path, file)
        self.finished: dict[int, Any] = {}

    def read(self) -> Any:
        while True:
            byte = self.file.read(1)
            if not byte:
                raise self.refuse("the pickle ends early")
            if byte == b".":
                result = self.pop()
                if self.stack:
                    raise self.refuse("a broken pickle (values are left over)")
                return self.finish(result)
            handler = _OPCODES.get(byte[0])
            if handler is None:
                raise self.refuse(f"opcode {_NAMES.get(byte[0], repr(byte))} is refused")
            try:
                handler(self)
            except (ValueError, TypeError, LookupError, OverflowError, AttributeError) as error:
                what = f"{type(error).__name__}: {shown(str(error))}"
                raise self.refuse(f"a broken pickle ({what})") from None
            except RecursionError:
                raise self.refuse("values nested too deeply") from None

    # Containers

    def extend(self, items: list[Any]) -> None:
        target = self.top(list)
        self.charge(32 * len(items))
        target.extend(items)

    def make_dict(self, items: list[Any]) -> None:
        self.push({})
        self.set_items(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.top(dict)
        if len(items) % 2:
            raise self.refuse("a broken pickle (a key without a value)")
        self.charge(128 * len(items))
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int | float | bool | type(None)):
                raise self.refuse(f"a dict key of type {type(key).__name__}")
            if isinstance(key, str) and len(key) > _MAX_KEY:
                raise self.refuse(f"a dict key of {len(key)} characters")
            target[key] = value

    # Globals

    def known(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            wrong = name if isinstance(module, str) else module
            raise self.refuse(f"a global whose name is {shown(wrong)}")
        kind = _GLOBALS.get((module, name))
        if kind is None:
            text = f"{module}.{name}"
            text = text if text.isascii() and text.isprintable() else shown(text)
            raise self.refuse(f"the global {text if len(text) <= 100 else shown(text)} is refused")
        self.push(PartGlobal(kind))

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        kind = function.kind if isinstance(function, PartGlobal) else None
        if not isinstance(arguments, tuple) or kind in (None, "ndarray"):
            raise self.refuse("a call of something else is refused")
        if kind == "array":
            if not arguments or arguments[0] != PartGlobal("ndarray"):
                raise self.refuse("an array subclass is refused")
            self.push(PartArray())
        elif kind == "dtype":
            self.push(PartDtype(self.dtype(arguments[0])))
        elif kind == "encode":
            text, *encoding = arguments
            if not isinstance(text, str) or encoding not in ([], ["latin1"]):
                raise self.refuse("a call of _codecs.encode with other arguments is refused")
            self.push(text.encode("latin1"))
        elif kind == "empty":
            if arguments:
                raise self.refuse("a call of bytes with arguments is refused")
            self.push(b"")
        elif kind == "scalar":
            dtype, data = arguments
            self.charge(dtype.dtype.itemsize)
            raw = self.raw(data)
            if len(raw) != dtype.dtype.itemsize:
                raise self.refuse("a numpy scalar of another size than its dtype")
            self.push(np.frombuffer(raw, dtype.dtype)[0].item())
        else:
            data, dtype, shape, order = arguments
            self.push(PartArray(self.array(data, dtype, shape, order == "F")))

    def dtype(self, code: Any) -> np.dtype[Any]:
        dtype = np.dtype(code) if isinstance(code, str) and len(code) <= _MAX_DTYPE else None
        if dtype is None or dtype.kind not in _KINDS or dtype.fields or dtype.subdtype:
            raise self.refuse(f"an array of dtype {shown(code)} is refused")
        return dtype

    def build(self) -> None:
        state, target = self.pop(), self.stack[-1] if self.stack else None
        if isinstance(target, PartDtype) and isinstance(state, tuple) and len(state) >= 2:
            if state[1] not in ("<", ">", "|", "="):
                raise self.refuse(f"a byte order {shown(state[1])}")
            if any(part is not None for part in state[2:5]):
                raise self.refuse("an array of records is refused")
            if target.dtype.itemsize > 0 and state[1] in "<>":
                target.dtype = target.dtype.newbyteorder(state[1])
        elif isinstance(target, PartArray) and isinstance(state, tuple) and len(state) == 5:
            _, shape, dtype, fortran, data = state
            target.value = self.array(data, dtype, shape, bool(fortran))
        else:
            raise self.refuse("setting the state of something else is refused")

    def array(self, data: Any, dtype: Any, shape: Any, fortran: bool) -> Any:
        if (
            not isinstance(dtype, PartDtype)
            or not isinstance(shape, tuple)
            or len(shape) > _MAX_AXES
            or not all(isinstance(length, int) and 0 <= length < 2**40 for length in shape)
        ):
            raise self.refuse("a broken array")
        kind, size = dtype.dtype, dtype.dtype.itemsize
        for length in shape:
            size *= length
        if isinstance(data, bytes):  # protocol 2 spells its bytes out; there is nothing to map
            if len(data) != size:
                raise self.refuse("a broken array (its bytes do not fill its shape)")
            return np.frombuffer(data, kind).reshape(shape, order="F" if fortran else "C")
        if not isinstance(data, Bytes) or data.size != size:
            raise self.refuse("a broken array (its bytes do not fill its shape)")
        return PickledArray(self.path, kind, shape, data.offset, fortran=fortran)

    def finish(self, value: Any, depth: int = 0) -> Any:
        """Put arrays and bytes in the place of what stood for them."""
        if depth > 100:
            raise self.refuse("values nested too deeply")
        if not isinstance(value, dict | list | tuple | PartArray):
            return self.finish_leaf(value)
        # What is referred to many times is made once: a small file may name a huge tree.
        if id(value) not in self.finished:
            self.finished[id(value)] = self.finish_container(value, depth)
        return self.finished[id(value)]

    def finish_container(self, value: Any, depth: int) -> Any:
        if isinstance(value, PartArray):
            if value.value is None:
                raise self.refuse("a broken array (without elements)")
            return value.value
        if isinstance(value, dict):
            return {key: self.finish(item, depth + 1) for key, item in value.items()}
        return type(value)(self.finish(item, depth + 1) for item in value)

    def finish_leaf(self, value: Any) -> Any:
        if isinstance(value, Bytes):
            return self.raw(value)
        if isinstance(value, PartGlobal | PartDtype | PartMark):
            raise self.refuse("a function or type as a value is refused")
        return value


def _text_number(line: str) -> int | bool:
    return {"00": False, "01": True}[line] if line in ("00", "01") else int(line)


_Handler = Callable[[_Reader], Any]
_OPCODES: dict[int, _Handler] = {
    code[0]: handler
    for code, handler in {
        b"\x80": lambda r: r.take(1),  # protocol
        b"\x95": lambda r: r.take(8),  # frame
        b"(": lambda r: r.refer(MARK),
        b"0": lambda r: r.pop(),
        b"1": lambda r: r.pop_mark(),
        b"N": lambda r: r.refer(None),
        b"\x88": lambda r: r.refer(True),
        b"\x89": lambda r: r.refer(False),
        b"K": lambda r: r.push(r.number("<B")),
        b"M": lambda r: r.push(r.number("<H")),
        b"J": lambda r: r.push(r.number("<i")),
        b"I": lambda r: r.push(_text_number(r.line())),
        b"L": lambda r: r.push(int(r.line().removesuffix("L"))),
        b"\x8a": lambda r: r.push(r.whole(r.number("<B"))),
        b"\x8b": lambda r: r.push(r.whole(r.number("<I"))),
        b"F": lambda r: r.push(float(r.line())),
        b"G": lambda r: r.push(r.number(">d")),
        b"\x8c": lambda r: r.push(r.text(r.number("<B"))),
        b"X": lambda r: r.push(r.text(r.number("<I"))),
        b"\x8d": lambda r: r.push(r.text(r.number("<Q"))),
        b"V": lambda r: r.push(r.line().encode("latin1").decode("raw-unicode-escape")),
        b"C": lambda r: r.push(r.payload(r.number("<B"))),
        b"B": lambda r: r.push(r.payload(r.number("<I"))),
        b"\x8e": lambda r: r.push(r.payload(r.number("<Q"))),
        b"\x96": lambda r: r.push(r.payload(r.number("<Q"))),
        b"]": lambda r: r.push([]),
        b"l": lambda r: r.push(r.pop_mark()),
        b"a": lambda r: r.extend([r.pop()]),
        b"e": lambda r: r.extend(r.pop_mark()),
        b"}": lambda r: r.push({}),
        b"d": lambda r: r.make_dict(r.pop_mark()),
        b"s": lambda r: r.set_items([r.pop(), r.pop()][::-1]),
        b"u": lambda r: r.set_items(r.pop_mark()),
        b")": lambda r: r.push(()),
        b"t": lambda r: r.push(tuple(r.pop_mark())),
        b"\x85": lambda r: r.push((r.pop(),)),
        b"\x86": lambda r: r.push((r.pop(), r.pop())[::-1]),
        b"\x87": lambda r: r.push((r.pop(), r.pop(), r.pop())[::-1]),
        b"\x94": lambda r: r.put(len(r.memo)),
        b"q": lambda r: r.put(r.number("<B")),
        b"r": lambda r: r.put(r.number("<I")),
        b"p": lambda r: r.put(int(r.line())),
        b"h": lambda r: r.refer(r.memo[r.number("<B")]),
        b"j": lambda r: r.refer(r.memo[r.number("<I")]),
        b"g": lambda r: r.refer(r.memo[int(r.line())]),
        b"c": lambda r: r.known(r.line(), r.line()),
        b"\x93": lambda r: r.known(*[r.pop(), r.pop()][::-1]),
        b"R": lambda r: r.reduce(),
        b"b": lambda r: r.build(),
    }.items()
}
_NAMES = {
    ord("i"): "INST", ord("o"): "OBJ", 0x81: "NEWOBJ", 0x92: "NEWOBJ_EX", ord("P"): "PERSID",
    ord("Q"): "BINPERSID", 0x82: "EXT1", 0x83: "EXT2", 0x84: "EXT4", 0x8F: "EMPTY_SET",
    0x90: "ADDITEMS", 0x91: "FROZENSET", 0x97: "NEXT_BUFFER", 0x98: "READONLY_BUFFER",
    ord("2"): "DUP", ord("S"): "STRING", ord("T"): "BINSTRING", ord("U"): "SHORT_BINSTRING",
}  # fmt: skip
