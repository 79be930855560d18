"""Pickled lists of OpenPSG's `Result` objects, taken apart without running anything.

Python's own unpickler calls whatever a file names. Here the file's opcodes move values on a stack; the names of a few
callables are known, and each stands for a function of this module that makes a plain value. Any other name, opcode or
kind of array ends the reading. One result is in memory at a time, since such a file holds tens of gigabytes of masks.
"""

from __future__ import annotations

import mmap
import pickletools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Literal, cast

import numpy as np

MAX_STACK = 100_000  # values that wait for their container; a list of results needs about a thousand
MAX_SHARED = 10_000  # bytes; larger values are pixels, which no second result refers to
PICKLE_START = b"\x80"  # of protocol 2 and above

_MARK = object()
_GONE = object()  # in the memo: a part of an earlier result
_NDARRAY = object()
_NUMBERS = re.compile(r"[biuf](1|2|4|8)")
_TORCH = ("torch._utils._rebuild_tensor_v2", "torch.storage._load_from_bytes", "collections.OrderedDict")


class _Type:
    """A numpy dtype under construction."""

    def __init__(self, dtype: np.dtype):
        self.dtype = dtype


class _Array:
    """A numpy array under construction."""

    value: np.ndarray | None = None


class _Result:
    """A `Result`: its attributes, until they have been handed on."""

    fields: dict[str, Any] | None = None


class Unreadable:
    """Stands for a value that is not taken apart, such as a torch tensor."""

    def __repr__(self) -> str:
        return "a torch tensor"


