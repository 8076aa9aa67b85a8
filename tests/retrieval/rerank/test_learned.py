"""Searches that learned re-rankers put in order."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch

from patchify_core.encoders import load_encoder
from patchify_core.errors import IndexFolderError, PatchifyError
from patchify_core.features.pooled import map_size
from patchify_core.gallery import read_folder
from patchify_core.index.build import build_index
from patchify_core.patchify import Patchify
from patchify_core.regions import Pyramid
from patchify_core.retrieval.rerank import LEARNED, learned
from patchify_core.retrieval.rerank.networks import Detector
from tests.retrieval.rerank.weights import SLOW, files, published_shapes, random_state, reranker, save
from tests.tiny import DIM, STRIDE, TinyEncoder, picture, write_pictures

# Searches ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("learned") / "photos", range(8), (60, 42))


@pytest.fixture(scope="module")
def engine(photos):
    build_index(read_folder(photos), photos.parent / "idx", TinyEncoder(), Pyramid(2))
    return Patchify.open(photos.parent / "idx", TinyEncoder())


def slow_descriptors(chosen, name, pixels, count):
    """The cells of a picture that the detector attends to most, or its features of them."""
    cells = TinyEncoder().feature_map(np.asarray(pixels)).reshape(-1, DIM)
    detector = Detector(DIM)
    detector.load_state_dict(torch.load(chosen.detector, weights_only=True)["state"])
    with torch.inference_mode():
        features, attention = detector.eval()(torch.from_numpy(cells))
    best = sorted(range(len(cells)), key=lambda at: -float(attention[at]))[:count]
    return (features.numpy() if name == "ames" else cells)[best].astype(np.float64)


@pytest.mark.parametrize("name", LEARNED)
def test_the_shortlist_is_ordered_by_the_fused_score(name, engine, photos, tmp_path):
    chosen = files(tmp_path, name, seed=4)
    view = engine.view(photos / "0003.png", (6, 3, 42, 30))
    plain = engine.search_descriptor(view.descriptor)
    found = reranker(name, chosen, shortlist=5, steepness=0.7, weight=0.2).rerank(engine, view, plain, None)
    state = {k: v.double().numpy() for k, v in torch.load(chosen.weights, weights_only=True)["state"].items()}

    def seen(image, box, count):
        size = map_size(box[2] - box[0], box[3] - box[1], 48, STRIDE)
        return slow_descriptors(chosen, name, image.resize(size, 3, box=box), count)

    asked = seen(view.picture, (6, 3, 42, 30), 20)
    slow = []
    for match in plain[:5]:
        other = seen(picture(int(match.file_name[:4]), (60, 42)), (0, 0, 60, 42), 12)
        slow.append(0.2 * match.score + 0.8 / (1 + math.exp(-0.7 * SLOW[name](state, asked, other))))
    order = sorted(range(5), key=lambda at: -slow[at])
    assert [m.image_id for m in found] == [plain[at].image_id for at in order] + [m.image_id for m in plain[5:]]
    assert [m.score for m in found[:5]] == pytest.approx([slow[at] for at in order], abs=1e-3)
    assert [m.score for m in found[5:]] == [m.score for m in plain[5:]]
    boxes = {match.image_id: match.box.tolist() for match in plain}
    assert all(match.box.tolist() == boxes[match.image_id] and match.verification is None for match in found)


def test_elvis_finds_the_picture_itself(engine, photos, tmp_path):
    """With weights under which a pair that is sure of itself votes, and others do not."""
    state = random_state(published_shapes("elvis", DIM))
    signs = torch.tensor([1.0, -1.0] * 8)
    state |= {"f.0.weight": signs[:, None], "f.0.bias": -0.2 * signs, "f.1.weight": torch.ones(16)}
    state |= {"f.1.bias": torch.zeros(16), "f.3.weight": signs[None] * 2, "f.3.bias": torch.zeros(1)}
    nothing = ("dust_bin_mlp.2.weight", "dust_bin_mlp.2.bias", "remap_local.0.bias", "remap_local.1.bias")
    state |= {key: torch.zeros_like(state[key]) for key in nothing}
    chosen = replace(files(tmp_path, "elvis"), weights=save(tmp_path / "votes.pt", state), gallery_descriptors=200)
    ranked = reranker("elvis", chosen, weight=0.0, query_descriptors=200, steepness=0.02)
    for name in ("0002.png", "0006.png"):
        found = engine.search(photos / name, top=None, rerank=ranked)
        assert found[0].file_name == name and found[0].score > found[1].score + 0.2


def test_excluded_pictures_take_no_part(engine, photos, tmp_path):
    view = engine.view(photos / "0001.png")
    plain = engine.search_descriptor(view.descriptor)
    found = reranker("elvis", files(tmp_path, "elvis"), shortlist=3).rerank(
        engine, replace(view, exclude=frozenset({plain[0].image_id})), plain, None
    )
    assert {m.image_id for m in found[:3]} == {m.image_id for m in plain[1:4]} and len(found) == len(plain)


def test_gallery_pictures_are_described_once(engine, photos, tmp_path):
    ranked = reranker("ames", files(tmp_path, "ames"), shortlist=3, cached=4)
    maps = engine.encoder.maps
    engine.search(photos / "0001.png", rerank=ranked)
    first = len(maps)
    found = engine.search(photos / "0001.png", rerank=ranked)
    assert len(maps) == first + 1  # the query alone
    assert [m.score for m in engine.search(photos / "0001.png", rerank=ranked)] == [m.score for m in found]
    engine.search(photos / "0005.png", top=None, rerank=ranked)
    assert len(ranked._cache) <= 4


def test_zoom_says_at_which_scale_the_box_is_seen(engine, photos, tmp_path):
    for zoom, expected in ((True, (9, 12)), (False, (5, 6))):
        ranked = reranker("elvis", files(tmp_path, "elvis"), zoom=zoom, shortlist=1)
        start = len(engine.encoder.maps)
        engine.search(photos / "0001.png", (0, 0, 32, 24), rerank=ranked)
        assert expected in engine.encoder.maps[start:]


def test_the_authors_weights_of_the_two_scores(tmp_path):
    expected = {("ames", False): (0.55, 0.3), ("ames", True): (0.35, 0.1), ("elvis", False): (0.5, 0.5)}
    for (name, binary), (weight, steepness) in expected.items():
        ranked = reranker(name, files(tmp_path, name, binary=binary))
        for score, local in itertools.product((-0.2, 0.7), (-3.0, 0.0, 5.0)):
            slow = weight * score + (1 - weight) / (1 + math.exp(-steepness * local))
            assert ranked.fused(score, local) == pytest.approx(slow, abs=1e-12)
        assert ranked.fused(0.5, 1e9) == pytest.approx(0.5 * weight + 1 - weight)
        assert ranked.fused(0.5, -1e9) == pytest.approx(0.5 * weight)
        with pytest.raises(PatchifyError, match="not finite"):
            ranked.fused(0.5, math.nan)


def test_words_and_changed_pictures_are_refused(engine, photos, tmp_path):
    from patchify_core.retrieval.searcher import QueryView

    ranked = reranker("elvis", files(tmp_path, "elvis"))
    view = engine.view(photos / "0001.png")
    plain = engine.search_descriptor(view.descriptor)
    with pytest.raises(PatchifyError, match="elvis compares pictures"):
        engine.rerank(QueryView(view.descriptor), plain, ranked)
    copied = write_pictures(tmp_path / "photos", range(3), (60, 42))
    build_index(read_folder(copied), tmp_path / "idx", TinyEncoder(), Pyramid(1))
    other = Patchify.open(tmp_path / "idx", TinyEncoder())
    picture(99, (60, 42)).save(copied / "0002.png")
    with pytest.raises(IndexFolderError, match=r"0002\.png"):
        other.search(copied / "0001.png", rerank=ranked)


def test_an_encoder_that_does_not_fit(engine, photos, tmp_path, refused):
    said = refused(engine.search, photos / "0001.png", rerank=reranker("ames", files(tmp_path, "ames", channels=768)))
    assert "trained on cells of 768 numbers, and tiny gives 24" in said and "--rerank-encoder" in said
    ranked = reranker("ames", files(tmp_path, "ames"))
    said = refused(ranked.encoder_for, load_encoder("aspect:effnet-lite0"))
    assert "aspect:effnet-lite0 gives no feature map" in said and learned.ENCODER in said
    assert "Unknown encoder" in refused(reranker, "ames", files(tmp_path, "ames"), encoder="magic")


@pytest.mark.parametrize("name", LEARNED)
def test_patch_tokens_of_dinov2_with_registers(name, engine, photos, tmp_path):
    """The real architecture (its small one) beside an index of another encoder."""
    torch.manual_seed(0)
    network = timm.create_model("vit_small_patch14_reg4_dinov2", num_classes=0)
    torch.save(network.state_dict(), tmp_path / "dino.pth")
    spec = f"timm:vit_small_patch14_reg4_dinov2@{tmp_path / 'dino.pth'}"
    ranked = reranker(name, files(tmp_path, name, channels=384), encoder=spec, long_side=84, shortlist=3)
    found = engine.search(photos / "0002.png", top=None, rerank=ranked)
    assert sorted(m.image_id for m in found) == sorted(engine.index.image_ids.tolist())
    # What it compares are the model's own normalised patch tokens, without class token and registers.
    cells = ranked.encoder_for(engine.encoder).feature_map(np.asarray(picture(2).resize((84, 56), 3)))
    resized = timm.create_model("vit_small_patch14_reg4_dinov2", num_classes=0, img_size=(56, 84)).eval()
    resized.load_state_dict(timm.models.vision_transformer.checkpoint_filter_fn(network.state_dict(), resized))
    with torch.inference_mode():
        pixels = torch.from_numpy(np.array(picture(2).resize((84, 56), 3))).permute(2, 0, 1)[None] / 255
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        tokens = resized.forward_features((pixels - mean) / std)[0, 5:]
    np.testing.assert_allclose(cells.reshape(-1, 384), tokens, atol=2e-4)
