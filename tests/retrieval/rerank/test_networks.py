"""The networks of learned re-ranking beside slow transcriptions of their papers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchify_core.retrieval.rerank.networks import MATCHERS, Detector
from tests.retrieval.rerank.weights import KINDS, SLOW, detector_shapes, published_shapes, random_state


def loaded(name, channels=6, binary=False, seed=0):
    network = MATCHERS[name](channels, binary)
    state = random_state(published_shapes(name, channels, binary), seed)
    network.load_state_dict(state)
    return network.eval(), {key: value.double().numpy() for key, value in state.items()}


def similarity(network, query, gallery):
    with torch.inference_mode():
        rows = (network.describe(torch.from_numpy(part).float()) for part in (query, gallery))
        return float(network(*rows))


@pytest.mark.parametrize(("name", "binary"), KINDS)
@pytest.mark.parametrize(("query", "gallery"), [(5, 3), (1, 1), (2, 7)])
def test_a_network_is_the_papers_formula(name, binary, query, gallery):
    network, state = loaded(name, binary=binary, seed=query)
    rng = np.random.default_rng(gallery)
    rows = rng.normal(size=(query, 6)), rng.normal(size=(gallery, 6))
    assert similarity(network, *rows) == pytest.approx(
        SLOW[name](state, *rows, binary), abs=2e-3 if name == "ames" else 1e-4
    )


def test_the_detector_is_two_layers_over_each_cell():
    state = random_state(detector_shapes(5))
    detector = Detector(5)
    detector.load_state_dict(state)
    cells = np.random.default_rng(0).normal(size=(4, 5))
    with torch.inference_mode():
        features, attention = detector.eval()(torch.from_numpy(cells).float())
    numbers = {key: value.double().numpy() for key, value in state.items()}
    for row, cell in enumerate(cells):
        first = numbers["conv1.weight"][:, :, 0, 0] @ cell + numbers["conv1.bias"]
        scale = numbers["bn.weight"] / np.sqrt(numbers["bn.running_var"] + 1e-5)
        first = (first - numbers["bn.running_mean"]) * scale + numbers["bn.bias"]
        last = float(numbers["conv2.weight"][0, :, 0, 0] @ np.maximum(first, 0) + numbers["conv2.bias"][0])
        assert features[row].numpy() == pytest.approx(first, abs=1e-5)
        assert float(attention[row]) == pytest.approx(math.log1p(math.exp(last)), abs=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(KINDS), st.integers(1, 6), st.integers(1, 6), st.randoms(use_true_random=False))
def test_the_order_of_descriptors_says_nothing(kind, query, gallery, random):
    network, _ = loaded(kind[0], binary=kind[1])
    rng = np.random.default_rng(query * 10 + gallery)
    rows = rng.normal(size=(query, 6)), rng.normal(size=(gallery, 6))
    turned = tuple(part[random.sample(range(len(part)), len(part))] for part in rows)
    assert similarity(network, *turned) == pytest.approx(similarity(network, *rows), abs=1e-4)
    longer = (rows[0] * 3, rows[1] * 0.5)  # only directions count
    assert similarity(network, *longer) == pytest.approx(similarity(network, *rows), abs=5e-3)
