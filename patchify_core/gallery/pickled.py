"""Pickle files of published ground truths, of which nothing is run.

A pickle is a program. This reader knows lists, tuples, dicts, texts, bytes, numbers and arrays of numbers; whatever
else such a program names is refused before it is looked up. numpy's own classes are not used either: arrays are made
from their bytes here. The reader is Python's own in Python, whose memory does not grow with numbers that a file claims.
"""

from __future__ import annotations

import pickle
import re
from typing import IO, Any

import numpy as np


class PlainPickleError(Exception):
    """Why a pickle is not read, as the rest of a sentence about the file."""


def load_plain(file: IO[bytes]) -> Any:
    """Read a pickle of plain values.

    Args:
        file: Open for reading.

    Returns:
        What it contains; arrays as numpy arrays.

    Raises:
        PlainPickleError: It contains anything else, is cut short, or is no pickle.
    """
    try:
        return _plain(_Reader(file).load())
    except PlainPickleError:
        raise
    except Exception as error:  # cut short or garbled, a pickle fails in nearly any way
        raise PlainPickleError("is cut short or no pickle of plain lists") from error


class _Dtype:
    """Stands for `numpy.dtype` of a number."""

    def __init__(self, code: str, align: object = False, copy: object = False) -> None:
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

    value = np.zeros(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        flat = np.frombuffer(_bytes(data), dtype.value)
        self.value = flat.reshape(shape, order="F" if fortran else "C")


def _array(*of: object) -> _Array:
    return _Array()


def _from_buffer(data: Any, dtype: _Dtype, shape: Any, order: str) -> _Array:
    found = _Array()
    found.__setstate__((1, shape, dtype, order == "F", data))
    return found


def _scalar(dtype: _Dtype, data: Any) -> Any:
    return np.frombuffer(_bytes(data), dtype.value)[0].item()


def _bytes(data: Any) -> bytes:
    """Python 2 has its bytes as text."""
    return data.encode("latin-1") if isinstance(data, str) else bytes(memoryview(data))


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Stands for `_codecs.encode`, by which old protocols write bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise PlainPickleError("contains a text in an unknown encoding")
    return text.encode("latin-1")


def _no_bytes() -> bytes:
    """Stands for `bytes`, which old protocols call for empty ones."""
    return b""


_KNOWN: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
    ("builtins", "bytes"): _no_bytes,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _array for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
}


class _Reader(pickle._Unpickler):
    """Python's own reader, which finds nothing but the stand-ins above."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise PlainPickleError(f"contains {module}.{name}, which is not run") from None


def _plain(value: Any) -> Any:
    """The stand-ins replaced by arrays, wherever they are."""
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value
