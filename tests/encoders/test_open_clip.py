"""encoders.open_clip: real architectures of the library in small, with weights that the test makes."""

from __future__ import annotations

import json

import numpy as np
import open_clip
import pytest
import torch

from patchify_core.encoders import FORMS, EncoderSettings, TextEncoder, load_encoder
from patchify_core.encoders import open_clip as ours
from patchify_core.encoders.checkpoints import UNSTATED_LICENCE
from patchify_core.patchify import Patchify
from tests.checkpoints import BAD, assert_is_an_encoder, assert_searches, assert_sees_as_the_library, save_bad
from tests.timing import shortest

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
CONFIGS = {
    # CLIP's own two towers, and the form of SigLIP, MobileCLIP and PE: a tower of timm beside a text tower.
    "tiny-clip": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": TEXT,
    },
    "tiny-timm-clip": {
        "embed_dim": 24,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear"},
        "text_cfg": TEXT,
    },
    "wide-clip": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": [32, 64], "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": TEXT,
    },
    "hub-words-clip": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": TEXT | {"hf_tokenizer_name": "nobody/nothing"},
    },
    "hub-text-clip": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"hf_model_name": "nobody/nothing", "hf_tokenizer_name": "nobody/nothing"},
    },
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """weights(arch, seed): a checkpoint of that architecture with random weights."""
    folder = tmp_path_factory.mktemp("clip")
    for name, config in CONFIGS.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)

    def make(arch="tiny-clip", seed=0):
        path = folder / f"{arch}-{seed}.pt"
        if not path.exists():
            torch.manual_seed(seed)
            torch.save(open_clip.create_model(arch).state_dict(), path)
        return path

    return make


# One encoder ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["tiny-clip", "tiny-timm-clip"])
def test_a_local_checkpoint_is_an_encoder(arch, weights):
    encoder = load_encoder(f"open_clip:{arch}/{weights(arch)}")
    assert_is_an_encoder(encoder)
    info = encoder.info
    assert (info.spec, info.dim) == (f"open_clip:{arch}/{weights(arch)}", 24)
    assert info.input_size == CONFIGS[arch]["vision_cfg"]["image_size"]
    assert info.licence == UNSTATED_LICENCE


@pytest.mark.parametrize("arch", ["tiny-clip", "tiny-timm-clip"])
def test_it_sees_and_describes_as_the_library_does(arch, weights):
    path = str(weights(arch))
    encoder = load_encoder(f"open_clip:{arch}/{path}")
    model, _, transform = open_clip.create_model_and_transforms(arch, pretrained=path)
    assert_sees_as_the_library(encoder, transform)
    crops = np.random.default_rng(0).integers(
        0, 256, (2, encoder.info.input_size, encoder.info.input_size, 3), np.uint8
    )
    with torch.inference_mode():
        pictures = model.eval().encode_image(encoder.as_input(crops), normalize=True)
        words = model.encode_text(open_clip.get_tokenizer(arch)(["a red kettle"]), normalize=True)
    np.testing.assert_allclose(encoder.encode(crops), pictures.numpy(), atol=1e-5)
    np.testing.assert_allclose(encoder.encode_text("a red kettle"), words[0].numpy(), atol=1e-5)


def test_a_box_is_squashed_not_cropped(weights):
    # A wide box: red at its left end, which a centre crop would lose.
    from PIL import Image

    wide = Image.new("RGB", (128, 32))
    wide.paste((255, 0, 0), (0, 0, 32, 32))
    crop = load_encoder(f"open_clip:tiny-clip/{weights()}").prepare(wide, (0, 0, 128, 32))
    assert crop[16, 2].tolist() == [255, 0, 0] and crop[16, 20].tolist() == [0, 0, 0]


