"""features.crop: batches against one crop at a time, and that nothing is read or kept beyond need."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchify_core.features.crop import describe, describe_many
from patchify_core.regions import Pyramid
from tests.tiny import DIM, TinyEncoder, picture

PROPERTY = settings(max_examples=60, deadline=None)


def slow(image, boxes, encoder):
    return np.concatenate([encoder.encode(encoder.prepare(image, box)[None]) for box in boxes])


def stream(levels):
    """(key, picture, boxes) for each number of levels, sizes all different."""
    for key, level in enumerate(levels):
        image = picture(key, (10 + key, 30 - key))
        yield f"key {key}", image, Pyramid(level).boxes(*image.size)


@PROPERTY
@given(st.lists(st.integers(1, 4), max_size=8), st.integers(1, 40))
def test_batching_changes_nothing(levels, batch_size):
    encoder = TinyEncoder()
    found = list(describe_many(stream(levels), encoder, batch_size=batch_size))
    assert [described.key for described in found] == [f"key {n}" for n in range(len(levels))]
    for described, (_, image, boxes) in zip(found, stream(levels), strict=True):
        assert described.descriptors.dtype == np.float32
        np.testing.assert_array_equal(described.descriptors, slow(image, boxes, TinyEncoder()))
    # Every batch but the last one is full: small pyramids share a batch.
    patches = sum(Pyramid(level).patches_per_image for level in levels)
    assert encoder.batches == [batch_size] * (patches // batch_size) + [patches % batch_size] * (
        patches % batch_size > 0
    )


@PROPERTY
@given(st.lists(st.integers(1, 3), min_size=1, max_size=8), st.integers(1, 20))
def test_pictures_are_read_one_batch_ahead_and_no_further(levels, batch_size):
    patches = [Pyramid(level).patches_per_image for level in levels]
    pulled = 0

    def counted():
        nonlocal pulled
        for item in stream(levels):
            pulled += 1
            yield item

    results = describe_many(counted(), TinyEncoder(), batch_size=batch_size)
    assert pulled == 0  # nothing at all before the first result is asked for
    for done, _ in enumerate(results, 1):
        # This picture's last patch lies in one batch; pictures are pulled until the batch after that is full.
        full = -(-sum(patches[:done]) // batch_size) + 1
        needed = next((n for n in range(len(patches) + 1) if sum(patches[:n]) >= full * batch_size), len(patches))
        assert pulled <= needed
    assert pulled == len(levels)


def test_pictures_are_let_go():
    given: list[weakref.ref] = []
    most = 0

    def pictures():
        for key in range(40):
            image = picture(key)
            given.append(weakref.ref(image))
            yield key, image, Pyramid(1).boxes(*image.size)
            del image

    for _ in describe_many(pictures(), TinyEncoder(), batch_size=16):
        most = max(most, sum(image() is not None for image in given))
    # 16 crops share a batch, but of their pictures only the last one may still be there (and the next to come).
    assert 1 <= most <= 2


def test_results_do_not_share_the_batch_buffer():
    first, second = describe_many(stream([1, 1]), TinyEncoder(), batch_size=1)
    assert not np.array_equal(first.descriptors, second.descriptors)
    assert not np.shares_memory(first.descriptors, second.descriptors)


def test_an_empty_stream_asks_the_encoder_nothing():
    encoder = TinyEncoder()
    assert list(describe_many(iter([]), encoder)) == []
    assert encoder.batches == []


def test_an_error_in_the_stream_comes_through():
    def broken():
        yield from stream([1])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(describe_many(broken(), TinyEncoder()))


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (640, 480)])
def test_describe_one_picture(size):
    image = picture(1, size)
    boxes = Pyramid(6).boxes(*size)
    found = describe(image, boxes, TinyEncoder(), batch_size=7)
    assert found.shape == (91, DIM)
    np.testing.assert_array_equal(found, slow(image, boxes, TinyEncoder()))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_describe_takes_one_box_as_four_numbers():
    image = picture(1)
    np.testing.assert_array_equal(
        describe(image, [2, 3, 9, 11], TinyEncoder()), slow(image, [(2, 3, 9, 11)], TinyEncoder())
    )


def test_the_encoder_says_how_large_a_batch_is():
    encoder = TinyEncoder()
    encoder.batch_size = 5
    list(describe_many(stream([2, 2]), encoder))
    assert encoder.batches == [5, 5]
