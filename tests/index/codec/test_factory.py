"""index.codec.factory: valid factory strings, and one sentence for each invalid one."""

from __future__ import annotations

import argparse

import faiss
import numpy as np
import pytest

from patchify_core.cli.options import add_codec_options
from patchify_core.index.codec.factory import (
    EARLIER,
    FALLBACKS,
    PATCHES_PER_CENTROID,
    PRESETS,
    TRAINING_PATCHES,
    Compression,
    lists_for,
    make_codec,
    needed_to_train,
    of_preset,
    parse_factory,
    train,
    visits_everything,
)


@pytest.mark.parametrize(
    ("text", "factory", "codec", "projection"),
    [
        ("Flat", "Flat", "Flat", None),
        (" SQ8 ", "SQ8", "SQ8", None),
        ("exact", "Flat", "Flat", None),
        ("Small", "PCAH256,SQ8", "SQ8", 256),
        ("TINY", "PCAH256,PQ64", "PQ64", 256),
        ("huge", "PCAH128,IVF256,PQ32", "IVF256,PQ32", 128),
        ("PCAH64,OPQ32,PQ32", "PCAH64,OPQ32,PQ32", "OPQ32,PQ32", 64),
        ("IVF4,PQ8", "IVF4,PQ8", "IVF4,PQ8", None),
    ],
)
def test_what_is_understood(text, factory, codec, projection):
    assert parse_factory(text, 12_000) == Compression(factory, codec, projection)


@pytest.mark.parametrize("name", [*FALLBACKS, "exact", "fast", "PCAH256,SQ8"])
def test_a_preset_takes_the_first_that_can_be_learned(name):
    usual = parse_factory(name)
    choices = [usual, *map(parse_factory, FALLBACKS.get(name, ()))]
    for patches in (0, 1, 128, 129, 256, 257, 10**6):
        for dim in (0, 16, 128, 255, 256, 1280):
            chosen = parse_factory(name, patches, dim)
            fitting = [one for one in choices if one.can_project(patches, dim)]
            assert chosen == (fitting or [usual])[0]
            if patches and dim and name in FALLBACKS:  # whatever the number, it can be made and trained
                assert needed_to_train(make_codec(chosen, dim)) <= patches
    assert parse_factory(name, 10**6, 1280) == usual


def test_an_index_of_a_preset_goes_on_with_what_it_began_with():
    for name, factory in PRESETS.items():
        began = {factory.replace("{lists}", "512"), *FALLBACKS.get(name, ()), *EARLIER.get(name, ())}
        assert all(of_preset(f" {name.upper()} ", one) for one in began)
        assert not any(of_preset(name, one) for one in ("", "PQ64", "PCAH128,IVF512,PQ64", "PCAH64,SQ8"))
        assert all(make_codec(parse_factory(one), 1280).ntotal == 0 for one in began)


@pytest.mark.parametrize(
    "text",
    ["PCAH", "PCAH0", "PCAH0,Flat", "PCAH128", "PCAH128,", "pcah32,Flat", "PCAHx,Flat", "PCAH-1,Flat", "PCAH 9,Flat"],
)
def test_malformed_projections(text, refused):
    message = refused(parse_factory, text)
    assert f"'{text}'" in message and "PCAH128,PQ64" in message


@pytest.mark.parametrize("text", ["", "  "])
def test_nothing_is_no_factory(text, refused):
    assert "Name a preset" in refused(parse_factory, text)


def test_presets_fit_the_bundled_encoders_and_are_explained():
    parser = argparse.ArgumentParser()
    add_codec_options(parser)
    said = " ".join(parser.format_help().split())
    assert all(f"{name} (" in said for name in PRESETS)
    for name in PRESETS:
        assert make_codec(parse_factory(name, 10_000), 1280).ntotal == 0


def test_lists_have_enough_patches_each():
    for patches in (0, 1, 30, 100, 10**4, 10**6, 3 * 10**8):
        lists = lists_for(patches)
        assert lists & (lists - 1) == 0 and (
            lists == 1 or lists * PATCHES_PER_CENTROID <= min(patches, TRAINING_PATCHES)
        )
    assert [lists_for(n) for n in (100, 5_000, 300_000, 300_000_000)] == [2, 128, 1024, 1024]


