"""encoders.devices and square: batches by memory, with devices that are not here played by stand-ins."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from patchify_core.encoders import devices as cores
from patchify_core.encoders.base import EncoderInfo, Preprocessing
from patchify_core.encoders.devices import BYTES_A_PIXEL, LARGEST_BATCH, SMALLEST_BATCH, batch_that_fits
from patchify_core.encoders.square import SquareEncoder
from patchify_core.errors import EncoderError

SIDE = 6
INFO = EncoderInfo("small", 3, SIDE, "0" * 64, "mean", "none")


@pytest.mark.parametrize(("threads", "batch"), [(1, 32), (2, 32), (4, 32), (5, 40), (16, 128)])
def test_a_processor_takes_few_whatever_the_size(threads, batch, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert {batch_that_fits(torch.device("cpu"), side) for side in (8, 224, 1024)} == {batch}


@given(free=st.integers(0, 2**37), side=st.integers(8, 1024))
def test_a_card_takes_what_fits_into_half_of_its_free_memory(free, side):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2**37))
        batch = batch_that_fits(SimpleNamespace(type="cuda"), side)
    assert SMALLEST_BATCH <= batch <= LARGEST_BATCH and batch & (batch - 1) == 0
    needed = side * side * BYTES_A_PIXEL
    if batch > SMALLEST_BATCH:
        assert batch * needed <= free // 2
    if batch < LARGEST_BATCH:
        assert 2 * batch * needed > free // 2


def test_apples_memory_is_asked_too(monkeypatch):
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 10 * 2**30)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 9 * 2**30)
    assert batch_that_fits(SimpleNamespace(type="mps"), 512) < batch_that_fits(SimpleNamespace(type="mps"), 128)


def encoder_with_room_for(crops):
    """A network that runs out of memory above so many crops, and notes what it was given."""
    given_sizes = []

    def describe(inputs):
        given_sizes.append(len(inputs))
        if len(inputs) > crops:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return inputs.mean(dim=(2, 3)) + 2

    preprocessing = Preprocessing(SIDE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return SquareEncoder(describe, preprocessing, INFO, torch.device("cpu")), given_sizes


def test_a_batch_that_does_not_fit_is_halved_until_it_does(monkeypatch):
    monkeypatch.setattr(cores, "PART", 100)  # a card: batches are not cut into parts
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    crops = np.random.default_rng(0).integers(0, 256, (11, SIDE, SIDE, 3), np.uint8)
    roomy, _ = encoder_with_room_for(100)
    tight, sizes = encoder_with_room_for(3)
    np.testing.assert_array_equal(tight.encode(crops), roomy.encode(crops))
    assert sizes == [11, 5, 2, 3, 6, 3, 3]
    assert tight.batch_size <= 3  # the next batch does not try that much again


def test_a_crop_that_does_not_fit_is_one_sentence():
    encoder, _ = encoder_with_room_for(0)
    with pytest.raises(EncoderError, match="does not fit into the memory of cpu: set PATCHIFY_DEVICE=cpu"):
        encoder.encode(np.zeros((4, SIDE, SIDE, 3), np.uint8))
