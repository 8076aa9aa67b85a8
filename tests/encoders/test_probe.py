"""encoders.probe and square: half precision and the compiler are kept only where descriptors stay as they are.

Half precision on a processor is real; a GPU is played by stand-ins. Nothing here was run on a GPU.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch

from patchify_core.encoders import EncoderSettings, load_encoder
from patchify_core.encoders import square as room
from patchify_core.encoders.base import EncoderInfo, Preprocessing
from patchify_core.encoders.devices import Uploads, half_precisions, mixed_precision, readers_for
from patchify_core.encoders.maps import MapRecipe
from patchify_core.encoders.probe import CELLS, SAME_COSINE, disagreement, probe
from patchify_core.encoders.square import SquareEncoder
from patchify_core.errors import EncoderError
from patchify_core.features.crop import describe, describe_many
from patchify_core.imaging.pictures import read_picture
from patchify_core.regions import Pyramid

CPU, SIDE, DIM = torch.device("cpu"), 16, 8
INFO = EncoderInfo("small", DIM, SIDE, "0" * 64, "mean", "none")
LOOK = Preprocessing(SIDE, (0.0,) * 3, (1.0,) * 3)


def small_encoder(describe, **settings):
    return SquareEncoder(describe, LOOK, INFO, CPU, EncoderSettings(device="cpu", **settings))


def network(scale=1.0, offset=0.0):
    """(N, 3, 16, 16) -> (N, 8) through one layer: a matrix product, which autocast does in half precision."""
    torch.manual_seed(1)
    layer = torch.nn.Linear(3 * SIDE * SIDE, DIM).requires_grad_(False)
    layer.weight.mul_(scale)
    layer.bias.fill_(offset)
    return torch.nn.Sequential(torch.nn.Flatten(), layer)


def crops_of(count, seed=5):
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)


@pytest.fixture(autouse=True)
def heard(caplog):
    """Whatever a library that another test used has made of the root logger's level."""
    caplog.set_level(logging.WARNING)


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("timm") / "vit.pth"
    torch.save(timm.create_model("test_vit").state_dict(), path)
    return f"timm:test_vit@{path}"


# The probe -------------------------------------------------------------------------------------------------


def test_the_probe_is_always_the_same_and_goes_from_broad_to_fine():
    found = probe(64)
    assert found.shape == (len(CELLS), 64, 64, 3) and found.dtype == np.uint8
    np.testing.assert_array_equal(found, probe(64))
    grain = np.abs(np.diff(found.astype(int), axis=2)).mean((1, 2, 3))
    assert (np.diff(grain) > 0).all()


@pytest.mark.parametrize(
    ("cosine", "clause"),
    [(1.0, None), (0.9995, None), (0.9985, "only to a cosine of 0.9985"), (float("nan"), "cosine of nan")],
)
def test_each_row_must_agree(cosine, clause):
    exact = np.eye(4, DIM, dtype=np.float32)
    found = exact.copy()
    found[2] *= cosine
    said = disagreement(lambda: found, exact)
    assert said is None if clause is None else clause in said


# Half precision ---------------------------------------------------------------------------------------------


def test_half_precision_is_tried_on_cuda_alone_unless_it_is_asked_for(monkeypatch):
    cuda = SimpleNamespace(type="cuda")
    for kind in ("cpu", "mps"):
        assert half_precisions(torch.device(kind), "auto") == ()
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: not including_emulation)
    assert half_precisions(cuda, "auto") == (torch.bfloat16, torch.float16)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    assert half_precisions(cuda, "auto") == (torch.float16,)
    assert half_precisions(cuda, "float32") == ()
    assert half_precisions(CPU, "bfloat16") == (torch.bfloat16,)
    with mixed_precision(CPU, None):
        assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_half_precision_of_a_real_network_keeps_the_descriptors(kind, spec, sample_gallery, caplog):
    exact, half = load_encoder(spec), load_encoder(spec, EncoderSettings(precision=kind))
    assert (exact.precision, half.precision, caplog.messages) == ("float32", kind, [])
    for image in sample_gallery.images[:2]:
        boxes = Pyramid(2).boxes(image.width, image.height)
        found, expected = (describe(read_picture(image.path), boxes, encoder) for encoder in (half, exact))
        assert found.dtype == np.float32 and not np.array_equal(found, expected)
        assert (found * expected).sum(1).min() > SAME_COSINE
        pixels = np.asarray(read_picture(image.path).resize((192, 128)))
        cells, same = half.feature_map(pixels), exact.feature_map(pixels)
        assert cells.dtype == np.float32 and not np.array_equal(cells, same)
        mean, other = (
            encoder.describe_pooled(map.mean((0, 1))[None]) for encoder, map in ((half, cells), (exact, same))
        )
        assert (mean * other).sum() > SAME_COSINE
    assert half.info == exact.info  # one index serves both


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
@pytest.mark.parametrize("bundled", ["effnet-lite0", "effnet-lite0-block"])
def test_the_bundled_network_in_half_precision_or_not(bundled, kind, sample_gallery, caplog):
    half, exact = load_encoder(bundled, EncoderSettings(precision=kind)), load_encoder(bundled)
    assert half.precision == kind or "computes in float32, not in" in caplog.text
    image = sample_gallery.images[0]
    boxes = Pyramid(3).boxes(image.width, image.height)
    found, expected = (describe(read_picture(image.path), boxes, encoder) for encoder in (half, exact))
    assert (found * expected).sum(1).min() > SAME_COSINE


