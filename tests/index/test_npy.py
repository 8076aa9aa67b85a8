"""integrity.npy_array reads what numpy writes, and allocates nothing on the word of a header."""

from __future__ import annotations

import io
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from patchify_core.index.integrity import npy_array


def npy(array: np.ndarray, **how: bool) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **how)
    return stream.getvalue()


@given(arrays.arrays(st.sampled_from(["<f4", "<f8", "<i8", "|u1", ">i2"]), arrays.array_shapes(max_dims=4)))
def test_what_numpy_writes_is_read(array) -> None:
    for written in (array, np.asfortranarray(array)):
        found = npy_array(npy(written))
        assert found.dtype == array.dtype and found.shape == array.shape
        np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    "shape", ["(1 << 40,)", "(1099511627776, 4)", "(-1, 4)", "(4, -4)", "((4, 4),)", "(0,)", "'x'", "(" * 300]
)
def test_claims_of_a_header_allocate_nothing(shape) -> None:
    plain = npy(np.ones((4, 4), np.float32))
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    data = plain[:8] + len(header).to_bytes(2, "little") + header + plain[-64:]
    tracemalloc.start()
    with pytest.raises(ValueError, match="npy"):
        npy_array(data)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\x03\x00" + bytes(100),
        npy(np.array([{}], object), allow_pickle=True),
        npy(np.ones(4))[:-1],
        npy(np.ones(4)) + b"x",
        npy(np.array(["a"]))[:-4],
    ],
)
def test_other_files_are_refused(data) -> None:
    with pytest.raises(ValueError, match="npy"):
        npy_array(data)


@given(st.data())
def test_no_changed_byte_does_worse_than_be_refused(data) -> None:
    changed = bytearray(npy(np.arange(12, dtype=np.float32).reshape(3, 4)))
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, 127))] = data.draw(st.integers(0, 255))
    try:
        npy_array(bytes(changed))
    except ValueError:
        pass