def read_stored_results(path: Path) -> Iterator[dict[str, Any]]:
    """The attributes of one result after the other: numpy arrays and plain values, `Unreadable` for torch tensors.

    Raises:
        ValueError: if the file is damaged, refers to anything but numpy arrays, `Result` and plain values, or is no
            list of results.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        machine, count, at = _Machine(), 0, 0
        try:
            for opcode, argument, position in pickletools.genops(cast(IO[bytes], content)):
                at = position or 0
                machine.step(opcode.name, argument)
                if machine.finished is not None:
                    count += 1
                    yield machine.take()
        except (IndexError, KeyError, TypeError, AttributeError, MemoryError) as error:
            raise ValueError(f"damaged pickle, at byte {at} ({type(error).__name__}: {error})") from error
        machine.check_end(count)


class _Machine:
    """Stack, memo and the opcodes that results need."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.recent: list[int] = []  # keys of the memo since the last result
        self.finished: _Result | None = None
        self.steps: dict[str, Callable[[Any], None]] = {
            "MARK": lambda _: self.push(_MARK),
            "NONE": lambda _: self.push(None),
            "NEWTRUE": lambda _: self.push(True),
            "NEWFALSE": lambda _: self.push(False),
            "EMPTY_LIST": lambda _: self.push([]),
            "EMPTY_TUPLE": lambda _: self.push(()),
            "EMPTY_DICT": lambda _: self.push({}),
            "TUPLE": lambda _: self.push(tuple(self.pop_to_mark())),
            "TUPLE1": lambda _: self.push(tuple(self.pop(1))),
            "TUPLE2": lambda _: self.push(tuple(self.pop(2))),
            "TUPLE3": lambda _: self.push(tuple(self.pop(3))),
            "APPEND": lambda _: self.append(self.pop(1)),
            "APPENDS": lambda _: self.append(self.pop_to_mark()),
            "SETITEM": lambda _: self.set_items(self.pop(2)),
            "SETITEMS": lambda _: self.set_items(self.pop_to_mark()),
            "GLOBAL": lambda text: self.push(_named(text.replace(" ", ".", 1))),
            "STACK_GLOBAL": lambda _: self.push(_named(".".join(self.pop(2)))),
            "NEWOBJ": lambda _: self.push(_new(*self.pop(2))),
            "REDUCE": lambda _: self.push(_call(*self.pop(2))),
            "BUILD": lambda _: self.build(*self.pop(1)),
            "MEMOIZE": lambda _: self.remember(len(self.memo)),
            "PROTO": lambda _: None,
            "FRAME": lambda _: None,
            "STOP": lambda _: None,
        }
        values = ("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE")
        for name in (*values, "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"):
            self.steps[name] = self.push
        for name in ("BINPUT", "LONG_BINPUT"):
            self.steps[name] = self.remember
        for name in ("BINGET", "LONG_BINGET"):
            self.steps[name] = self.recall

    def step(self, name: str, argument: Any) -> None:
        if name not in self.steps:
            raise ValueError(f"the opcode {name} does not occur in pickled results")
        self.steps[name](argument)

    def push(self, value: Any) -> None:
        if len(self.stack) >= MAX_STACK:
            raise ValueError(f"more than {MAX_STACK} values wait for the end of their container")
        self.stack.append(value)

    def pop(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError("a value is missing")
        values = self.stack[-count:]
        del self.stack[-count:]
        return values

    def pop_to_mark(self) -> list[Any]:
        start = len(self.stack) - 1
        while self.stack[start] is not _MARK:
            start -= 1
            if start < 0:
                raise IndexError("a mark is missing")
        values = self.stack[start + 1 :]
        del self.stack[start:]
        return values

    def remember(self, key: int) -> None:
        self.memo[key] = self.stack[-1]
        self.recent.append(key)

    def recall(self, key: int) -> None:
        value = self.memo[key]
        if value is _GONE:
            raise ValueError("a result refers to a part of an earlier one")
        self.push(value)

    def append(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise TypeError("no list to append to")
        self.stack[-1].extend(values)

    def set_items(self, values: list[Any]) -> None:
        if isinstance(self.stack[-1], Unreadable):
            return
        if not isinstance(self.stack[-1], dict) or not all(isinstance(key, str | int) for key in values[::2]):
            raise TypeError("no dict of texts or numbers to set items of")
        self.stack[-1].update(zip(values[::2], values[1::2], strict=True))

    def build(self, state: Any) -> None:
        target = self.stack[-1]
        if isinstance(target, _Array):
            target.value = _array_of(state)
        elif isinstance(target, _Type):
            target.dtype = target.dtype.newbyteorder(_byte_order(state))
        elif isinstance(target, _Result):
            if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
                raise ValueError("a Result without attributes")
            target.fields, self.finished = state, target
        elif not isinstance(target, Unreadable):
            raise TypeError(f"no state can be given to {type(target).__name__}")

    def take(self) -> dict[str, Any]:
        """The finished result's attributes, of which the memo keeps nothing large."""
        assert self.finished is not None and self.finished.fields is not None
        fields = {key: _plain(value) for key, value in self.finished.fields.items()}
        for key in self.recent:
            value = self.memo[key]
            if _is_large(value) or (isinstance(value, tuple) and any(map(_is_large, value))):
                self.memo[key] = _GONE
                if isinstance(value, _Array):
                    value.value = None
        self.finished.fields = None
        self.finished = None
        self.recent.clear()
        return fields

    def check_end(self, count: int) -> None:
        results = self.stack[0] if len(self.stack) == 1 else None
        if not isinstance(results, list):
            raise ValueError("expected a list of results")
        other = next((n for n, item in enumerate(results) if not isinstance(item, _Result)), None)
        if other is not None:
            raise ValueError(f"expected a list of results, but element {other} is a {type(results[other]).__name__}")
        if len(results) != count:
            raise ValueError(f"expected a list of results, got {len(results)} of the {count} in the file")


def _plain(value: Any) -> Any:
    """An attribute's value; lists of arrays occur, nothing deeper is read."""
    if isinstance(value, _Array):
        return value.value
    return [x.value if isinstance(x, _Array) else x for x in value] if isinstance(value, list) else value


def _is_large(value: Any) -> bool:
    if isinstance(value, _Array):
        return value.value is not None and value.value.nbytes > MAX_SHARED
    return isinstance(value, str | bytes | bytearray) and len(value) > MAX_SHARED


def _named(text: str) -> Any:
    """The class or function of this module that stands for one that the file names; that is never looked up."""
    if text not in _NAMES:
        known = f"openpsg.{_RELATION_UTIL}.Result"
        raise ValueError(f"refers to {text[:80]}; results are of {known} and hold numpy arrays and plain values only")
    return _NAMES[text]


def _new(kind: Any, arguments: Any) -> _Result:
    if kind is not _Result or arguments != ():
        raise ValueError("makes an object that is no Result")
    return _Result()


def _call(function: Any, arguments: Any) -> Any:
    if function not in _CALLS.values() or not isinstance(arguments, tuple):
        raise ValueError(f"calls a {type(function).__name__}")
    return function(*arguments)


def _empty_array(kind: Any, shape: Any, code: Any) -> _Array:
    if kind is not _NDARRAY:
        raise ValueError("makes an array of another class than numpy.ndarray")
    return _Array()


def _dtype(code: Any, align: Any = False, copy: Any = True) -> _Type:
    if not isinstance(code, str) or not _NUMBERS.fullmatch(code):
        raise ValueError(f"expected arrays of numbers, got one of type {str(code)[:20]}")
    return _Type(np.dtype(code))


def _byte_order(state: Any) -> Literal["<", ">", "|", "="]:
    if not (isinstance(state, tuple) and len(state) >= 5 and state[1] in ("<", ">", "|", "=")):
        raise ValueError("a dtype of unknown state")
    if state[2:5] != (None, None, None):
        raise ValueError("expected arrays of numbers, got one of records")
    return state[1]


def _array_of(state: Any) -> np.ndarray:
    if not (isinstance(state, tuple) and len(state) == 5):
        raise ValueError("an array of unknown state")
    _, shape, kind, is_fortran, raw = state
    return _make_array(raw, kind, shape, "F" if is_fortran else "C")


def _array_of_buffer(raw: Any, kind: Any, shape: Any, order: Any, axes: Any = None) -> _Array:
    array = _Array()
    array.value = _make_array(raw, kind, shape, "F" if order == "F" else "C")
    if axes is not None:  # of an array whose axes are stored in another order
        if not isinstance(axes, tuple) or sorted(axes) != list(range(array.value.ndim)):
            raise ValueError("an array whose axes have no order")
        array.value = array.value.transpose(axes)
    return array


def _make_array(raw: Any, kind: Any, shape: Any, order: Any) -> np.ndarray:
    if not (isinstance(raw, bytes | bytearray) and isinstance(kind, _Type)):
        raise ValueError("expected arrays of numbers, got one of objects")
    if not (isinstance(shape, tuple) and all(isinstance(n, int) and n >= 0 for n in shape)):
        raise ValueError("an array whose shape is no tuple of numbers")
    flat = np.frombuffer(raw, np.uint8 if kind.dtype == bool else kind.dtype)
    return (flat != 0 if kind.dtype == bool else flat).reshape(shape, order=order)


def _scalar(kind: Any, raw: Any) -> Any:
    return _make_array(raw, kind, (), "C").item()


def _bytes_of(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("bytes in an unknown encoding")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


# numpy 2 renamed the modules of these functions.
_CALLS: dict[str, Callable[..., Any]] = {
    "numpy.dtype": _dtype,
    "_codecs.encode": _bytes_of,
    "__builtin__.bytes": _no_bytes,
    "builtins.bytes": _no_bytes,
    **{f"numpy.{core}.multiarray._reconstruct": _empty_array for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _array_of_buffer for core in ("core", "_core")},
    **{name: lambda *_: Unreadable() for name in _TORCH},
}
_RELATION_UTIL = "models.relation_heads.approaches.relation_util"
_NAMES: dict[str, Any] = {
    "numpy.ndarray": _NDARRAY,
    **{f"{package}.{_RELATION_UTIL}.Result": _Result for package in ("openpsg", "pairnet")},
    **_CALLS,
}
