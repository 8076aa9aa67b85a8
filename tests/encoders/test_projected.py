"""Published linear layers behind an encoder: `SPEC+projection@FILE`, and --projection."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from patchify_core.encoders import MapEncoder, TextEncoder, load_encoder
from patchify_core.encoders.projected import projected
from patchify_core.errors import EncoderError
from patchify_core.features.crop import describe
from patchify_core.index.folder import read_meta
from tests.checkpoints import BAD, save_bad
from tests.cli import DONE, process
from tests.tiny import DIM, TinyEncoder, picture, write_dataset

BOXES = [(0, 0, 40, 30), (5, 5, 20, 25)]


def layer(path, dim=8, full=DIM, seed=0, **changes):
    """A file as ILIAS publishes its layers."""
    torch.manual_seed(seed)
    linear = torch.nn.Linear(full, dim)
    tensors = {"layer.weight": linear.weight.data, "layer.bias": linear.bias.data, **changes}
    tensors = {key: value for key, value in tensors.items() if value is not None}
    (save_file if path.suffix == ".safetensors" else torch.save)(tensors, path)
    return path


@pytest.mark.parametrize("name", ["layer.pth", "layer.safetensors"])
def test_descriptors_are_normalised_w_x_plus_b(tmp_path, name):
    path = layer(tmp_path / name)
    encoder, scene = projected(TinyEncoder(), str(path)), picture(1, (40, 30))
    held = torch.nn.Linear(DIM, 8)
    state = torch.load(layer(tmp_path / "same.pth"), weights_only=True)
    held.load_state_dict({"weight": state["layer.weight"], "bias": state["layer.bias"]})
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(held(torch.from_numpy(describe(scene, BOXES, TinyEncoder())))).numpy()
    found = describe(scene, BOXES, encoder)
    assert found == pytest.approx(expected, abs=1e-6) and found.dtype == np.float32
    assert encoder.info.dim == 8 and encoder.info.spec == f"tiny+projection@{path}"


def test_a_layer_without_a_bias(tmp_path):
    path = layer(tmp_path / "layer.pth", **{"layer.bias": None})
    weight = torch.load(path, weights_only=True)["layer.weight"].numpy()
    plain = describe(picture(1), (0, 0, 24, 18), TinyEncoder()) @ weight.T
    found = describe(picture(1), (0, 0, 24, 18), projected(TinyEncoder(), str(path)))
    assert found == pytest.approx(plain / np.linalg.norm(plain), abs=1e-6)


def test_a_layer_as_training_leaves_it(tmp_path):
    """Parameters that want gradients, in half precision or as a view, are numbers all the same."""
    plain = layer(tmp_path / "plain.pth")
    state = torch.load(plain, weights_only=True)
    expected = describe(picture(1), (0, 0, 24, 18), projected(TinyEncoder(), str(plain)))
    parameters = {key: torch.nn.Parameter(value) for key, value in state.items()}
    views = {key: torch.cat([value, value])[len(value) :] for key, value in state.items()}
    for changes in (parameters, {**views, "layer.weight": state["layer.weight"].T.contiguous().T}):
        path = str(layer(tmp_path / "layer.pth", **changes))
        assert describe(picture(1), (0, 0, 24, 18), projected(TinyEncoder(), path)) == pytest.approx(expected, abs=1e-6)
    path = str(layer(tmp_path / "half.pth", **{key: value.bfloat16() for key, value in parameters.items()}))
    assert describe(picture(1), (0, 0, 24, 18), projected(TinyEncoder(), path)) == pytest.approx(expected, abs=0.02)


def test_the_digest_is_of_encoder_and_layer(tmp_path):
    one, other = (projected(TinyEncoder(), str(layer(tmp_path / "x.pth", seed=seed))).info for seed in (0, 1))
    assert one.spec == other.spec and one.weights_sha256 != other.weights_sha256 != TinyEncoder().info.weights_sha256


def test_maps_and_words_go_through_it_where_the_encoder_has_them(tmp_path):
    class Speaking(TinyEncoder):
        def encode_text(self, words):
            return np.eye(1, DIM, len(words), dtype=np.float32)[0]

    path = str(layer(tmp_path / "layer.pth"))
    silent, speaking = projected(TinyEncoder(), path), projected(Speaking(), path)
    assert isinstance(speaking, TextEncoder) and not isinstance(silent, TextEncoder)
    assert speaking.encode_text("abc").shape == (8,) and np.linalg.norm(speaking.encode_text("abc")) == pytest.approx(1)
    assert isinstance(silent, MapEncoder)
    cells = silent.feature_map(np.zeros((8, 12, 3), np.uint8))
    assert cells.shape == (2, 3, DIM) and silent.describe_pooled(cells[0]).shape == (3, 8)
    aspect = load_encoder(f"aspect:effnet-lite0+projection@{layer(tmp_path / 'wide.pth', full=1280)}")
    assert describe(picture(2, (60, 20)), (0, 0, 60, 20), aspect).shape == (1, 8)
    with pytest.raises(EncoderError, match="describes single crops only"):
        _ = aspect.stride


# What is wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"layer.weight": None},
        {"layer.weight": torch.zeros(3)},
        {"layer.weight": torch.zeros(0, DIM), "layer.bias": torch.zeros(0)},
        {"layer.bias": torch.zeros(9)},
        {"other": torch.zeros(2)},
        {"layer.weight": torch.ones(8, DIM).to_sparse()},
        {"layer.bias": torch.ones(8).to_sparse()},
        {"layer.weight": torch.zeros(8, DIM, device="meta")},
        {"layer.bias": torch.zeros(8, device="meta")},
        {"layer.weight": torch.ones(8, DIM, dtype=torch.complex64)},
        {"layer.bias": torch.ones(8, dtype=torch.complex64)},
        {"layer.weight": torch.ones(1, 1).expand(10**9, DIM)},
        {"layer.weight": torch.ones(1, 1).expand(10**6, 10**6)},
        {"layer.bias": torch.ones(1).expand(8)},
    ],
)
def test_what_is_no_layer(tmp_path, changes):
    path = layer(tmp_path / "layer.pth", **changes)
    with pytest.raises(EncoderError, match=r"layer\.pth is no linear layer"):
        projected(TinyEncoder(), str(path))


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_a_tensor_by_two_names(tmp_path, name):
    path = layer(tmp_path / "layer.pth", **{name: torch.ones({"weight": (8, DIM), "bias": (8,)}[name])})
    with pytest.raises(EncoderError, match=rf"layer\.pth holds both '{name}' and 'layer\.{name}'"):
        projected(TinyEncoder(), str(path))


def test_a_layer_of_another_model(tmp_path):
    path = layer(tmp_path / "layer.pth", full=768)
    with pytest.raises(EncoderError, match=r"layer\.pth projects descriptors of 768 numbers, and tiny gives 24"):
        projected(TinyEncoder(), str(path))
    path = layer(tmp_path / "layer.pth", **{"layer.bias": torch.full((8,), torch.nan)})
    with pytest.raises(EncoderError, match="not finite"):
        projected(TinyEncoder(), str(path))
    with pytest.raises(EncoderError, match="There is no checkpoint"):
        projected(TinyEncoder(), str(tmp_path / "nowhere.pth"))


@pytest.mark.parametrize("kind", BAD)
def test_a_file_of_another_kind_is_refused_and_never_run(tmp_path, kind):
    path = save_bad(kind, layer(tmp_path / "good.pth"), tmp_path)
    with pytest.raises(EncoderError) as refused:
        projected(TinyEncoder(), str(path))
    assert path.name in str(refused.value) and not (tmp_path / "ran").exists()


# The command line ------------------------------------------------------------------------------------------------


def test_index_embed_and_evaluate_take_one_and_an_index_remembers_it(tmp_path):
    data, path = write_dataset(tmp_path / "data"), layer(tmp_path / "layer.pth", full=1280)
    made = ["--regions", "pyramid:1", "--projection", path]

    def run(*arguments):
        done = process(*arguments, module="patchify_core")
        assert done.returncode == DONE, done.stderr
        return done.stdout

    run("index", data, "--out", tmp_path / "idx", *made)
    meta = read_meta(tmp_path / "idx")["encoder"]
    assert meta["spec"] == f"effnet-lite0+projection@{path}" and meta["dim"] == 8
    run("evaluate", data, "--index", tmp_path / "idx", "--json", tmp_path / "x.json")
    numbers = json.loads((tmp_path / "x.json").read_text())
    assert numbers["run"]["encoder"] == meta["spec"] and numbers["bytes_per_image"] == 8 * 4
    run("embed", data, "--out", tmp_path / "shards", *made)
    layer(path, full=1280, seed=5)
    done = process("index", data, "--out", tmp_path / "idx", *made, module="patchify_core")
    assert done.returncode == 2 and "of other weights" in done.stderr
