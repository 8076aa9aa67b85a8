"""encoders.maps: the cells of a whole picture, and that pooling them is what `encode` does to a crop."""

from __future__ import annotations

import copy
import functools
import json

import numpy as np
import open_clip
import pytest
import timm
import torch

from patchify_core.encoders import MapEncoder, as_map_encoder, load_encoder
from patchify_core.encoders.effnet import GEM_FLOOR, LITE_MODELS
from patchify_core.encoders.square import SquareEncoder
from patchify_core.features.maps import PictureMap, pack, thumbnail, unpack
from patchify_core.features.pooled import describe_boxes, picture_cells
from patchify_core.imaging.pictures import read_picture
from tests.tiny import picture


def pixels_of(seed, width, height):
    return np.array(picture(seed, (width, height), cells=17))


def mean_of(cells, power):
    """(h, w, C) -> (1, C), the generalised mean in double precision."""
    return (cells.astype(np.float64) ** power).mean((0, 1), keepdims=True)[0] ** (1 / power)


def assert_maps(encoder, height, width):
    """The promises of `MapEncoder`, at one size in cells."""
    encoder = as_map_encoder(encoder)
    assert isinstance(encoder, MapEncoder)
    pixels = pixels_of(height * width, width * encoder.stride, height * encoder.stride)
    cells = encoder.feature_map(pixels)
    assert cells.shape[:2] == (height, width) and cells.ndim == 3
    assert cells.dtype == np.float32 and cells.flags.c_contiguous
    np.testing.assert_array_equal(cells, encoder.feature_map(pixels))
    pooled = np.concatenate([mean_of(cells, encoder.power), mean_of(cells[:1, :1], encoder.power)])
    rows = encoder.describe_pooled(pooled.astype(np.float32))
    assert rows.shape == (2, encoder.info.dim) and rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert abs(rows[0] - rows[1]).max() > 1e-3
    return cells


# EfficientNet-Lite ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", LITE_MODELS)
def test_pooling_the_map_of_a_crop_is_encoding_it(spec, lite0):
    encoder = lite0 if spec == "effnet-lite0" else load_encoder(spec)
    assert (encoder.stride, encoder.power, encoder.pooled_like_crops) == (32, 3, True)
    # The network takes any size, also where its own (240, 260) is no multiple of the stride.
    for side in (224, 256):
        pixels = pixels_of(1, side, side)
        pooled = mean_of(encoder.feature_map(pixels), encoder.power).astype(np.float32)
        np.testing.assert_allclose(encoder.describe_pooled(pooled), encoder.encode(pixels[None]), atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(2, 2), (3, 7), (12, 5)])
def test_the_map_of_a_picture_of_any_shape(height, width, lite0):
    cells = assert_maps(lite0, height, width)
    assert cells.shape[2] == 1280
    assert cells.min() == np.float32(GEM_FLOOR) and cells.max() > 1


def test_a_kept_map_of_two_parts_describes_as_the_map_does(sample_gallery):
    encoder, weight = load_encoder("effnet-lite0-block"), LITE_MODELS["effnet-lite0-block"].block
    boxes = [[0, 0, 1, 1], [0.1, 0.1, 0.4, 0.5], [0.3, 0.5, 0.45, 0.7], [0.8, 0.8, 0.9, 0.9]]
    for image in sample_gallery.images[:3]:
        scene = read_picture(image.path)
        cells = picture_cells(scene, encoder, 640)
        head, last = cells[..., :1280], cells[..., 1280:]
        assert cells.shape[2] == 1600 and cells.min() == np.float32(GEM_FLOOR)
        assert 0.4 < last.max() / head.max() < 1.2  # one range for both: 8 bits serve neither badly
        kept = unpack(pack(PictureMap(cells, thumbnail(scene)))).cells
        found, same = (describe_boxes(each, boxes, encoder) for each in (kept, cells))
        assert (found[:, :1280] * same[:, :1280]).sum(1) == pytest.approx(1 / (1 + weight**2), abs=1e-4)
        assert (found[:, 1280:] * same[:, 1280:]).sum(1) == pytest.approx(1 - 1 / (1 + weight**2), abs=1e-4)


