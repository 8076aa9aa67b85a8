"""index.recipe: differences of two recipes in words, and JSON round trips."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from patchify_core.errors import IndexFolderError, PatchifyError
from patchify_core.files import sha256_of_json
from patchify_core.gallery import read_gallery
from patchify_core.index.big import ScaleSettings, build_big
from patchify_core.index.build import BuildSettings, build_index
from patchify_core.index.codec.codes import CodeSettings
from patchify_core.index.folder import read_meta, recipe_of
from patchify_core.index.milvus.collection import default_name, maker_of
from patchify_core.index.recipe import CODES, DESCRIPTORS, EVERYTHING, Recipe, refuse
from patchify_core.index.shards import EmbedSettings, embed_gallery
from patchify_core.index.shards.folder import ShardFolder
from patchify_core.regions import Pyramid, parse_regions
from tests.tiny import INFO, TinyEncoder, write_pictures

RECIPE = Recipe(INFO, Pyramid(4), "pooled:640", "PCAH8,PQ4", "informative", "SQ8", maps=True)
OTHERS = {
    "encoder": (replace(INFO, spec="large"), "with encoder tiny, not large"),
    "regions": (parse_regions("salient:3"), "with regions pyramid:4, not salient:3"),
    "features": ("crop", "with features pooled:640, not crop"),
    "factory": ("Flat", "with factory PCAH8,PQ4, not Flat"),
    "codebook": ("uniform", "with codebook informative, not uniform"),
    "rescore": (None, "with rescore SQ8, not none"),
    "maps": (False, "with feature maps, not without (--keep-maps)"),
}


def meta_of(recipe):
    return json.loads(json.dumps(recipe.as_dict() | {"files": {"maps.bin": {}} if recipe.maps else {}}))


@pytest.mark.parametrize("part", EVERYTHING)
def test_whatever_differs_is_named_and_nothing_else(part):
    value, words = OTHERS[part]
    other = replace(RECIPE, **{part: value})
    (difference,) = RECIPE.differences(other)
    assert difference.what == part and str(difference) == words
    assert RECIPE.differences(other, [each for each in EVERYTHING if each != part]) == []
    assert str(other.differences(RECIPE)[0]) != words and RECIPE != other


def test_every_difference_is_found_in_the_order_that_was_asked_for():
    other = replace(RECIPE, **{part: value for part, (value, _) in OTHERS.items()})
    assert [each.what for each in RECIPE.differences(other)] == [*EVERYTHING]
    assert [each.what for each in RECIPE.differences(other, (*CODES, *DESCRIPTORS))] == [*CODES, *DESCRIPTORS]
    assert RECIPE.differences(replace(RECIPE)) == []


def test_another_file_of_the_same_encoder_is_said_to_be_that():
    other = replace(RECIPE, encoder=replace(INFO, weights_sha256="1" * 64))
    assert [str(each) for each in RECIPE.differences(other)] == ["with encoder tiny of other weights, not these"]


def test_the_first_difference_is_refused_in_one_sentence(refused):
    other = replace(RECIPE, factory="Flat", maps=False)
    sentence = refused(refuse, RECIPE.differences(other), "idx", "delete it first")
    assert sentence == "idx was made with factory PCAH8,PQ4, not Flat: delete it first."
    refuse(RECIPE.differences(RECIPE), "idx", "delete it first")


@pytest.mark.parametrize("part", [None, *EVERYTHING])
def test_it_comes_back_from_json(part):
    recipe = RECIPE if part is None else replace(RECIPE, **{part: OTHERS[part][0]})
    assert Recipe.from_meta(meta_of(recipe)) == recipe
    alone = Recipe.from_descriptors(json.loads(json.dumps(recipe.descriptors())))
    assert alone == Recipe(recipe.encoder, recipe.regions, recipe.features)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        *((part, value) for part in (*DESCRIPTORS, *CODES) for value in ("missing", 5, [], {"spec": "tiny"})),
        ("factory", ""),
        ("factory", "PCAHx,Flat"),
        ("files", "missing"),
        ("files", 5),
    ],
)
def test_what_is_no_recipe_is_a_damaged_index(part, value, tmp_path):
    meta = meta_of(RECIPE)
    if value == "missing":
        del meta[part]
    else:
        meta[part] = value
    with pytest.raises(IndexFolderError, match=r"meta\.json is missing, truncated or not the file"):
        recipe_of(meta, tmp_path)


def test_regions_of_a_later_version_are_named(tmp_path):
    with pytest.raises(PatchifyError, match="spiral"):
        recipe_of(meta_of(RECIPE) | {"regions": "spiral:3"}, tmp_path)


def test_a_build_follows_its_settings():
    settings = CodeSettings(" Tiny ", codebook="informative", rescore="exact")
    recipe = Recipe(INFO, Pyramid(2)).coded(settings)
    assert (recipe.factory, recipe.codebook, recipe.rescore) == ("PCAH256,PQ64", "informative", "Flat")
    assert recipe.dim == 256 and Recipe(INFO, Pyramid(2)).dim == INFO.dim


@pytest.mark.parametrize("name", ["index", "indexes/pooled", "indexes/salient"])
def test_shipped_indexes_say_how_they_were_made(name, sample_db):
    meta = read_meta(sample_db / name)
    recipe = recipe_of(meta, sample_db / name)
    assert recipe.as_dict() == {part: meta[part] for part in (*DESCRIPTORS, *CODES)}
    assert recipe.maps == (name == "indexes/pooled")


def test_half_finished_work_of_earlier_versions_is_known(tmp_path):
    """The very values that builds are known by on the disk and in Milvus: were one to change, work would be lost."""
    gallery, encoder, regions = read_gallery(write_pictures(tmp_path / "p", range(60))), TinyEncoder(), Pyramid(2)
    made = {"encoder": INFO.as_dict(), "regions": "pyramid:2", "features": "crop"}

    def stop(done, total):
        raise KeyboardInterrupt

    def head(name, start, *arguments):
        with pytest.raises(KeyboardInterrupt):
            start(*arguments, stop)
        return json.loads((tmp_path / name).read_text())

    settings = BuildSettings(shard_images=1)
    assert head("i.partial/maker.json", build_index, gallery, tmp_path / "i", encoder, regions, settings) == made | {
        "maps": False
    }
    shards = EmbedSettings(shard_images=60)
    assert head("s/embed.json", embed_gallery, gallery, tmp_path / "s", encoder, regions, shards) == {
        "maker": made | {"projection": None, "kind": "float32", "shard_images": 60},
        "root": str(gallery.root.resolve()),
    }
    embed_gallery(gallery, tmp_path / "s", encoder, regions, shards)
    stream = ShardFolder(tmp_path / "s")
    assert head("b.partial/maker.json", build_big, stream, tmp_path / "b", ScaleSettings(lists=4)) == made | {
        "big": 1,
        "pictures": 60,
        "stream": stream.digest,
        "projected": None,
        "wanted": {"projection": None, "lists": 4, "parts": 24, "rescore": None, "seed": 0},
        "part_pictures": 100_000,
    }
    assert maker_of(replace(RECIPE, maps=False)) == {
        "encoder": "tiny",
        "weights": sha256_of_json(INFO.as_dict()),
        "regions": "pyramid:4",
        "features": "pooled:640",
        "projection": None,
        "dim": INFO.dim,
    }
    assert default_name("/x/my pictures", Recipe(INFO, Pyramid(4)), 8) == "patchify_my_pictures_2a95b372"
