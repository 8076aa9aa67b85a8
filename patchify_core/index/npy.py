"""Writes .npy files, and reads them from strangers: nothing is allocated by what a header claims."""

from __future__ import annotations

import io
import math
import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

_HEADER_BYTES = 1 << 14  # more than numpy itself reads of one


def npy_bytes(array: NDArray[Any]) -> bytes:
    """An array as a .npy file."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def npy_head(kind: str, shape: tuple[int, ...]) -> bytes:
    """What stands before the numbers of an array in a .npy file."""
    head = io.BytesIO()
    described = {"descr": np.dtype(kind).str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(head, described)
    return head.getvalue()


def npy_array(data: bytes | mmap.mmap) -> NDArray[Any]:
    """The array in a .npy file, as a read-only view of its bytes.

    Args:
        data: the whole file.

    Raises:
        ValueError: if it is something else, has Python objects in it, or is not as long as its header says.
    """
    head = io.BytesIO(data[:_HEADER_BYTES])
    try:
        version = np.lib.format.read_magic(head)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, by_columns, kind = read(head)
    except Exception as error:  # headers are Python's own syntax, and there are many ways to get that wrong
        raise ValueError("not a .npy file") from error
    size = math.prod(shape) * kind.itemsize
    if kind.hasobject or min(shape, default=0) < 0 or not size or head.tell() + size != len(data):
        raise ValueError("not a .npy file of plain numbers")
    flat: NDArray[Any] = np.frombuffer(data, kind, offset=head.tell())
    return flat.reshape(shape, order="F" if by_columns else "C")