def test_a_cell_is_where_the_picture_is(lite0):
    # Something at the bottom right of an empty picture shows there and not at the top left.
    empty = np.full((224, 448, 3), 128, np.uint8)
    shown = empty.copy()
    shown[160:, 384:] = pixels_of(2, 64, 64)
    change = np.abs(lite0.feature_map(shown) - lite0.feature_map(empty)).sum(2)
    assert change[5:, 12:].mean() > 5 * change[:2, :7].mean()


@pytest.mark.parametrize("shape", [(224, 230, 3), (1, 32, 3), (0, 32, 3), (32, 32, 4), (32, 32)])
def test_pictures_that_are_no_multiples_are_refused(shape, lite0):
    with pytest.raises(ValueError, match="multiples of 32"):
        lite0.feature_map(np.zeros(shape, np.uint8))


# timm -----------------------------------------------------------------------------------------------------

# timm's own models for tests, each of another form: a class token, the mean of the tokens, attention, CNNs with nothing
# and with a norm after the mean, and with layers after it and the axes in another order (MambaOut).
TIMM = {
    "test_vit": (16, False),
    "test_vit2": (16, True),
    "test_vit3": (16, False),
    "test_resnet": (32, True),
    "test_convnext": (32, True),
    "test_mambaout": (32, True),
    "test_efficientnet": (32, True),
}


@pytest.fixture(scope="module")
def timm_encoder(tmp_path_factory):
    """timm_encoder(name): with random weights of its own; loaded once."""
    folder = tmp_path_factory.mktemp("timm")

    @functools.lru_cache(None)
    def make(name):
        torch.manual_seed(0)
        network = timm.create_model(name, num_classes=0)
        for tensor in network.parameters():  # position embeddings, scales of layers ... that start with nothing
            if float(tensor.detach().abs().max()) < 0.1:
                torch.nn.init.normal_(tensor, std=0.1)
        torch.save(network.state_dict(), folder / f"{name}.pth")
        encoder = load_encoder(f"timm:{name}@{folder / name}.pth")
        (folder / f"{name}.pth").unlink()
        return encoder

    return make


def assert_like_crops(encoder, like_crops):
    """Whether pooling all cells of a crop is encoding it: as it says, and as it must."""
    side = encoder.info.input_size
    rows = []
    pixels = np.stack([pixels_of(seed, side, side) for seed in (1, 2, 3)])
    for crop in pixels:
        rows.append(encoder.describe_pooled(mean_of(encoder.feature_map(crop), encoder.power).astype(np.float32))[0])
    difference = np.abs(np.stack(rows) - encoder.encode(pixels)).max()
    assert encoder.pooled_like_crops == like_crops
    assert difference < 1e-4 if like_crops else difference > 1e-3


@pytest.mark.parametrize("name", TIMM)
def test_timm_models_run_over_pictures(name, timm_encoder):
    encoder = timm_encoder(name)
    stride, like_crops = TIMM[name]
    assert (encoder.stride, encoder.power) == (stride, 1)
    assert_maps(encoder, 7, 10)
    assert_like_crops(encoder, like_crops)


