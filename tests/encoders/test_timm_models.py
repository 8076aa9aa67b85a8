"""encoders.timm_models: real models of timm with weights that the test makes."""

from __future__ import annotations

import functools
import http.server
import threading

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants

from patchify_core.encoders import load_encoder
from patchify_core.encoders.checkpoints import UNSTATED_LICENCE
from patchify_core.patchify import Patchify
from tests.checkpoints import BAD, assert_is_an_encoder, assert_searches, assert_sees_as_the_library, save_bad
from tests.timing import shortest
from tests.tiny import picture

# timm's own models for tests: a vision transformer, a ResNet and a ConvNeXt of the real code, in small.
SMALL = ("test_vit", "test_resnet", "test_convnext")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """weights(name, seed, classes): a checkpoint of that model with random weights, as timm saves it."""
    folder = tmp_path_factory.mktemp("timm")

    def make(name="test_vit", seed=0, classes=None):
        path = folder / f"{name}-{seed}-{classes}.pth"
        if not path.exists():
            torch.manual_seed(seed)
            torch.save(timm.create_model(name, num_classes=classes).state_dict(), path)
        return path

    return make


def features(name, path, inputs):
    """What timm itself gives, by its documented way."""
    network = timm.create_model(name, pretrained=False, num_classes=0)
    state = {key: value for key, value in torch.load(path, weights_only=True).items() if "fc." not in key}
    network.load_state_dict(state, strict=False)
    with torch.inference_mode():
        return torch.nn.functional.normalize(network.eval()(inputs)).numpy()


@pytest.mark.parametrize("name", SMALL)
def test_a_local_checkpoint_is_an_encoder(name, weights):
    encoder = load_encoder(f"timm:{name}@{weights(name)}")
    assert_is_an_encoder(encoder)
    assert encoder.info.spec == f"timm:{name}@{weights(name)}"
    assert encoder.info.input_size == 160
    assert encoder.info.licence == UNSTATED_LICENCE
    crops = np.random.default_rng(0).integers(0, 256, (2, 160, 160, 3), np.uint8)
    expected = features(name, weights(name), encoder.as_input(crops))
    np.testing.assert_allclose(encoder.encode(crops), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "side", "pooling", "licence"),
    [
        ("vit_small_patch14_dinov2.lvd142m", 518, "token", "apache-2.0"),
        ("vit_small_patch14_reg4_dinov2.lvd142m", 518, "token", "apache-2.0"),
        ("vit_small_patch16_dinov3.lvd1689m", 256, "avg", "dinov3-license"),
    ],
)
def test_dino_is_an_encoder(name, side, pooling, licence, weights):
    path = weights(name.partition(".")[0])
    encoder = load_encoder(f"timm:{name}@{path}")
    info = encoder.info
    assert (info.input_size, info.dim, info.pooling, info.licence) == (side, 384, pooling, licence)
    crop = encoder.prepare(picture(1, (90, 40)), (0, 0, 90, 40))
    row = encoder.encode(crop[None])
    assert row.shape == (1, 384) and np.linalg.norm(row) == pytest.approx(1, abs=1e-5)
    # The class token (DINOv2) or the mean of the patches' tokens (DINOv3), as timm pools them: nothing of a head.
    with torch.inference_mode():
        tokens = encoder.network.forward_features(encoder.as_input(crop[None]))
        first = encoder.network.num_prefix_tokens
        pooled = tokens[:, 0] if pooling == "token" else tokens[:, first:].mean(1)
        pooled = torch.nn.functional.normalize(encoder.network.fc_norm(pooled)).numpy()
    np.testing.assert_allclose(row, pooled, atol=1e-5)
    path.unlink()


@pytest.mark.parametrize("name", [*SMALL, "efficientnet_b0"])
def test_it_sees_as_the_library_does(name, weights):
    from timm.data import create_transform, resolve_model_data_config

    encoder = load_encoder(f"timm:{name}@{weights(name)}")
    config = resolve_model_data_config(encoder.network)
    assert_sees_as_the_library(encoder, create_transform(**config | {"crop_pct": 1.0}))
    assert encoder.preprocessing.interpolation == config["interpolation"]


def test_from_build_to_search(weights, tmp_path):
    assert_searches(load_encoder(f"timm:test_vit@{weights()}"), tmp_path)


def test_an_index_is_bound_to_its_weights(weights, tmp_path, refused):
    path = tmp_path / "mine.pth"
    path.write_bytes(weights(seed=0).read_bytes())
    encoder = load_encoder(f"timm:test_vit@{path}")
    assert encoder.info.weights_sha256 == load_encoder(f"timm:test_vit@{weights(seed=0)}").info.weights_sha256
    assert_searches(encoder, tmp_path)
    path.write_bytes(weights(seed=1).read_bytes())
    assert "does not fit other weights" in refused(Patchify.open, tmp_path / "idx")


@pytest.mark.parametrize("classes", [0, 7])
def test_a_backbone_and_a_fine_tuned_model_are_read_too(classes, weights):
    # Without a head, and with a head of another size than the published one.
    for name in SMALL:
        path = weights(name, 0, classes)
        encoder = load_encoder(f"timm:{name}@{path}")
        crops = np.random.default_rng(0).integers(0, 256, (1, 160, 160, 3), np.uint8)
        expected = features(name, weights(name, 0, 0), encoder.as_input(crops)) if classes == 0 else None
        assert encoder.encode(crops).shape == (1, encoder.info.dim)
        if expected is not None:
            np.testing.assert_allclose(encoder.encode(crops), expected, atol=1e-5)


