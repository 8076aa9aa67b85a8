"""Encoders that keep the aspect ratio: `aspect:SPEC`, on real architectures with random weights."""

from __future__ import annotations

import json

import numpy as np
import open_clip
import pytest
import timm
import torch

from patchify_core.encoders import EncoderSettings, TextEncoder, load_encoder
from patchify_core.encoders.aspect import AspectEncoder, with_aspect
from patchify_core.errors import EncoderError
from patchify_core.features.crop import describe
from tests.encoders.test_open_clip import CONFIGS
from tests.tiny import TinyEncoder, picture


@pytest.fixture(scope="module")
def lite():
    return load_encoder("aspect:effnet-lite0")


def test_its_crops_have_the_boxes_shape(lite):
    scene = picture(1, (640, 480))
    assert lite.prepare(scene, (0, 0, 640, 480)).shape == (160, 224, 3)  # 168, to whole cells of 32
    assert lite.prepare(scene, (0, 0, 240, 480)).shape == (224, 128, 3)
    assert lite.prepare(scene, (10, 10, 400, 12)).shape == (32, 224, 3)  # at least one cell
    assert lite.prepare(scene, (5.5, 5.5, 300.5, 300.5)).shape == (224, 224, 3)
    assert lite.info.spec == "aspect:effnet-lite0" and lite.info.input_size == 224


@pytest.mark.parametrize("spec", ["effnet-lite0", "effnet-lite0-block"])
def test_square_boxes_are_described_as_ever(spec):
    scene, plain, lite = picture(2, (300, 200)), load_encoder(spec), load_encoder(f"aspect:{spec}")
    square = [(10, 10, 110, 110), (50, 20, 200, 170)]
    assert describe(scene, square, lite) == pytest.approx(describe(scene, square, plain), abs=1e-5)
    wide = [(0, 0, 300, 100)]
    assert (describe(scene, wide, lite) * describe(scene, wide, plain)).sum() < 0.999


def test_a_batch_of_many_shapes_is_each_crop_alone(lite):
    scene = picture(3, (300, 200))
    boxes = [(0, 0, 300, 200), (0, 0, 100, 200), (20, 20, 120, 120), (100, 0, 300, 133), (10, 0, 110, 200)]
    together = describe(scene, boxes, lite)
    assert together == pytest.approx(np.concatenate([describe(scene, box, lite) for box in boxes]), abs=1e-5)
    assert np.linalg.norm(together, axis=1) == pytest.approx(1, abs=1e-5)


def saved(folder, name):
    torch.manual_seed(0)
    torch.save(timm.create_model(name).state_dict(), folder / f"{name}.pth")
    return f"timm:{name}@{folder / name}.pth"


REGISTERS = ("vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3")


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext", *REGISTERS])
def test_timm_models_are_described_as_timm_does_at_that_size(tmp_path, name):
    encoder = load_encoder(f"aspect:{saved(tmp_path, name)}")
    scene, boxes = picture(4, (320, 200)), [(0, 0, 320, 200), (0, 0, 90, 200)]
    found = describe(scene, boxes, encoder)
    plain = load_encoder(saved(tmp_path, name))
    for row, box in zip(found, boxes, strict=True):
        inputs = plain.as_input(encoder.prepare(scene, box)[None])
        # DINOv3 turns positions into rotations, at any size.
        sized = {"img_size": tuple(inputs.shape[2:])} if name in ("test_vit", REGISTERS[0]) else {}
        network = timm.create_model(
            name, pretrained=True, num_classes=0, pretrained_cfg_overlay={"file": f"{tmp_path / name}.pth"}, **sized
        )
        with torch.inference_mode():
            expected = torch.nn.functional.normalize(network.eval()(inputs))[0].numpy()
        assert row == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("arch", ["tiny-clip", "tiny-timm-clip"])
def test_clip_keeps_the_aspect_and_its_words(tmp_path, arch):
    (tmp_path / f"{arch}.json").write_text(json.dumps(CONFIGS[arch]))
    open_clip.add_model_config(tmp_path)
    torch.manual_seed(0)
    torch.save(open_clip.create_model(arch).state_dict(), tmp_path / "clip.pt")
    encoder = load_encoder(f"aspect:open_clip:{arch}/{tmp_path / 'clip.pt'}")
    found = describe(picture(4, (320, 200)), [(0, 0, 320, 200), (0, 0, 200, 200)], encoder)
    plain = load_encoder(f"open_clip:{arch}/{tmp_path / 'clip.pt'}")
    assert found.shape == (2, plain.info.dim)
    assert found[1] == pytest.approx(describe(picture(4, (320, 200)), [(0, 0, 200, 200)], plain)[0], abs=1e-5)
    assert isinstance(encoder, TextEncoder)


def test_its_larger_side_can_be_chosen(tmp_path, lite):
    spec = saved(tmp_path, "test_vit")
    encoder = load_encoder(f"aspect:192:{spec}")
    scene, box = picture(4, (320, 200)), (0, 0, 320, 200)
    assert encoder.info.spec == f"aspect:192:{spec}" and encoder.info.input_size == 192
    assert encoder.prepare(scene, box).shape == (128, 192, 3)  # 120, to whole cells of 16
    assert load_encoder(encoder.info.spec).info == encoder.info
    network = timm.create_model(
        "test_vit", pretrained=True, num_classes=0, img_size=(128, 192), pretrained_cfg_overlay={"file": spec[14:]}
    )
    with torch.inference_mode():
        inputs = load_encoder(spec).as_input(encoder.prepare(scene, box)[None])
        expected = torch.nn.functional.normalize(network.eval()(inputs))[0].numpy()
    assert describe(scene, [box], encoder)[0] == pytest.approx(expected, abs=1e-4)
    same, plain = load_encoder("aspect:224:effnet-lite0"), describe(scene, [box], lite)
    assert describe(scene, [box], same) == pytest.approx(plain, abs=1e-6) and same.info != lite.info


@pytest.mark.parametrize(("side", "near"), [(200, 192), (1, 32), (99_999, 2048)])
def test_a_side_that_is_no_whole_number_of_cells(side, near):
    with pytest.raises(EncoderError, match=rf"side of {side} is no whole .*: write aspect:{near}:effnet-lite0\.$"):
        load_encoder(f"aspect:{side}:effnet-lite0")


def test_those_that_take_squares_only_say_so():
    with pytest.raises(EncoderError, match="takes squares only, so it cannot keep the aspect ratio"):
        with_aspect(TinyEncoder())
    with pytest.raises(EncoderError, match="Unknown encoder"):
        load_encoder("aspect:")
    with pytest.raises(EncoderError, match="Unknown encoder"):
        load_encoder("aspect:effnet-lite9")
    with pytest.raises(EncoderError, match="Unknown encoder '0:effnet-lite0'"):
        load_encoder("aspect:0:effnet-lite0")


def test_words_are_described_where_the_encoder_knows_any(lite):
    assert isinstance(lite, AspectEncoder) and not isinstance(lite, TextEncoder)


def test_another_engine_computes_squares_only():
    pytest.importorskip("openvino")
    with pytest.raises(EncoderError, match="openvino computes squares only"):
        load_encoder("aspect:effnet-lite0", EncoderSettings(engine="openvino"))