def tokens_of(network, pixels, encoder):
    """What timm gives for one picture, without class and register tokens."""
    with torch.inference_mode():
        return network.forward_features(encoder.as_input(pixels[None]))[0, network.num_prefix_tokens :].numpy()


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("test_vit", 1),
        ("test_vit2", 1),
        ("test_vit3", 1),
        ("vit_small_patch14_dinov2", 1),
        ("vit_small_patch14_reg4_dinov2", 5),  # class token and four registers
        ("vit_small_patch16_dinov3", 5),
    ],
)
def test_cells_of_a_vision_transformer_are_its_tokens(name, prefix, timm_encoder):
    encoder = timm_encoder(name)
    assert encoder.network.num_prefix_tokens == prefix
    side, stride = encoder.info.input_size, encoder.stride
    crop = pixels_of(4, side, side)
    own = tokens_of(encoder.network, crop, encoder).reshape(side // stride, side // stride, -1)
    # At any size: timm's own way to build such a model, with the same weights.
    dynamic = timm.create_model(name, num_classes=0, dynamic_img_size=True).eval()
    dynamic.load_state_dict(encoder.network.state_dict())
    pixels = pixels_of(5, 9 * stride, 4 * stride)
    expected = tokens_of(dynamic, pixels, encoder).reshape(4, 9, -1)
    np.testing.assert_allclose(encoder.feature_map(pixels), expected, atol=1e-4)
    assert np.abs(np.diff(expected, axis=1)).max() > 0.1  # or any order of cells would do
    # At its own size: nothing is interpolated, and running at another size has changed nothing.
    np.testing.assert_array_equal(encoder.feature_map(crop), own)


@pytest.mark.parametrize("name", ["vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2"])
def test_a_class_tokens_head_describes_the_mean_of_the_tokens(name, timm_encoder):
    encoder = timm_encoder(name)
    assert not encoder.pooled_like_crops and encoder.info.pooling == "token"
    pooled = np.random.default_rng(0).normal(size=(5, 384)).astype(np.float32)
    expected = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)  # the norm came before: nothing else follows
    np.testing.assert_allclose(encoder.describe_pooled(pooled), expected, atol=1e-6)


def test_dinov3_pools_patches_and_so_its_crops_are_like_its_maps(timm_encoder):
    assert_like_crops(timm_encoder("vit_small_patch16_dinov3"), True)


def test_attention_pooling_becomes_uniform(timm_encoder):
    # With a query of nothing all cells get the same attention: then pooling before is the same as in the layer.
    encoder = copy.deepcopy(timm_encoder("test_vit3"))
    assert encoder.network.attn_pool is not None
    encoder.network.pool_include_prefix = False  # as in SigLIP; this model pools its register token too
    crop = pixels_of(1, 160, 160)
    cells = encoder.feature_map(crop)
    learned, pooled = encoder.encode(crop[None]), encoder.describe_pooled(mean_of(cells, 1).astype(np.float32))
    encoder.network.attn_pool.q.weight.zero_()
    encoder.network.attn_pool.q.bias.zero_()
    np.testing.assert_allclose(pooled, encoder.encode(crop[None]), atol=1e-5)
    assert np.abs(learned - encoder.encode(crop[None])).max() > 1e-3


# open_clip ------------------------------------------------------------------------------------------------

VISION = {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 8}
TOWER = {"image_size": 160, "timm_pool": "token", "timm_proj": "linear"}
CLIP = {
    "map-clip": (VISION, False),
    "map-clip-avg": (VISION | {"pool_type": "avg", "final_ln_after_pool": True}, True),
    "map-coca": (VISION | {"attentional_pool": True, "attn_pooler_heads": 4, "attn_pooler_queries": 5}, False),
    "map-timm-token": (TOWER | {"timm_model_name": "test_vit"}, False),
    "map-siglip": (TOWER | {"timm_model_name": "test_vit3", "timm_pool": "map", "timm_proj": "none"}, False),
    "map-resnet": (VISION | {"layers": [1, 1, 1, 1], "width": 16, "image_size": 64}, None),
}


@pytest.fixture(scope="module")
def clip_encoder(tmp_path_factory):
    """clip_encoder(arch): with random weights; loaded once."""
    folder = tmp_path_factory.mktemp("clip")
    text = {"context_length": 16, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
    for name, (vision, _) in CLIP.items():
        dim = 96 if name == "map-siglip" else 24
        config = {"embed_dim": dim, "custom_text": True, "vision_cfg": vision, "text_cfg": text}
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)

    @functools.lru_cache(None)
    def make(arch):
        torch.manual_seed(0)
        torch.save(open_clip.create_model(arch).state_dict(), folder / f"{arch}.pt")
        return load_encoder(f"open_clip:{arch}/{folder / arch}.pt")

    return make


@pytest.mark.parametrize("arch", [arch for arch in CLIP if arch != "map-resnet"])
def test_image_towers_run_over_pictures(arch, clip_encoder):
    encoder = clip_encoder(arch)
    assert encoder.power == 1
    assert_maps(encoder, 3, 7)
    assert_like_crops(encoder, CLIP[arch][1])


