"""index.codec.projection: half whitening against its definition, and invalid projections."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchify_core.index.codec.projection import Projection

PROPERTY = settings(max_examples=40, deadline=None)


def sample(count=400, dim=6, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(count, dim)) * np.linspace(0.2, 2, dim) + rng.normal(size=dim)).astype(np.float32)


def slow_axes(vectors, dim, power):
    """One entry of the covariance after the other, in float64."""
    x = vectors.astype(np.float64)
    mean = [sum(column) / len(x) for column in x.T]
    full = len(mean)
    covariance = np.zeros((full, full))
    for i in range(full):
        for j in range(full):
            covariance[i, j] = sum((row[i] - mean[i]) * (row[j] - mean[j]) for row in x) / len(x)
    variances, axes = np.linalg.eig(covariance)
    order = np.argsort(-variances.real)[:dim]
    return np.array(mean), np.stack([axes[:, at].real / variances[at].real ** power for at in order], axis=1)


@pytest.mark.parametrize("power", [0, 0.25, 0.5])
@pytest.mark.parametrize("dim", [1, 3, 6])
def test_learned_axes_are_those_of_the_definition(dim, power):
    vectors = sample()
    learned = Projection.learn(vectors, dim, power)
    mean, axes = slow_axes(vectors, dim, power)
    np.testing.assert_allclose(learned.mean, mean, atol=1e-6)
    signs = np.sign((learned.axes * axes).sum(axis=0))
    np.testing.assert_allclose(learned.axes, axes * signs, atol=1e-4)
    assert learned.dim == dim and learned.mean.dtype == learned.axes.dtype == np.float32


@PROPERTY
@given(st.integers(0, 10**6), st.integers(1, 6))
def test_half_whitening_leaves_the_root_of_the_spread(seed, dim):
    vectors = sample(seed=seed)
    plain, half = (Projection.learn(vectors, dim, power) for power in (0, 0.25))
    before, after = ((vectors - p.mean).astype(np.float64) @ p.axes for p in (plain, half))
    np.testing.assert_allclose(after.std(axis=0), np.sqrt(before.std(axis=0)), rtol=1e-3)
    covariance = np.cov(after.T).reshape(dim, dim)
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 1e-3


@PROPERTY
@given(st.integers(0, 10**6), st.integers(1, 6))
def test_rows_have_length_1(seed, dim):
    vectors = sample(seed=seed)
    found = Projection.learn(vectors, dim)(vectors)
    assert found.shape == (400, dim) and found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_the_mean_itself_has_no_direction():
    learned = Projection.learn(sample(), 3)
    assert learned(learned.mean[None]).tolist() == [[0, 0, 0]]


def test_vectors_that_are_all_the_same_give_no_nan():
    same = np.tile(sample(1), (50, 1))
    learned = Projection.learn(same, 4)
    assert np.isfinite(learned.axes).all() and np.isfinite(learned(sample())).all() and np.isfinite(learned(same)).all()


def test_axes_without_spread_are_not_blown_up():
    vectors = sample()
    vectors[:, 0] = 7
    assert np.abs(Projection.learn(vectors, 6).axes).max() < 100


@pytest.mark.parametrize("dim", [0, -1, 7])
def test_dimensions_that_there_are_not(dim, refused):
    assert f"projected to 1 to 6, not to {dim}" in refused(Projection.learn, sample(), dim)


def test_too_few_vectors(refused):
    message = refused(Projection.learn, sample(3), 3)
    assert "more than 3 training patches" in message and "there are 3" in message
    Projection.learn(sample(4), 3)


def test_round_trip():
    learned = Projection.learn(sample(), 3)
    again = Projection.from_bytes(learned.to_bytes())
    np.testing.assert_array_equal(again.mean, learned.mean)
    np.testing.assert_array_equal(again.axes, learned.axes)
    np.testing.assert_array_equal(again(sample()), learned(sample()))


def npy(array, **more):
    stream = io.BytesIO()
    np.save(stream, array, **more)
    return stream.getvalue()


def npz():
    stream = io.BytesIO()
    np.savez(stream, a=np.ones((2, 3), np.float32))
    return stream.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text",
        npy(np.ones((4, 6))),
        npy(np.ones(6, np.float32)),
        npy(np.ones((1, 6), np.float32)),
        npy(np.ones((8, 6), np.float32)),
        npy(np.full((3, 6), np.nan, np.float32)),
        npy(np.ones((2, 3, 4), np.float32)),
        npy(np.array([[{}, {}], [{}, {}]], object), allow_pickle=True),
        npy(np.ones((4, 6), np.float32))[:-5],
        npz(),
    ],
)
def test_what_is_no_projection(data):
    with pytest.raises(ValueError):
        Projection.from_bytes(data)
