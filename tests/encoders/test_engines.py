"""encoders engines, cores and fused: whoever computes, and in however many parts, finds the same."""

from __future__ import annotations

import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchify_core.bench.indexing import plain_network
from patchify_core.encoders import EncoderSettings, load_encoder
from patchify_core.encoders import devices as cores
from patchify_core.encoders.base import ENGINES, EncoderInfo, Preprocessing
from patchify_core.encoders.devices import PART, in_parts
from patchify_core.encoders.effnet import BLOCK_SCALE, LITE_MODELS
from patchify_core.encoders.lite import Convolution, FusedConvolution, can_fuse
from patchify_core.encoders.square import SquareEncoder
from patchify_core.errors import EncoderError
from patchify_core.imaging.pictures import read_picture
from patchify_core.regions import Pyramid

CPU = torch.device("cpu")
NEEDS = {"torch": "torch", "openvino": "openvino"}


def skip_without(engine):
    pytest.importorskip(NEEDS[engine], reason=f"{engine} needs requirements-fast.txt")


@pytest.fixture(params=ENGINES)
def engine(request):
    """Each engine that is installed."""
    skip_without(request.param)
    return request.param


@pytest.fixture
def threads():
    """Sets torch's threads for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def plain_descriptors(spec, crops):
    """The model's own network as timm wrote it, one crop at a time, in the formulas of the papers."""
    network, rows, blocks = plain_network(LITE_MODELS[spec]), [], []
    network.blocks.register_forward_hook(lambda module, inputs, found: blocks.append(found[0].numpy()))
    for crop in crops:
        with torch.inference_mode():
            inputs = torch.from_numpy(crop / 127.5 - 1).permute(2, 0, 1)[None].float()
            maps = network.forward_features(inputs)[0].numpy()
        parts = []
        for weight, part in ((1, maps), (LITE_MODELS[spec].block, blocks.pop())):
            pooled = (np.maximum(part, 1e-6) ** 3).mean(axis=(1, 2)) ** (1 / 3)
            parts += [weight * pooled / np.linalg.norm(pooled)] if weight else []
        row = np.concatenate(parts)
        rows.append(row / np.linalg.norm(row))
    return np.stack(rows)


def crops_for(encoder, sample_gallery, levels=2):
    picture = read_picture(sample_gallery.images[0].path)
    return np.stack([encoder.prepare(picture, box) for box in Pyramid(levels).boxes(*picture.size)])


# Engines --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", sorted(LITE_MODELS))
def test_every_engine_describes_what_the_plain_network_does(spec, engine, sample_gallery):
    encoder = load_encoder(spec, EncoderSettings(engine=engine))
    crops = crops_for(encoder, sample_gallery)
    found = encoder.encode(crops)
    assert found.dtype == np.float32 and found.shape == (5, encoder.info.dim)
    assert (found * plain_descriptors(spec, crops)).sum(1).min() > 0.99999
    assert encoder.info == load_encoder(spec, EncoderSettings(engine="torch")).info  # one index serves both


@pytest.mark.parametrize("spec", ["effnet-lite0", "effnet-lite0-block"])
def test_every_engine_gives_the_same_map(spec, engine, sample_gallery):
    encoder = load_encoder(spec, EncoderSettings(engine=engine))
    with torch.inference_mode():
        network, blocks = plain_network(LITE_MODELS[spec]), []
        network.blocks.register_forward_hook(lambda module, inputs, found: blocks.append(found))
        for size in [(96, 64), (64, 224)]:
            pixels = np.asarray(read_picture(sample_gallery.images[1].path).resize(size))
            inputs = torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1)[None].float()
            maps = network.forward_features(inputs)
            if LITE_MODELS[spec].block:
                maps = torch.cat([maps, blocks[-1] / BLOCK_SCALE], dim=1)
            maps = maps[0].permute(1, 2, 0).clamp(min=1e-6)
            cells = encoder.feature_map(pixels)
            assert cells.dtype == np.float32 and cells.flags["C_CONTIGUOUS"]
            np.testing.assert_allclose(cells, maps.numpy(), atol=5e-3)


def small_network():
    torch.manual_seed(1)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=2), torch.nn.GELU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    ).requires_grad_(False)


def small_encoder(describe, engine, side=12, dim=8):
    info = EncoderInfo("small", dim, side, "0" * 64, "mean", "none")
    return SquareEncoder(
        describe, Preprocessing(side, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)), info, CPU, EncoderSettings(engine=engine)
    )


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_any_network_and_number_of_crops(engine, count):
    network = small_network()
    crops = np.random.default_rng(count).integers(0, 256, (count, 12, 12, 3), np.uint8)
    inputs = (torch.from_numpy(crops).permute(0, 3, 1, 2) / 255 - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)) / (
        torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    )
    expected = torch.nn.functional.normalize(network(inputs)).numpy()
    np.testing.assert_allclose(small_encoder(network, engine).encode(crops), expected, atol=1e-5)