# Some of these are FAISS's own and end the process, lose descriptors, or fail when hours of work are done.
UNKNOWN = (
    "foo exakt PQ PQ0 PQ8x PQ8x13 SQ SQ5 SQ8_direct SQ8_uniform IVF IVF0,Flat IVF-1,Flat IVF9999999,Flat IVF4 "
    "IVF4,PQ8x4fs IVF4,PQ8x4fsr PQ8x4fs_64 IVF4,PQ8+4 IVF4,RaBitQ RaBitQ HNSW0 HNSW16 HNSW0,SQ8 HNSW16,PQ8 HNSW16_PQ8 "
    "IVF4,HNSW8,SQ8 NSG16 RQ8x8 LSQ2x4 "
    "PRQ2x2x4 LSH ITQ,LSH PQ8,RFlat PQ8,Refine(SQ8) Refine BFlat BIVF4 IDMap,Flat Flat,IDMap IMI2x2,Flat PCA16,Flat "
    "PCAW16,Flat RR16,PQ8 L2norm,Flat Pad64,Flat Flat,Flat flat sq8 PCAH16,PCAH8,Flat PCAH16,,Flat OPQ0,PQ4 PQ٣ "
    "<b> %s%n Flat\nx \0 " + "x" * 5000
).split(" ")


@pytest.mark.parametrize("text", UNKNOWN, ids=lambda text: ascii(text)[:30])
def test_what_is_not_understood_is_refused_in_our_own_words(text, refused):
    if "<" in text:
        with pytest.raises(ValueError, match="is not known"):
            make_codec(parse_factory(text), 32)
        return
    message = refused(lambda: make_codec(parse_factory(text), 32))
    assert "is not known" in message and "exact, small, tiny, huge, fast" in message and len(message) < 400
    assert ".cpp" not in message and "faiss" not in message


@pytest.mark.parametrize(
    ("text", "near"), [("exakt", "exact"), ("tinyy", "tiny"), ("flat", "Flat"), ("sq8", "SQ8"), ("Pq64", "PQ64")]
)
def test_the_nearest_name_is_suggested(text, near, refused):
    assert f"did you mean {near}?" in refused(lambda: make_codec(parse_factory(text), 128))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("PQ7", "32 numbers into 7 equal parts"),
        ("PQ64", "32 numbers into 64 equal parts"),
        ("PQ5x4fs", "32 numbers into 5"),
        ("IVF4,PQ3", "32 numbers into 3"),
        ("PCAH10,PQ4", "10 numbers into 4"),
        ("OPQ5,PQ4", "32 numbers into 5"),
        ("OPQ4_16,PQ32", "16 numbers into 32"),
        ("OPQ4_64,PQ4", "32 at most"),
        ("PCAH33,Flat", "write PCAH32 at most"),
    ],
)
def test_what_does_not_fit_the_dimension(text, said, refused):
    assert said in refused(lambda: make_codec(parse_factory(text), 32))


@pytest.mark.parametrize(
    ("text", "needed"),
    [("Flat", 1), ("SQ8", 1), ("PQ4x4", 16), ("PQ4x4fs", 16), ("PQ4", 256), ("IVF40,SQ8", 40), ("OPQ4,PQ4x4", 256)],
)
def test_what_is_needed_to_train(text, needed, refused):
    codec = make_codec(parse_factory(text), 16)
    assert needed_to_train(codec) == needed
    if needed > 1:
        few = np.random.default_rng(0).normal(size=(needed - 1, 16)).astype(np.float32)
        message = refused(train, codec, few, text)
        assert f"at least {needed} patches" in message and f"has {needed - 1}" in message and "exact" in message


@pytest.mark.parametrize("text", ["PQ4x4", "PQ4x4fs", "IVF16,PQ4x4", "IVF16_HNSW4,Flat", "SQ8"])
def test_the_least_is_enough_and_faiss_says_nothing(text, capfd):
    codec = make_codec(parse_factory(text), 16)
    train(codec, np.random.default_rng(0).normal(size=(needed_to_train(codec), 16)).astype(np.float32), text)
    assert codec.is_trained and codec.metric_type == faiss.METRIC_INNER_PRODUCT
    assert capfd.readouterr() == ("", "")


def test_only_some_codecs_visit_everything():
    found = {t: visits_everything(make_codec(parse_factory(t), 16)) for t in ("Flat", "SQ8", "PQ4", "IVF4,Flat")}
    assert found == {"Flat": True, "SQ8": True, "PQ4": False, "IVF4,Flat": False}


def test_the_seed_is_where_k_means_begins():
    vectors = np.random.default_rng(0).normal(size=(200, 16)).astype(np.float32)
    made = []
    for seed in (0, 0, 1):
        codec = make_codec(parse_factory("PQ4x4"), 16, seed)
        train(codec, vectors, "PQ4x4")
        made.append(faiss.vector_to_array(codec.pq.centroids))
    assert np.array_equal(made[0], made[1]) and not np.array_equal(made[0], made[2])