def test_a_network_that_overflows_computes_in_float32_and_says_so(caplog):
    steep = network(scale=1e5)
    encoder = small_encoder(steep, precision="float16")
    assert encoder.precision == "float32"
    assert caplog.messages == ["small computes in float32, not in float16: it gives numbers that are not finite."]
    np.testing.assert_array_equal(encoder.encode(crops_of(5)), small_encoder(steep).encode(crops_of(5)))


def test_a_network_whose_descriptors_change_computes_in_float32(caplog):
    layer = network(offset=1000.0)  # differences are lost in the last bits of a large number

    def without_offset(inputs):
        return layer(inputs) - 1000

    encoder = small_encoder(without_offset, precision="bfloat16")
    assert encoder.precision == "float32"
    assert "not in bfloat16: its descriptors agree with float32's only to a cosine of" in caplog.text
    np.testing.assert_array_equal(encoder.encode(crops_of(5)), small_encoder(without_offset).encode(crops_of(5)))


def test_the_next_kind_is_tried_before_float32(monkeypatch, caplog):
    monkeypatch.setattr(room, "half_precisions", lambda device, asked: (torch.float16, torch.bfloat16))
    assert small_encoder(network(scale=1e5)).precision == "bfloat16" and caplog.messages == []


def test_numbers_that_overflow_later_are_computed_again(caplog):
    layer = network()

    def describe(inputs):  # overflows for crops brighter than any of the probe
        found = layer(inputs)
        return found * torch.where(inputs.mean((1, 2, 3))[:, None] > 0.9, 1e6, 1.0).to(found.dtype)

    half, exact = small_encoder(describe, precision="float16"), small_encoder(describe)
    assert half.precision == "float16"
    crops = crops_of(4)
    assert (half.encode(crops) * exact.encode(crops)).sum(1).min() > SAME_COSINE
    crops[2] = 255
    np.testing.assert_array_equal(half.encode(crops), exact.encode(crops))
    assert half.precision == "float32"
    half.encode(crops)
    assert caplog.messages == ["small computes in float32, not in float16: it gave numbers that are not finite."]

    expected = exact.encode(crops)
    for _ in range(20):
        caplog.clear()
        again = small_encoder(describe, precision="float16")
        with ThreadPoolExecutor(4) as pool:  # as the page calls it: no batch is half of each precision
            for found in pool.map(again.encode, [crops] * 8):
                np.testing.assert_array_equal(found, expected)
        assert len(caplog.messages) == 1


def test_maps_are_checked_too(monkeypatch, caplog):
    """Crops agree, and the cells of the map overflow."""
    encoder = small_encoder(network(), precision="float16")
    weight = torch.full((DIM, 3), 1e5)

    def cells(inputs):
        return torch.nn.functional.linear(torch.nn.functional.avg_pool2d(inputs, 4).permute(0, 2, 3, 1), weight)

    monkeypatch.setattr(encoder, "_map_recipe", lambda: MapRecipe(4, 1.0, False, cells, lambda pooled: pooled))
    assert encoder.precision == "float16"
    assert np.isfinite(encoder.feature_map(np.full((8, 12, 3), 255, np.uint8))).all()
    assert encoder.precision == "float32"
    assert caplog.messages == ["small computes in float32, not in float16: it gives numbers that are not finite."]


def test_a_network_that_gives_no_numbers_in_float32_is_refused():
    with pytest.raises(EncoderError, match="not finite"):
        small_encoder(network(scale=float("inf")), precision="bfloat16")


# The compiler ----------------------------------------------------------------------------------------------


def test_a_compiled_network_describes_as_the_network_does(caplog):
    plain = network()
    encoder = small_encoder(torch.nn.Sequential(plain, torch.nn.GELU()), compile=True)
    if not encoder.compiled:
        pytest.skip(f"torch.compile does not work here: {caplog.messages}")
    exact = small_encoder(torch.nn.Sequential(plain, torch.nn.GELU()))
    for count in (1, 3, 8, 9, 40):
        np.testing.assert_allclose(encoder.encode(crops_of(count)), exact.encode(crops_of(count)), atol=1e-5)
    assert encoder.compiled and "not compiled" not in caplog.text  # torch's compiler writes a log of its own


@pytest.mark.parametrize("calls", [0, 1, 3])
def test_where_the_compiler_fails_the_network_runs_as_it_is(calls, monkeypatch, caplog):
    """At the first call, which is the probe's, or when a further size comes."""
    plain, left = network(), [calls]

    def compiled(network):
        def call(inputs):
            left[0] -= 1
            if left[0] < 0:
                raise RuntimeError("no C++ compiler")
            return network(inputs)

        return call

    monkeypatch.setattr(torch, "compile", compiled)
    encoder, exact = small_encoder(plain, compile=True), small_encoder(plain)
    for count in (8, 3, 5):
        np.testing.assert_allclose(encoder.encode(crops_of(count)), exact.encode(crops_of(count)), atol=1e-6)
    assert not encoder.compiled
    assert caplog.messages == ["small runs as it is, not compiled: torch.compile cannot compile it on this machine."]