def test_safetensors_and_training_checkpoints_are_read_too(weights, tmp_path):
    from safetensors.torch import save_file

    state = torch.load(weights(), weights_only=True)
    save_file(state, tmp_path / "a.safetensors")
    torch.save({"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "b.pt")
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    crops = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
    expected = load_encoder(f"open_clip:tiny-clip/{weights()}").encode(crops)
    for name in ("a.safetensors", "b.pt", "old.pt"):
        np.testing.assert_array_equal(load_encoder(f"open_clip:tiny-clip/{tmp_path / name}").encode(crops), expected)


def test_colours_of_a_local_file_are_those_of_the_published_weights():
    # open_clip itself would take CLIP's for each of them. ViT-L-14's published weights differ: none is right for all.
    assert ours._agreed("ViT-B-16-SigLIP")["mean"] == (0.5, 0.5, 0.5)
    assert ours._agreed("ViT-B-32")["mean"] == open_clip.OPENAI_DATASET_MEAN
    assert ours._agreed("ViT-L-14") == ours._agreed("tiny-clip") == {}


# Indexes and words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["tiny-clip", "tiny-timm-clip"])
def test_from_build_to_search_with_pictures_and_words(arch, weights, tmp_path):
    assert_searches(load_encoder(f"open_clip:{arch}/{weights(arch)}"), tmp_path, words="a red kettle")


def test_words_are_described(weights, refused):
    encoder = load_encoder(f"open_clip:tiny-clip/{weights()}")
    assert isinstance(encoder, TextEncoder)
    one, other = encoder.encode_text("a red kettle"), encoder.encode_text("two blue chairs, seen from above")
    assert one.shape == (24,) and one.dtype == np.float32
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-5)
    assert abs(one - other).max() > 1e-3
    assert encoder.encode_text("word " * 1000).shape == (24,)  # longer than the context
    for nothing in ("", "  \n"):
        assert "no words" in refused(encoder.encode_text, nothing)


def test_a_relative_path_is_remembered_for_every_folder(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(weights().parent)
    encoder = load_encoder(f"open_clip:tiny-clip/./{weights().name}")
    monkeypatch.chdir(tmp_path)
    assert load_encoder(encoder.info.spec).info == encoder.info


def test_an_index_is_bound_to_its_weights(weights, tmp_path, refused):
    path = tmp_path / "mine.pt"
    path.write_bytes(weights(seed=0).read_bytes())
    encoder = load_encoder(f"open_clip:tiny-clip/{path}")
    assert encoder.info == load_encoder(f"open_clip:tiny-clip/{path}").info
    assert encoder.info.weights_sha256 == load_encoder(f"open_clip:tiny-clip/{weights(seed=0)}").info.weights_sha256
    assert_searches(encoder, tmp_path)
    path.write_bytes(weights(seed=1).read_bytes())  # trained on, under the same name
    assert "does not fit other weights" in refused(Patchify.open, tmp_path / "idx")


def test_words_need_an_encoder_with_a_text_side(sample_engine, refused):
    said = refused(sample_engine.search, text="a teddy bear")
    assert "effnet-lite0 understands pictures only" in said and "open_clip" in said


def test_exactly_one_kind_of_query(sample_engine, refused):
    assert "exactly one" in refused(sample_engine.search)
    assert "exactly one" in refused(sample_engine.search, "a.jpg", text="a bear")
    assert "A box belongs" in refused(sample_engine.search, None, (0, 0, 9, 9), text="a bear")


def test_the_command_line_takes_words(weights, tmp_path, capsys):
    from patchify_core.cli.main import main

    assert_searches(load_encoder(f"open_clip:tiny-clip/{weights()}"), tmp_path)
    capsys.readouterr()
    index, photo = str(tmp_path / "idx"), str(tmp_path / "photos" / "0001.png")
    assert main(["search", index, "--text", "a red kettle", "--top", "2", "--json"]) == 0
    assert [row["rank"] for row in json.loads(capsys.readouterr().out)] == [1, 2]
    for wrong in ([index], [index, photo, "--text", "a kettle"]):
        assert main(["search", *wrong]) == 2
        assert capsys.readouterr().err == (
            "error: Give either PICTURE or --text WORDS to search with: exactly one of the two.\n"
        )
    assert main(["search", index, "--text", "a kettle", "--box", "0,0,9,9"]) == 2
    assert "A box belongs" in capsys.readouterr().err


# Refusals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BAD)
def test_a_wrong_file_is_refused_and_never_run(kind, weights, tmp_path, refused):
    path = save_bad(kind, weights(), tmp_path)
    said = refused(load_encoder, f"open_clip:tiny-clip/{path}")
    assert str(path) in said and "effnet-lite0" in said
    assert not (tmp_path / "ran").exists()


def test_another_architectures_checkpoint_is_refused(weights, refused):
    said = refused(load_encoder, f"open_clip:tiny-clip/{weights('tiny-timm-clip')}")
    assert "not a checkpoint of open_clip's tiny-clip" in said and "effnet-lite0" in said


def test_pictures_that_are_not_square_are_refused(weights, refused):
    assert "not square" in refused(load_encoder, f"open_clip:wide-clip/{weights('wide-clip')}")


@pytest.mark.parametrize(
    ("spec", "near"),
    [
        ("open_clip:ViT-B-23/openai", "ViT-B-32"),
        ("open_clip:ViT-B-32/opneai", "openai"),
        ("open_clip:ViT-B-16-SigLIP/webly", "webli"),
        ("openclip:ViT-B-32/openai", "open_clip:"),
    ],
)
def test_an_unknown_name_says_the_nearest(spec, near, weights, refused):
    said = refused(load_encoder, spec)
    assert f"nearest is {near}" in said and "effnet-lite0" in said


def test_every_form_is_listed(refused):
    assert all(form in refused(load_encoder, "nonsense") for form in FORMS)


@pytest.mark.parametrize("spec", ["open_clip:ViT-B-32/openai", "open_clip:ViT-B-16-SigLIP/webli"])
def test_without_a_network_it_says_so_at_once(spec, offline, refused):
    said: list[str] = []
    assert shortest(lambda: said.append(refused(load_encoder, spec)), 5) < 5
    assert "cannot be downloaded" in said[-1] and "effnet-lite0" in said[-1]


def test_a_tag_is_loaded_from_the_hubs_cache_without_a_network(weights, offline, tmp_path, monkeypatch):
    # As if it had been downloaded before: the cache has the layout of huggingface_hub.
    snapshot = tmp_path / "nothing" / "models--someone--tiny" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    (snapshot / "open_clip_pytorch_model.bin").write_bytes(weights().read_bytes())
    tag = {"hf_hub": "someone/tiny/", "mean": (0.5,) * 3, "std": (0.25,) * 3, "interpolation": "bilinear"}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-clip", {"mine": tag | {"quick_gelu": True}})
    encoder = load_encoder("open_clip:tiny-clip/mine")
    assert encoder.info.spec == "open_clip:tiny-clip/mine"
    assert (encoder.preprocessing.mean, encoder.preprocessing.std, encoder.preprocessing.interpolation) == (
        (0.5,) * 3,
        (0.25,) * 3,
        "bilinear",
    )
    assert "QuickGELU" in str(encoder.network)


def test_a_vocabulary_that_is_not_there(weights, offline, refused, monkeypatch):
    encoder = load_encoder(f"open_clip:hub-words-clip/{weights('hub-words-clip')}")
    assert_is_an_encoder(encoder)  # pictures need no vocabulary
    monkeypatch.setattr(ours.importlib.util, "find_spec", lambda name: None)
    assert "pip install transformers" in refused(encoder.encode_text, "a kettle")
    assert "pip install transformers" in refused(load_encoder, f"open_clip:hub-text-clip/{weights()}")
    monkeypatch.setattr(ours.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(open_clip, "get_tokenizer", fail)
    assert "cannot be downloaded" in refused(encoder.encode_text, "a kettle")


def fail(*args, **kwargs):
    raise OSError("no such file")


# Devices --------------------------------------------------------------------------------------------------


def test_the_device_is_a_setting(weights, monkeypatch, refused):
    spec = f"open_clip:tiny-clip/{weights()}"
    assert load_encoder(spec, EncoderSettings(device="cpu")).device.type == "cpu"
    monkeypatch.setenv("PATCHIFY_DEVICE", " CPU ")
    assert EncoderSettings().device == "cpu"
    monkeypatch.delenv("PATCHIFY_DEVICE")
    assert EncoderSettings().device == "auto"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert load_encoder(spec).device.type == "cpu"
    for absent in ("cuda", "cuda:1", "mps"):
        assert f"no device '{absent}'" in refused(load_encoder, spec, EncoderSettings(device=absent))
        assert f"no device '{absent}'" in refused(load_encoder, "effnet-lite0", EncoderSettings(device=absent))


@pytest.mark.parametrize("text", ["gpu", "cuda:", "cuda:x", "cpu:0", "cuda:١"])
def test_a_device_that_is_none_is_refused(text, monkeypatch, refused):
    monkeypatch.setenv("PATCHIFY_DEVICE", text)
    assert "PATCHIFY_DEVICE" in refused(EncoderSettings)


def test_auto_takes_the_fastest_kind(monkeypatch):
    from patchify_core.encoders.devices import choose_device

    auto = EncoderSettings(device="auto")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(auto).type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device(auto).type == "cuda"


def test_half_precision_is_for_cuda_alone(monkeypatch):
    from patchify_core.encoders.devices import half_precisions, mixed_precision

    for kind in ("cpu", "mps"):
        assert half_precisions(torch.device(kind), "auto") == ()
        with mixed_precision(torch.device(kind), None):
            assert not torch.is_autocast_enabled("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cuda = torch.device("cuda")
    for has_it, first in ((True, torch.bfloat16), (False, torch.float16)):
        # A card that only emulates it is one that has not got it.
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True, has_it=has_it: has_it)
        assert mixed_precision(cuda, half_precisions(cuda, "auto")[0]).fast_dtype == first


def test_numbers_that_are_not_finite_are_refused(weights, refused):
    encoder = load_encoder(f"open_clip:tiny-clip/{weights()}")
    encoder.network.visual.ln_post.weight.data.fill_(float("nan"))
    assert "not finite" in refused(encoder.encode, np.zeros((1, 32, 32, 3), np.uint8))