def test_an_engine_serves_several_threads(engine):
    encoder = small_encoder(small_network(), engine)
    batches = np.random.default_rng(0).integers(0, 256, (20, 7, 12, 12, 3), np.uint8)
    alone = [encoder.encode(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(encoder.encode, batches))
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_numbers_that_are_not_finite_are_refused(engine):
    encoder = small_encoder(lambda inputs: inputs.mean(dim=(2, 3)) * float("inf"), engine, dim=3)
    with pytest.raises(EncoderError, match="not finite"):
        encoder.encode(np.full((4, 12, 12, 3), 200, np.uint8))


def test_what_cannot_be_converted_is_one_sentence(refused):
    skip_without("openvino")

    def strange(inputs):
        raise ArithmeticError

    level = logging.root.level
    said = refused(small_encoder, strange, "openvino")
    assert "OpenVINO cannot compute small" in said and "--engine" in said
    assert logging.root.level == level  # or warnings would be heard no more


def test_an_engine_that_is_not_installed_says_what_to_install(monkeypatch, refused):
    monkeypatch.setitem(sys.modules, "openvino", None)
    said = refused(load_encoder, "effnet-lite0", EncoderSettings(engine="openvino"))
    assert "pip install --no-deps -r requirements-fast.txt" in said
    file = (Path(__file__).parents[2] / "requirements-fast.txt").read_text()
    assert "openvino==" in file and "pip install --no-deps -r requirements-fast.txt" in file


def test_openvino_reports_its_use_to_nobody():
    skip_without("openvino")
    small_encoder(small_network(), "openvino")
    assert not [name for name, module in sys.modules.items() if name.startswith("openvino_telemetry") and module]


@pytest.mark.parametrize("name", ["bfloat16", "onnx", "Torch", "", " "])
def test_unknown_engines(name, refused):
    assert "choose torch or openvino" in refused(lambda: EncoderSettings(engine=name))


def test_the_engine_comes_from_the_environment(monkeypatch, refused):
    monkeypatch.delenv("PATCHIFY_ENGINE", raising=False)
    assert EncoderSettings().engine == "torch"
    monkeypatch.setenv("PATCHIFY_ENGINE", " OpenVINO ")
    assert EncoderSettings().engine == "openvino"
    monkeypatch.setenv("PATCHIFY_ENGINE", "abacus")
    assert "PATCHIFY_ENGINE" in refused(EncoderSettings) and "abacus" in refused(EncoderSettings)


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_openvino_is_for_the_processor(device, refused):
    said = refused(load_encoder, "effnet-lite0", EncoderSettings(device=device, engine="openvino"))
    assert "processor" in said and device in said


# Parts ----------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 20), threads=st.integers(1, 4))
def test_parts_are_put_together_in_order(count, threads):
    before = torch.get_num_threads()
    crops = np.arange(count, dtype=np.uint8)[:, None]
    seen = []

    def work(part):
        seen.append((len(part), torch.get_num_threads()))
        return part.astype(np.float32) + 1

    torch.set_num_threads(threads)
    try:
        np.testing.assert_array_equal(in_parts(work, crops, CPU), crops + 1.0)
    finally:
        torch.set_num_threads(before)
    lengths = [length for length, _ in seen]
    assert sum(lengths) == count and max(lengths) - min(lengths) <= 1
    if count < threads:  # they share each layer
        assert seen == [(count, threads)]
    else:  # every thread gets something to do, and computes alone
        assert max(lengths) <= PART and len(seen) >= threads and {alone for _, alone in seen} == {1}


def test_threads_that_compute_alone_leave_the_others_as_they_are(threads):
    threads(3)
    cores._pool.cache_clear()
    in_parts(lambda part: part.astype(np.float32), np.zeros((6, 1), np.uint8), CPU)
    assert torch.get_num_threads() == 3
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 3


def test_an_error_in_a_part_comes_through(threads):
    threads(2)

    def work(part):
        raise EncoderError("Too much.")

    with pytest.raises(EncoderError, match="Too much"):
        in_parts(work, np.zeros((6, 1), np.uint8), CPU)


def test_a_card_gets_the_whole_batch(threads):
    threads(2)
    sizes = []

    def work(part):
        sizes.append(len(part))
        return part.astype(np.float32)

    in_parts(work, np.zeros((6, 1), np.uint8), torch.device("cuda"))
    assert sizes == [6]


# Fused layers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("active", [True, False])
@pytest.mark.parametrize("groups", [1, 6])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_a_convolution_pads_as_timms_and_a_fused_one_is_both_layers(active, groups, stride, kernel):
    from timm.layers import Conv2dSame

    torch.manual_seed(0)
    known = Conv2dSame(6, 12, kernel, stride=stride, groups=groups).requires_grad_(False)
    known.weight *= 20  # so that ReLU6 cuts at both ends
    conv = torch.nn.Conv2d(6, 12, kernel, stride, kernel // 2 if stride == 1 else 0, groups=groups).requires_grad_(
        False
    )
    conv.load_state_dict(known.state_dict())
    ways = [Convolution(conv, active), *([FusedConvolution(conv, active)] if can_fuse(CPU) else [])]
    for size in [(2, 6, 11, 8), (1, 6, 32, 5), (2, 6, 32, 8), (1, 6, 9, 7)]:
        maps = torch.randn(size)
        expected = torch.nn.functional.relu6(known(maps)) if active else known(maps)
        for way in ways:
            torch.testing.assert_close(way(maps), expected, atol=1e-4, rtol=1e-4)
            last = maps.to(memory_format=torch.channels_last)
            torch.testing.assert_close(way(last), expected, atol=1e-4, rtol=1e-4)


def test_the_default_encoder_is_fused_where_it_can_be(lite0):
    layers = [type(layer).__name__ for layer in lite0.network.modules()]
    assert ("FusedConvolution" in layers) == can_fuse(CPU)
    assert "BatchNorm2d" not in layers and "BatchNormAct2d" not in layers