def test_a_compiled_network_that_computes_something_else_is_not_used(monkeypatch, caplog):
    plain = network()
    monkeypatch.setattr(torch, "compile", lambda network: lambda inputs: network(inputs).flip(1))
    encoder = small_encoder(plain, compile=True)
    assert not encoder.compiled and "only to a cosine of" in caplog.text
    np.testing.assert_array_equal(encoder.encode(crops_of(5)), small_encoder(plain).encode(crops_of(5)))


# A device whose memory runs out ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
)
def test_later_batches_are_no_larger_than_what_fitted(error, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr("patchify_core.encoders.devices.PART", 100)
    layer, sizes = network(), []

    def tight(inputs):
        sizes.append(len(inputs))
        if len(inputs) > 3:
            raise error
        return layer(inputs)

    encoder, crops = small_encoder(tight), crops_of(12)
    expected = np.concatenate([small_encoder(layer).encode(crops[at : at + 3]) for at in range(0, 12, 3)])
    np.testing.assert_allclose(encoder.encode(crops), expected, atol=1e-6)
    assert sizes == [12, 6, 3, 3, 6, 3, 3] and encoder.batch_size == 3
    sizes.clear()
    np.testing.assert_allclose(encoder.encode(crops), expected, atol=1e-6)
    assert sizes == [3, 3, 3, 3]  # the stream's batches are as large as before, and nothing is tried in vain


def test_another_error_of_the_network_is_none_of_memory():
    def broken(inputs):
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        small_encoder(broken).encode(crops_of(4))


# A CUDA device, played ---------------------------------------------------------------------------------------


@pytest.fixture
def played_cuda(monkeypatch):
    """What `Uploads` asks of torch.cuda, noted in order; memory is the processor's."""
    events: list[str] = []
    stream = SimpleNamespace(wait_stream=lambda other: events.append("wait"))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: "copies")
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: events.append("pin") or tensor)
    return events


def test_batches_are_copied_ahead_and_waited_for(played_cuda, spec, sample_gallery):
    encoder, exact = load_encoder(spec), load_encoder(spec)
    encoder._uploads = Uploads(CPU)
    images = sample_gallery.images[:3]
    stream = [(i.id, read_picture(i.path), Pyramid(3).boxes(i.width, i.height)) for i in images]
    for found, expected in zip(describe_many(stream, encoder), describe_many(stream, exact), strict=True):
        np.testing.assert_array_equal(found.descriptors, expected.descriptors)
    assert played_cuda.count("pin") == 2 and played_cuda[0] == "pin"  # 32 and 10 crops
    assert played_cuda.count("wait") >= 2  # each part of a batch


def test_a_batch_that_cannot_be_copied_ahead_is_copied_later(played_cuda, monkeypatch):
    def full(tensor):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.Tensor, "pin_memory", full)
    encoder = small_encoder(network())
    encoder._uploads = Uploads(CPU)
    crops = crops_of(5)
    assert encoder.stage(crops) is crops
    np.testing.assert_array_equal(encoder.encode(crops), small_encoder(network()).encode(crops))


def test_readers_are_for_cuda_unless_they_are_asked_for(monkeypatch):
    cuda = SimpleNamespace(type="cuda")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    assert [readers_for(device, EncoderSettings()) for device in (CPU, cuda)] == [0, 6]
    assert [readers_for(device, EncoderSettings(readers=3)) for device in (CPU, cuda)] == [3, 3]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert readers_for(cuda, EncoderSettings()) == 8


# Settings ----------------------------------------------------------------------------------------------------


def test_settings_come_from_the_environment(monkeypatch):
    assert (EncoderSettings().precision, EncoderSettings().compile, EncoderSettings().readers) == ("auto", False, -1)
    for name, text in (("PRECISION", " BFloat16 "), ("COMPILE", "1"), ("READERS", "4")):
        monkeypatch.setenv(f"PATCHIFY_{name}", text)
    found = EncoderSettings()
    assert (found.precision, found.compile, found.readers) == ("bfloat16", True, 4)


@pytest.mark.parametrize(
    ("name", "text"),
    [("PRECISION", "fp8"), ("COMPILE", "maybe"), ("READERS", "-2"), ("READERS", "many"), ("READERS", "1000")],
)
def test_settings_that_are_none_are_refused(name, text, monkeypatch, refused):
    monkeypatch.setenv(f"PATCHIFY_{name}", text)
    assert f"PATCHIFY_{name}" in refused(EncoderSettings)


@pytest.mark.parametrize("more", [{"compile": True}, {"precision": "float16"}])
def test_another_engine_has_its_own_way(more, refused):
    assert "computes in float32 and compiles by itself" in refused(lambda: EncoderSettings(engine="openvino", **more))
    assert EncoderSettings(engine="openvino", precision="float32").precision == "float32"
