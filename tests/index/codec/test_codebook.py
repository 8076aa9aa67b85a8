"""index.codec.codebook: each definition against a slow reference."""

from __future__ import annotations

import numpy as np
import pytest

from patchify_core.index.codec import codebook
from patchify_core.index.codec.codebook import (
    DISTINCTIVE_SHARE,
    NEIGHBOURS,
    commonness,
    select_patches,
    without_near_duplicates,
)
from patchify_core.index.codec.factory import CODEBOOKS


def descriptors(pictures=12, patches=5, dim=8, seed=0):
    found = np.random.default_rng(seed).normal(size=(pictures, patches, dim))
    return (found / np.linalg.norm(found, axis=2, keepdims=True)).astype(np.float32)


def slow_commonness(found):
    values = []
    for picture, own in enumerate(found):
        others = np.concatenate([other for at, other in enumerate(found) if at != picture])
        for patch in own:
            values.append(np.mean(sorted((float(patch @ other) for other in others), reverse=True)[:NEIGHBOURS]))
    return np.array(values)


def test_global_and_uniform():
    found = descriptors()
    assert select_patches(found, "global").tolist() == [*range(0, 60, 5)]
    assert select_patches(found, "uniform").tolist() == [*range(60)]


@pytest.mark.parametrize("seed", range(4))
def test_commonness_is_its_definition(seed):
    found = descriptors(seed=seed)
    np.testing.assert_allclose(commonness(found), slow_commonness(found), atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_distinctive_is_the_least_common_half(seed):
    found = descriptors(seed=seed)
    expected = np.argsort(slow_commonness(found), kind="stable")[: round(DISTINCTIVE_SHARE * 60)]
    assert select_patches(found, "distinctive").tolist() == sorted(expected.tolist())


def test_distinctive_leaves_out_what_every_picture_has_and_keeps_what_one_repeats():
    found = descriptors(pictures=20, patches=4)
    found[:, :2] = found[0, 0]  # sky
    found[3, 2:] = found[3, 2]  # one object twice in one picture: no other picture knows it
    kept = select_patches(found, "distinctive")
    assert {*kept.tolist()} == {picture * 4 + patch for picture in range(20) for patch in (2, 3)}


def test_commonness_of_a_sample(monkeypatch):
    found = descriptors(pictures=40)
    monkeypatch.setattr(codebook, "REFERENCE", 50)
    some, again, other = commonness(found, 0), commonness(found, 0), commonness(found, 1)
    np.testing.assert_array_equal(some, again)
    assert not np.array_equal(some, other)
    assert (some <= slow_commonness(found) + 1e-6).all()  # fewer neighbours to be like


def slow_informative(vectors, threshold, seed):
    kept: list[int] = []
    for at in np.random.default_rng(seed).permutation(len(vectors)).tolist():
        if all(float(vectors[at] @ vectors[k]) <= threshold for k in kept):
            kept.append(at)
    return sorted(kept)


@pytest.mark.parametrize("count", [1, 60, 2600])  # within a block, and over several
@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_informative_is_its_definition(count, threshold):
    vectors = descriptors(count, 1)[:, 0]
    kept = without_near_duplicates(vectors, threshold, 3)
    assert kept.tolist() == slow_informative(vectors, threshold, 3)
    similar = vectors[kept] @ vectors[kept].T - 2 * np.eye(len(kept))
    assert similar.max() <= threshold


def test_of_one_vector_many_times_one_is_kept():
    assert len(without_near_duplicates(np.tile(descriptors(1, 1)[0], (3000, 1)), 0.8)) == 1


@pytest.mark.parametrize("name", CODEBOOKS)
def test_every_codebook_is_the_same_again_ascending_and_without_repeats(name):
    found = descriptors(30)
    first = select_patches(found, name, 5)
    assert first.tolist() == select_patches(found, name, 5).tolist() == sorted({*first.tolist()})
    assert 0 <= first.min() and first.max() < 150


@pytest.mark.parametrize("name", CODEBOOKS)
@pytest.mark.parametrize("patches", [1, 5])
def test_one_picture_is_enough(name, patches):
    assert len(select_patches(descriptors(1, patches), name)) >= 1


def test_an_unknown_codebook(refused):
    assert "choose uniform, global, informative, distinctive" in refused(select_patches, descriptors(), "best")
