"""Pickle files of published ground truths, of which nothing is run.

A pickle is a program. This reader knows lists, tuples, dicts, texts, bytes, numbers and arrays of numbers; whatever
else such a program names is refused before it is looked up. numpy's own classes are not used either: arrays are made
from their bytes here. The reader is Python's own in Python, whose memory does not grow with numbers that a file claims.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from typing import IO, Any

import numpy as np


class PlainPickleError(Exception):
    """Why a pickle is not read, as the rest of a sentence about the file."""


SHARING = 16
"""Values that a byte of a file may stand for. One that is there once has a byte of its own; lists may be shared."""

WIDEST_EMPTY = 1000
"""Longest side of an array without numbers, whose bytes bound no side of it."""


def load_plain(file: IO[bytes]) -> Any:
    """Read a pickle of plain values.

    Args:
        file: Open for reading; it knows its position.

    Returns:
        What it contains; tuples as lists, arrays as numpy arrays.

    Raises:
        PlainPickleError: It contains anything else, stands for far more values than it has bytes, is cut short, or is
            no pickle.
    """
    try:
        start, reader = file.tell(), _Reader(file)
        found = reader.load()
        return _Budget(SHARING * (file.tell() - start)).plain(found)
    except PlainPickleError:
        raise
    except Exception as error:  # cut short or garbled, a pickle fails in nearly any way
        raise PlainPickleError("is cut short or no pickle of plain lists") from error


class _Texts(dict[str, bytes]):
    """The bytes of texts, made once each: a file that names one a million times costs no more."""

    def __missing__(self, text: str) -> bytes:
        self[text] = text.encode("latin-1")
        return self[text]

    def bytes_of(self, data: Any) -> bytes | bytearray:
        """Python 2 has its bytes as text."""
        if isinstance(data, bytes | bytearray):
            return data
        return self[data]


class _Function:
    """Stands for a function or class: a pickle may call it, and do nothing else with it."""

    __slots__ = ("_call", "_texts")

    def __init__(self, call: Callable[..., Any], texts: _Texts) -> None:
        self._call, self._texts = call, texts

    def __call__(self, *given: Any) -> Any:
        return self._call(self._texts, *given)

    def __setstate__(self, state: object) -> None:
        raise PlainPickleError("changes a function")


class _Dtype:
    """Stands for `numpy.dtype` of a number."""

    def __init__(self, texts: _Texts, code: str, align: object = False, copy: object = False) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[iufb][1248]", code, re.ASCII):
            raise PlainPickleError("contains arrays of other things than numbers")
        self.value = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        order = state[1]
        if order not in ("<", ">", "|", "="):
            raise PlainPickleError("contains arrays of other things than numbers")
        self.value = self.value.newbyteorder(order)


class _Array:
    """Stands for `numpy.ndarray`, whose bytes come after it."""

    def __init__(self, texts: _Texts, *of: object) -> None:
        self.texts, self.value = texts, np.zeros(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        flat = np.frombuffer(self.texts.bytes_of(data), dtype.value)
        self.value = flat.reshape(shape, order="F" if fortran else "C")
        if not flat.size and max(self.value.shape) > WIDEST_EMPTY:
            raise PlainPickleError("contains an array of nothing")


def _from_buffer(texts: _Texts, data: Any, dtype: _Dtype, shape: Any, order: str) -> _Array:
    found = _Array(texts)
    found.__setstate__((1, shape, dtype, order == "F", data))
    return found


def _scalar(texts: _Texts, dtype: _Dtype, data: Any) -> Any:
    return np.frombuffer(texts.bytes_of(data), dtype.value)[0].item()


def _encode(texts: _Texts, text: str, encoding: str = "latin1") -> bytes:
    """Stands for `_codecs.encode`, by which old protocols write bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise PlainPickleError("contains a text in an unknown encoding")
    return texts[text]


def _no_bytes(texts: _Texts) -> bytes:
    """Stands for `bytes`, which old protocols call for empty ones."""
    return b""


_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
    ("builtins", "bytes"): _no_bytes,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
}


def _listed(count: int) -> Callable[[Any], None]:
    """What makes one list of the last values that were read."""

    def made(reader: Any) -> None:
        at = len(reader.stack) - count
        if at < 0:
            raise PlainPickleError("is cut short or no pickle of plain lists")
        reader.stack[at:] = [reader.stack[at:]]

    return made


class _Reader(pickle._Unpickler):
    """Python's own reader, which finds nothing but the stand-ins above.

    It makes lists of tuples and knows no sets, so that nothing nested is ever hashed: the time for that doubles with
    each level of a tuple that contains another one twice.
    """

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="latin1")
        self._texts = _Texts()

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _Function(_KNOWN[module, name], self._texts)
        except KeyError:
            raise PlainPickleError(f"contains {module}.{name}, which is not run") from None

    dispatch = {  # noqa: RUF012 - a class variable of Python's reader
        **{
            code: how
            for code, how in pickle._Unpickler.dispatch.items()
            if bytes([code]) not in (pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET)
        },
        pickle.EMPTY_TUPLE[0]: _listed(0),
        pickle.TUPLE1[0]: _listed(1),
        pickle.TUPLE2[0]: _listed(2),
        pickle.TUPLE3[0]: _listed(3),
        pickle.TUPLE[0]: pickle._Unpickler.dispatch[pickle.LIST[0]],
    }


class _Budget:
    """Values that may still be made; one that is shared counts wherever it is."""

    def __init__(self, left: int) -> None:
        self.left = left

    def plain(self, value: Any) -> Any:
        """The stand-ins replaced by arrays, wherever they are."""
        found = value.value if isinstance(value, _Array) else value
        self.left -= 1 + (found.size if isinstance(found, np.ndarray) else 0)
        if self.left < 0:
            raise PlainPickleError("stands for far more values than it has bytes")
        if isinstance(found, dict):
            return {self.plain(key): self.plain(each) for key, each in found.items()}
        if isinstance(found, list):
            return [self.plain(each) for each in found]
        if found is None or isinstance(found, str | bytes | bytearray | int | float | np.ndarray):
            return found
        raise PlainPickleError("contains other things than lists, texts and numbers")
