"""index.codec.codes: invalid settings are refused before the work, and updates copy every old code byte for byte."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from patchify_core.index.codec.codes import DISTINCTIVE_SHARE, Codes, CodeSettings, encode_codes
from patchify_core.index.codec.factory import make_codec, parse_factory
from patchify_core.index.recipe import Recipe
from patchify_core.regions import Pyramid, parse_regions
from tests.tiny import INFO

pytestmark = pytest.mark.usefixtures("one_thread")

DIM, REGIONS = 16, Pyramid(2)
PATCHES = REGIONS.patches_per_image


CODECS = (
    "Flat",
    "SQfp16",
    "SQ8",
    "SQ4",
    "PQ4x4",
    "PQ4x5",
    "PQ4x4fs",
    "IVF4,Flat",
    "IVF4,SQ8",
    "IVF4,PQ4x4",
    "IVF4_HNSW4,SQfp16",
    "PCAH8,Flat",
    "PCAH8,SQ8",
    "PCAH8,PQ4x4",
    "PCAH8,PQ4x4fs",
    "PCAH8,IVF4,PQ4x4",
    "HNSW8,Flat",
    "HNSW8,SQ8",
    "PCAH8,HNSW8,SQfp16",
)


def pictures_of(count, seed=0):
    """(count, P, DIM) descriptors with some structure, rows of length 1."""
    rng = np.random.default_rng(seed)
    found = rng.normal(size=(9, 1, DIM))[rng.integers(9, size=count)] + rng.normal(size=(count, PATCHES, DIM)) * 0.7
    return (found / np.linalg.norm(found, axis=2, keepdims=True)).astype(np.float32)


def coded(pictures, settings=None, **more):
    return encode_codes(lambda row: pictures[row], len(pictures), REGIONS, DIM, settings or CodeSettings(), **more)


def decoded(codes):
    inverted = faiss.try_extract_index_ivf(codes)
    if inverted is not None:
        inverted.make_direct_map()
    return codes.reconstruct_n(0, codes.ntotal).reshape(-1, PATCHES, codes.d)


@pytest.mark.parametrize("factory", CODECS)
def test_codes_stand_in_order_and_decode_to_about_what_was_coded(factory):
    pictures = pictures_of(60)
    made = coded(pictures, CodeSettings(factory))
    assert made.factory == factory and made.codes.ntotal == 60 * PATCHES and made.fine is None
    space = pictures.reshape(-1, DIM)
    if made.projection is not None:
        space = made.projection(space)
    space = space.reshape(60, PATCHES, -1)
    back = decoded(made.codes)
    right = (back * space).sum(-1).mean()
    others = (back * np.roll(space, 1, axis=1)).sum(-1).mean()
    assert right > others + 0.1
    if "PQ" not in factory:
        np.testing.assert_allclose(back, space, atol=0.12 if "SQ4" in factory else 0.01)


@pytest.mark.parametrize("rescore", [None, "SQfp16", "PQ4x4"])
@pytest.mark.parametrize("factory", CODECS)
def test_an_update_keeps_old_codes_byte_for_byte(factory, rescore):
    first, both = pictures_of(60), pictures_of(90)[[*range(0, 90, 2), *range(1, 90, 2)]]
    both[10:20] = first[30:40]  # old ones, in another place among new ones
    both[3] = first[0]
    was = {row: row + 20 for row in range(10, 20)} | {3: 0}
    settings = CodeSettings(factory, rescore=rescore)
    old = coded(first, settings)
    before = decoded(old.codes), None if old.fine is None else decoded(old.fine)

    def descriptors(row):
        assert row not in was  # never decoded to be coded again
        return both[row]

    new = encode_codes(descriptors, 90, REGIONS, DIM, settings, old, was.get)
    after = decoded(new.codes), None if new.fine is None else decoded(new.fine)
    for row, there in was.items():
        np.testing.assert_array_equal(after[0][row], before[0][there])
        if rescore:
            np.testing.assert_array_equal(after[1][row], before[1][there])
    # All of it is what the old codec makes of the originals: nothing depends on how a picture came in.
    again = coded(both, settings, like=old)
    np.testing.assert_array_equal(after[0], decoded(again.codes))
    assert new.projection is old.projection and new.factory == factory
    np.testing.assert_array_equal(decoded(old.codes), before[0])  # and the old index is untouched


def test_an_update_of_an_inverted_file_searches_like_a_whole_one():
    pictures = pictures_of(80)
    old = coded(pictures[:50], CodeSettings("IVF4,PQ4x4"))
    decoded(old.codes)
    new = encode_codes(
        lambda row: pictures[row],
        80,
        REGIONS,
        DIM,
        CodeSettings("IVF4,PQ4x4"),
        old,
        lambda row: row if row < 50 else None,
    )
    whole = coded(pictures, CodeSettings("IVF4,PQ4x4"), like=old)
    np.testing.assert_array_equal(faiss.serialize_index(new.codes), faiss.serialize_index(whole.codes))
    found, other = (made.codes.search(pictures[3], 20) for made in (new, whole))
    np.testing.assert_array_equal(found[1], other[1])


def links_of(graph):
    levels, ends = (faiss.vector_to_array(part) for part in (graph.hnsw.levels, graph.hnsw.offsets))
    return levels.tolist(), ends.tolist(), faiss.vector_to_array(graph.hnsw.neighbors).tolist()


@pytest.mark.parametrize("factory", ["HNSW8,SQ8", "PCAH8,HNSW8,Flat"])
def test_a_graph_that_only_grows_keeps_its_links(factory):
    pictures, settings = pictures_of(700), CodeSettings(factory)
    old = coded(pictures[:600], settings)
    before = links_of(old.codes)
    nothing_new = encode_codes(None, 600, REGIONS, DIM, settings, old, lambda row: row)
    assert links_of(nothing_new.codes) == before
    grown = encode_codes(pictures.__getitem__, 700, REGIONS, DIM, settings, old, lambda row: row if row < 600 else None)
    assert links_of(grown.codes)[0][: 600 * PATCHES] == before[0] and grown.codes.ntotal == 700 * PATCHES
    fewer = encode_codes(None, 599, REGIONS, DIM, settings, old, lambda row: row)
    moved = encode_codes(None, 600, REGIONS, DIM, settings, old, lambda row: (row + 1) % 600)
    assert links_of(old.codes) == before
    for made, order in ((nothing_new, range(600)), (fewer, range(599)), (moved, [*range(1, 600), 0])):
        np.testing.assert_array_equal(decoded(made.codes), decoded(old.codes)[list(order)])
    np.testing.assert_array_equal(decoded(grown.codes), decoded(coded(pictures, settings, like=old).codes))
    query = decoded(old.codes)[77, 2]
    for made, there in ((grown, 77), (fewer, 77), (moved, 76)):
        assert made.codes.search(query[None], 1)[1][0, 0] == there * PATCHES + 2


def test_the_rotation_of_opq_is_kept_by_an_update(capfd):
    pictures = pictures_of(60)
    for factory in ("OPQ4,PQ4x4", "OPQ2_8,IVF2,SQ8"):
        old = coded(pictures, CodeSettings(factory))
        before = decoded(old.codes)
        new = encode_codes(None, 60, REGIONS, DIM, CodeSettings(factory), old, lambda row: 59 - row)
        # To the last digits: they depend on how many vectors are rotated back at once.
        np.testing.assert_allclose(decoded(new.codes), before[::-1], atol=1e-6)
    assert capfd.readouterr() == ("", "")  # FAISS has much to say about few vectors


@pytest.mark.parametrize("factory", ["SQ8", "PCAH8,PQ4x4", "IVF4,PQ4x4"])
def test_the_same_pictures_make_the_same_codes_and_another_seed_makes_others(factory):
    pictures = pictures_of(60)
    settings = CodeSettings(factory, training_patches=200)
    first, again = coded(pictures, settings), coded(pictures, settings)
    np.testing.assert_array_equal(faiss.serialize_index(first.codes), faiss.serialize_index(again.codes))
    other = coded(pictures, CodeSettings(factory, training_patches=200, seed=1))
    assert not np.array_equal(decoded(other.codes), decoded(first.codes))


@pytest.mark.parametrize("codebook", ["global", "informative", "distinctive"])
def test_a_codebook_changes_what_is_learned(codebook):
    pictures = pictures_of(200)
    uniform = coded(pictures, CodeSettings("PQ4x4"))
    other = coded(pictures, CodeSettings("PQ4x4", codebook=codebook))
    assert not np.array_equal(decoded(uniform.codes), decoded(other.codes))


def test_codes_are_told_to_be_learned_from_so_many_pictures():
    asked = []
    pictures = pictures_of(60)

    def descriptors(row):
        asked.append(row)
        return pictures[row]

    encode_codes(descriptors, 60, REGIONS, DIM, CodeSettings("PQ4x4", training_patches=20 * PATCHES + 3))
    sampled, filled = asked[:-60], asked[-60:]
    assert len({*sampled}) == len(sampled) == 20 and sampled == sorted(sampled) and filled == [*range(60)]
    asked.clear()
    encode_codes(descriptors, 60, REGIONS, DIM, CodeSettings("Flat"))
    assert asked == [*range(60)]  # what learns nothing reads everything once


# Refused before the work ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (CodeSettings("HNSW16"), "'HNSW16' is not known"),
        (CodeSettings("PQ5"), "divisor of 16"),
        (CodeSettings("PCAH17,Flat"), "write PCAH16 at most"),
        (CodeSettings("PCAH8,PQ16"), "divisor of 8"),
        (CodeSettings(codebook="best"), "Unknown codebook 'best': choose uniform, global, informative, distinctive"),
        (CodeSettings("PQ4", rescore="PCAH8,SQ8"), "use the same projection"),
        (CodeSettings("PQ4", rescore="small"), "use the same projection"),
        (CodeSettings("PQ4", rescore="IVF4,Flat"), "finer codes use the same projection"),
        (CodeSettings("PQ4", rescore="RFlat"), "'RFlat' is not known"),
        (CodeSettings("PCAH8,PQ4", rescore="PQ16"), "divisor of 8"),
    ],
)
def test_what_does_not_fit_is_refused(settings, said, refused):
    assert said in refused(settings.check, DIM, REGIONS, 100)


def test_the_global_codebook_needs_whole_pictures(refused):
    CodeSettings(codebook="global").check(DIM, parse_regions("pyramid:1+sliding:0.5,0.5"), 9)
    message = refused(CodeSettings(codebook="global").check, DIM, parse_regions("sliding:0.5,0.5"), 9)
    assert "pyramid:1+sliding:0.5,0.5" in message


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        (CodeSettings("PCAH8,Flat"), 9),
        (CodeSettings("PQ4x4"), 16),
        (CodeSettings("PQ4"), 256),
        (CodeSettings("PCAH8,PQ4"), 256),
        (CodeSettings("OPQ4,PQ4x4"), 256),
        (CodeSettings("IVF32,Flat"), 32),
        (CodeSettings("IVF4,PQ4x5"), 32),
        (CodeSettings("Flat", rescore="PQ4x5"), 32),
        (CodeSettings("PQ4x4", codebook="global"), 16 * PATCHES),
        (CodeSettings("PQ4x4", codebook="distinctive"), 16 / DISTINCTIVE_SHARE),
    ],
    ids=str,
)
def test_too_few_patches_are_refused_with_the_number_that_is_needed(settings, needed, refused):
    enough = int(np.ceil(needed / PATCHES))
    settings.check_enough(DIM, REGIONS, enough)
    for refuse in (settings.check_enough, lambda dim, regions, count: coded(pictures_of(count), settings)):
        message = refused(refuse, DIM, REGIONS, enough - 1)
        assert "needs" in message and "patches" in message and "index more pictures" in message
    if "OPQ" not in settings.factory and needed < 200:
        coded(pictures_of(enough), settings)  # what is said to be enough is enough


def test_a_small_sample_is_too_few_as_well(refused):
    settings = CodeSettings("PQ4", training_patches=100)
    assert "at least 256 patches to train on and has 100" in refused(settings.check_enough, DIM, REGIONS, 10**6)


def test_codecs_that_learn_nothing_take_a_single_picture():
    for factory in ("Flat", "SQ8", "SQfp16", "HNSW8,SQ8"):
        CodeSettings(factory).check_enough(DIM, REGIONS, 1)
        assert coded(pictures_of(1), CodeSettings(factory)).codes.ntotal == PATCHES


# The same way ---------------------------------------------------------------------------------------------


def recipe(settings):
    return Recipe(INFO, REGIONS).coded(settings)


def test_a_preset_and_its_factory_string_are_the_same():
    for one, other in (("tiny", "PCAH256,PQ64"), (" Exact ", "Flat"), ("SMALL", "PCAH256,SQ8")):
        assert recipe(CodeSettings(one)) == recipe(CodeSettings(other))
    assert recipe(CodeSettings(rescore="exact")) == recipe(CodeSettings(rescore="Flat"))
    assert recipe(CodeSettings(rescore="Flat")) != recipe(CodeSettings())


def test_huge_keeps_the_number_of_lists_that_it_began_with():
    kept = "PCAH128,IVF512,PQ32"
    assert CodeSettings("huge").factory_for(kept) == kept
    assert CodeSettings("PCAH128,IVF256,PQ32").factory_for(kept) == "PCAH128,IVF256,PQ32"
    for other in ("PCAH128,IVF512,PQ64", "Flat"):
        assert CodeSettings("huge").factory_for(other) != other


def test_presets_go_on_with_the_codec_that_few_patches_or_an_earlier_version_chose():
    for kept in ("PCAH256,PQ64", "PCAH128,PQ64", "PCAH128,SQ4", "SQ8"):
        assert CodeSettings("tiny").factory_for(kept) == kept
        assert CodeSettings("PCAH256,SQ4").factory_for(kept) == "PCAH256,SQ4"
    assert CodeSettings("tiny").factory_for("PCAH256,SQ8") == "PCAH256,PQ64"


def test_codes_without_anything_more():
    made = Codes("Flat", faiss.IndexFlatIP(3))
    assert made.projection is None and made.fine is None


@pytest.mark.parametrize("factory", ["Flat", "SQfp16", "SQbf16", "exact", "PCAH8,Flat"])
def test_a_codec_that_learns_nothing_has_no_codebook_to_differ_in(factory):
    settings = CodeSettings(factory, codebook="informative")
    codec = make_codec(parse_factory(factory), 16)
    assert codec.is_trained and settings.effective_codebook == "uniform"
    assert recipe(settings).codebook == "uniform"


@pytest.mark.parametrize("factory", ["SQ8", "PQ4x4", "PCAH8,SQ4", "tiny"])
def test_a_codec_that_learns_keeps_its_codebook(factory):
    assert CodeSettings(factory, codebook="informative").effective_codebook == "informative"