@pytest.mark.parametrize(("height", "width"), [(4, 4), (6, 10), (9, 1)])
def test_a_clips_cells_attend_to_themselves_in_the_last_layer(height, width, clip_encoder):
    # The reference: open_clip's own model of that size, whose last layer is masked but for each token itself.
    encoder = clip_encoder("map-clip")
    path = encoder.info.spec.partition("/")[2]
    size = (height * 8, width * 8)
    visual = open_clip.create_model("map-clip", pretrained=path, force_image_size=size).visual.eval()
    pixels = pixels_of(6, size[1], size[0])
    with torch.inference_mode():
        *blocks, last = visual.transformer.resblocks
        tokens = visual._embeds(encoder.as_input(pixels[None]))
        for block in blocks:
            tokens = block(tokens)
        alone = torch.full((tokens.shape[1],) * 2, -torch.inf).fill_diagonal_(0)
        tokens = visual.ln_post(last(tokens, attn_mask=alone))[0, 1:]
        projected = torch.nn.functional.normalize(tokens @ visual.proj).numpy()
    cells = encoder.feature_map(pixels)
    np.testing.assert_allclose(cells, tokens.numpy().reshape(height, width, -1), atol=1e-5)
    np.testing.assert_allclose(encoder.describe_pooled(cells.reshape(-1, cells.shape[2])), projected, atol=1e-5)


def test_running_at_another_size_leaves_the_tower_as_it_was(clip_encoder):
    encoder = clip_encoder("map-clip")
    before = {key: tensor.clone() for key, tensor in encoder.network.state_dict().items()}
    encoder.feature_map(pixels_of(1, 80, 24))
    after = encoder.network.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert encoder.network.visual.grid_size == (4, 4)


# The tests' own -------------------------------------------------------------------------------------------


def test_the_tiny_encoder_runs_over_pictures(tiny):
    cells = assert_maps(tiny, 5, 6)
    assert tiny.maps == [(5, 6)] * 2 and cells.min() > 0


# Refusals -------------------------------------------------------------------------------------------------


class _CropsOnly:
    def __init__(self, encoder):
        self.info, self.prepare, self.encode = encoder.info, encoder.prepare, encoder.encode


def test_an_encoder_of_crops_alone_is_refused(lite0, tiny, refused):
    crops_only = SquareEncoder(lambda inputs: inputs, lite0.preprocessing, lite0.info, lite0.device)
    for encoder in (_CropsOnly(lite0), crops_only):
        said = refused(as_map_encoder, encoder)
        assert "effnet-lite0 describes single crops only" in said and "--features crop" in said


def test_a_network_of_one_size_is_refused(timm_encoder, refused):
    said = refused(as_map_encoder, timm_encoder("pit_ti_224"))
    assert "stretches to other sizes" in said and "--features crop" in said


def test_a_clip_with_a_resnet_is_refused(clip_encoder, refused):
    said = refused(as_map_encoder, clip_encoder("map-resnet"))
    assert "no vision transformer" in said and "--features crop" in said


def test_a_size_that_fails_after_all(timm_encoder, refused, monkeypatch):
    encoder = as_map_encoder(timm_encoder("test_resnet"))

    def fail(inputs):
        raise RuntimeError("shape '[1, 7]' is invalid for input of size 3")

    monkeypatch.setattr(encoder.network, "forward_features", fail)
    assert "of 96 x 64 px: choose another size" in refused(encoder.feature_map, np.zeros((64, 96, 3), np.uint8))


def test_a_picture_that_does_not_fit_into_memory(lite0, refused, monkeypatch):
    def full(inputs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 EiB.")

    monkeypatch.setattr(lite0.network, "forward_features", full)
    said = refused(lite0.feature_map, np.zeros((64, 96, 3), np.uint8))
    assert "96 x 64 px does not fit into the memory of cpu" in said and "smaller" in said


def test_numbers_that_are_not_finite_are_refused(lite0, refused, monkeypatch):
    monkeypatch.setattr(lite0.network, "forward_features", lambda inputs: torch.full((1, 4, 1, 1), torch.nan))
    assert "not finite" in refused(lite0.feature_map, np.zeros((32, 32, 3), np.uint8))
