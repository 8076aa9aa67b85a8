"""Load the pickle files of published ground truths without running anything in them.

A pickle is a program. This reader accepts lists, tuples, dicts, text, bytes, numbers and arrays of numbers, and refuses
any other class or function before it is looked up. numpy's own classes are not called either: arrays are built here
from their bytes. It is based on Python's unpickler in Python, which allocates no memory for sizes that a file claims.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from typing import IO, Any

import numpy as np


class RestrictedPickleError(Exception):
    """Why a pickle is refused, as the end of a sentence that begins with the file's name."""


MAX_VALUES_PER_BYTE = 16
"""Values that one byte of a file may stand for. Each value takes at least a byte, but lists may be shared."""

MAX_EMPTY_SIDE = 1000
"""Longest side of an array without elements, whose shape is not limited by the number of its bytes."""


def load_plain(file: IO[bytes]) -> Any:
    """Load a pickle of plain values.

    Args:
        file: Open for reading and seekable.

    Returns:
        The value, with tuples as lists.

    Raises:
        RestrictedPickleError: It contains anything else, expands to far more values than it has bytes, is cut short, or
            is not a pickle.
    """
    try:
        start, reader = file.tell(), _Unpickler(file)
        value = reader.load()
        return _Converter(MAX_VALUES_PER_BYTE * (file.tell() - start)).convert(value)
    except RestrictedPickleError:
        raise
    except Exception as error:  # a truncated or corrupted pickle can raise nearly anything
        raise RestrictedPickleError("is cut short or not a pickle of plain lists") from error


class _Texts(dict[str, bytes]):
    """Cache of encoded text, so that a file that refers to one text a million times costs no more."""

    def __missing__(self, text: str) -> bytes:
        self[text] = text.encode("latin-1")
        return self[text]

    def bytes_of(self, data: Any) -> bytes | bytearray:
        """Return bytes, which pickles of Python 2 store as text."""
        if isinstance(data, bytes | bytearray):
            return data
        return self[data]


class _Function:
    """Replaces a function or class: a pickle may call it and do nothing else with it."""

    __slots__ = ("_call", "_texts")

    def __init__(self, call: Callable[..., Any], texts: _Texts) -> None:
        self._call, self._texts = call, texts

    def __call__(self, *arguments: Any) -> Any:
        return self._call(self._texts, *arguments)

    def __setstate__(self, state: object) -> None:
        raise RestrictedPickleError("changes a function")


class _Dtype:
    """Replaces `numpy.dtype`, for numbers only."""

    def __init__(self, texts: _Texts, code: str, align: object = False, copy: object = False) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[iufb][1248]", code, re.ASCII):
            raise RestrictedPickleError("contains arrays of other things than numbers")
        self.value = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        order = state[1]
        if order not in ("<", ">", "|", "="):
            raise RestrictedPickleError("contains arrays of other things than numbers")
        self.value = self.value.newbyteorder(order)


class _Array:
    """Replaces `numpy.ndarray`; its bytes follow as its state."""

    def __init__(self, texts: _Texts, *arguments: object) -> None:
        self.texts, self.value = texts, np.zeros(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        flat = np.frombuffer(self.texts.bytes_of(data), dtype.value)
        self.value = flat.reshape(shape, order="F" if fortran else "C")
        if not flat.size and max(self.value.shape) > MAX_EMPTY_SIDE:
            raise RestrictedPickleError("contains an empty array of a huge shape")


def _from_buffer(texts: _Texts, data: Any, dtype: _Dtype, shape: Any, order: str) -> _Array:
    array = _Array(texts)
    array.__setstate__((1, shape, dtype, order == "F", data))
    return array


def _scalar(texts: _Texts, dtype: _Dtype, data: Any) -> Any:
    return np.frombuffer(texts.bytes_of(data), dtype.value)[0].item()


def _encode(texts: _Texts, text: str, encoding: str = "latin1") -> bytes:
    """Replace `_codecs.encode`, with which old protocols write bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise RestrictedPickleError("contains a text in an unknown encoding")
    return texts[text]


def _empty_bytes(texts: _Texts) -> bytes:
    """Replace `bytes`, which old protocols call for empty bytes."""
    return b""


_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _empty_bytes,
    ("builtins", "bytes"): _empty_bytes,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
}


def _load_as_list(count: int) -> Callable[[Any], None]:
    """Return an opcode handler that replaces the last `count` values on the stack by a list of them."""

    def load(reader: Any) -> None:
        start = len(reader.stack) - count
        if start < 0:
            raise RestrictedPickleError("is cut short or not a pickle of plain lists")
        reader.stack[start:] = [reader.stack[start:]]

    return load


class _Unpickler(pickle._Unpickler):
    """Python's own unpickler, restricted to the replacements above.

    It loads tuples as lists and has no sets, so that nothing nested is ever hashed: hashing time doubles with each
    level of a tuple that contains another one twice.
    """

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="latin1")
        self._texts = _Texts()

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _Function(_ALLOWED[module, name], self._texts)
        except KeyError:
            raise RestrictedPickleError(f"contains {module}.{name}, which is not run") from None

    dispatch = {  # noqa: RUF012 - a class variable of Python's unpickler
        **{
            code: handler
            for code, handler in pickle._Unpickler.dispatch.items()
            if bytes([code]) not in (pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET)
        },
        pickle.EMPTY_TUPLE[0]: _load_as_list(0),
        pickle.TUPLE1[0]: _load_as_list(1),
        pickle.TUPLE2[0]: _load_as_list(2),
        pickle.TUPLE3[0]: _load_as_list(3),
        pickle.TUPLE[0]: pickle._Unpickler.dispatch[pickle.LIST[0]],
    }


class _Converter:
    """Converts the replacements back to plain values, up to a budget of values; a shared one counts at each use."""

    def __init__(self, budget: int) -> None:
        self.budget = budget

    def convert(self, value: Any) -> Any:
        """Replace arrays at any depth."""
        plain = value.value if isinstance(value, _Array) else value
        self.budget -= 1 + (plain.size if isinstance(plain, np.ndarray) else 0)
        if self.budget < 0:
            raise RestrictedPickleError("expands to far more values than it has bytes")
        if isinstance(plain, dict):
            return {self.convert(key): self.convert(each) for key, each in plain.items()}
        if isinstance(plain, list):
            return [self.convert(each) for each in plain]
        if plain is None or isinstance(plain, str | bytes | bytearray | int | float | np.ndarray):
            return plain
        raise RestrictedPickleError("contains other things than lists, texts and numbers")