def test_training_checkpoints_and_safetensors_are_read_too(weights, tmp_path):
    from safetensors.torch import save_file

    state = torch.load(weights(), weights_only=True)
    save_file(state, tmp_path / "a.safetensors")
    torch.save({"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "b.pt")
    crops = np.random.default_rng(0).integers(0, 256, (1, 160, 160, 3), np.uint8)
    expected = load_encoder(f"timm:test_vit@{weights()}").encode(crops)
    for name in ("a.safetensors", "b.pt"):
        np.testing.assert_array_equal(load_encoder(f"timm:test_vit@{tmp_path / name}").encode(crops), expected)


# Refusals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BAD)
def test_a_wrong_file_is_refused_and_never_run(kind, weights, tmp_path, refused):
    path = save_bad(kind, weights(), tmp_path)
    said = refused(load_encoder, f"timm:test_vit@{path}")
    assert str(path) in said and "effnet-lite0" in said
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", [*SMALL, "test_vit2", "test_efficientnet", "convnext_atto", "test_mambaout"])
@pytest.mark.parametrize("classes", [None, 0, 7])
def test_another_models_checkpoint_is_refused(name, classes, weights, refused):
    # timm is lenient about tensors that are missing when the head differs, and always so for some families.
    other = "test_resnet" if name == "test_vit" else "test_vit"
    said = refused(load_encoder, f"timm:{name}@{weights(other, 0, classes)}")
    assert f"not a checkpoint of timm's {name}" in said and "effnet-lite0" in said


@pytest.mark.parametrize(
    ("spec", "near"),
    [
        ("timm:vit_smal_patch14_dinov2", "vit_small_patch14_dinov2"),
        ("timm:vit_small_patch14_dinov2.lvd142", "lvd142m"),
        ("tim:resnet18", "timm:"),
    ],
)
def test_an_unknown_name_says_the_nearest(spec, near, refused):
    said = refused(load_encoder, spec)
    assert f"nearest is {near}" in said and "effnet-lite0" in said


@pytest.mark.parametrize("spec", ["timm:vit_base_patch16_sapiens2", "timm:test_vit_relpos"])
def test_models_that_cannot_serve(spec, refused):
    # Not square; without any published weights.
    assert "effnet-lite0" in refused(load_encoder, spec)


@pytest.mark.parametrize("spec", ["timm:vit_small_patch14_dinov2.lvd142m", "timm:legacy_seresnet18"])
def test_without_a_network_it_says_so_at_once(spec, offline, refused, monkeypatch, tmp_path):
    def no_network(*args, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("timm.models._hub.download_url_to_file", no_network)
    said: list[str] = []
    assert shortest(lambda: said.append(refused(load_encoder, spec)), 5) < 5
    assert "cannot be downloaded" in said[-1] and "effnet-lite0" in said[-1]


def test_published_weights_are_loaded_from_the_hubs_cache_without_a_network(weights, offline, tmp_path):
    from safetensors.torch import save_file

    snapshot = tmp_path / "nothing" / "models--timm--test_vit.r160_in1k" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    save_file(torch.load(weights(), weights_only=True), snapshot / "model.safetensors")
    encoder = load_encoder("timm:test_vit.r160_in1k")
    assert encoder.info.spec == "timm:test_vit.r160_in1k"
    assert encoder.info.licence == "apache-2.0"
    crops = np.random.default_rng(0).integers(0, 256, (1, 160, 160, 3), np.uint8)
    np.testing.assert_array_equal(encoder.encode(crops), load_encoder(f"timm:test_vit@{weights()}").encode(crops))


class _Hub(http.server.SimpleHTTPRequestHandler):
    """As much of the hub as a download asks for: any file, its digest and its commit."""

    def do_HEAD(self):
        if self.path == "/":
            self.send_error(403)  # an answer is an answer
        elif "gated" in self.path:
            self.refuse(403, "GatedRepo")
        else:
            super().do_HEAD()

    def send_error(self, code, *args):
        self.refuse(code, "EntryNotFound")

    def refuse(self, code, name):
        self.send_response(code)
        self.send_header("X-Error-Code", name)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def end_headers(self):
        self.send_header("ETag", '"0123456789"')
        self.send_header("X-Repo-Commit", "abc")
        super().end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub on this machine that serves the folder given here, and an empty cache."""
    served = tmp_path / "served"
    served.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Hub, directory=served)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield served
        server.shutdown()


def test_the_first_use_downloads_and_the_second_does_not(weights, hub, capfd, monkeypatch):
    monkeypatch.setenv("TQDM_POSITION", "-1")  # draws the bar although this is no terminal
    # Only the older kind of file is there, so that the preferred name is asked for in vain.
    folder = hub / "timm" / "test_vit.r160_in1k" / "resolve" / "main"
    folder.mkdir(parents=True)
    (folder / "pytorch_model.bin").write_bytes(weights().read_bytes())
    first = load_encoder("timm:test_vit.r160_in1k")
    assert "pytorch_model.bin: 100%" in capfd.readouterr().err  # the progress bar
    (folder / "pytorch_model.bin").unlink()
    assert load_encoder("timm:test_vit.r160_in1k").info == first.info
    assert first.info.weights_sha256 == load_encoder(f"timm:test_vit@{weights()}").info.weights_sha256


def test_weights_that_the_hub_does_not_give(hub, refused, tmp_path):
    from patchify_core.encoders.checkpoints import hub_file

    assert "holds no weights" in refused(load_encoder, "timm:test_vit.r160_in1k")
    assert "accept their terms" in refused(hub_file, "some/gated", ["model.safetensors"], "timm:test_vit")
