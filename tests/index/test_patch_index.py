"""index.patch_index: exact and approximate search against a slow reference, and the checks of an index."""

from __future__ import annotations

import dataclasses

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchify_core.encoders import EncoderInfo
from patchify_core.files import sha256_of_bytes
from patchify_core.index import patch_index
from patchify_core.index.codec.codes import Codes, CodeSettings, encode_codes
from patchify_core.index.patch_index import RESCORED, PatchIndex
from patchify_core.index.pictures import IndexedImage, Pictures
from patchify_core.index.recipe import Recipe
from patchify_core.regions import Pyramid, patches_up_to

PROPERTY = settings(max_examples=80, deadline=None)
DIM = 16
FACTORIES = ("Flat", "SQfp16", "SQ8")  # those that are searched exactly
ENCODER = EncoderInfo("tiny", DIM, 8, "0" * 64, "mean", "none")
pytestmark = pytest.mark.usefixtures("one_thread")


def unit_rows(rng, count):
    rows = rng.normal(size=(count, DIM)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def index_of(ids, levels, vectors, factory="Flat", root=None):
    """An index of pictures `ids` with the (len(ids) * P, DIM) descriptors given."""
    codes = faiss.index_factory(DIM, factory, faiss.METRIC_INNER_PRODUCT)
    codes.train(vectors)
    codes.add(vectors)
    images = [IndexedImage(int(i), f"{i}.png", 40 + n, 30 + n, 7, f"{i:064d}") for n, i in enumerate(ids)]
    recipe = Recipe(ENCODER, Pyramid(levels), factory=factory)
    return PatchIndex(recipe, Pictures(images, root), Codes(factory, codes))


def random_index(levels=2, pictures=5, factory="Flat", seed=0, root=None):
    count = pictures * patches_up_to(levels)
    return index_of(range(1, pictures + 1), levels, unit_rows(np.random.default_rng(seed), count), factory, root)


def slow_search(index, query, top, level):
    """[(row, score, cell)]: every patch of every picture, one at a time; equal descriptors get equal scores."""
    scores: dict[bytes, float] = {}
    found = []
    for row, image in enumerate(index.images):
        stored = index.codes.reconstruct_n(row * index.regions.patches_per_image, index.regions.patches_per_image)
        best = None
        for cell in range(patches_up_to(level or index.regions.levels)):
            key = stored[cell].tobytes()
            if key not in scores:
                scores[key] = float(stored[cell].astype(np.float64) @ query.astype(np.float64))
            if best is None or scores[key] > best[0]:  # a later, finer cell must be better, not as good
                best = (scores[key], cell)
        found.append((-best[0], image.id, row, best[1]))
    return [(row, -score, cell) for score, _, row, cell in sorted(found)[:top]]


# Search ---------------------------------------------------------------------------------------------------


@PROPERTY
@given(
    st.data(),
    st.sampled_from(FACTORIES),
    st.integers(1, 4),
    st.lists(st.integers(-5, 10**12), min_size=1, max_size=9, unique=True),  # ids need not be in order
    st.integers(0, 2**32 - 1),
)
def test_search_is_the_slow_search(data, factory, levels, ids, seed):
    rng = np.random.default_rng(seed)
    # Few different descriptors for many patches: ties within a picture, between pictures, and at the cut.
    pool = unit_rows(rng, data.draw(st.sampled_from([1, 2, 5, 1000])))
    index = index_of(ids, levels, pool[rng.integers(len(pool), size=len(ids) * patches_up_to(levels))], factory)
    query = unit_rows(rng, 1)[0]
    top = data.draw(st.none() | st.integers(1, len(ids) + 2))
    level = data.draw(st.none() | st.integers(1, levels))
    hits = index.search(query, top, level)
    expected = slow_search(index, query, top, level)
    assert list(zip(hits.rows.tolist(), hits.cells.tolist(), strict=True)) == [(r, c) for r, _, c in expected]
    np.testing.assert_allclose(hits.scores, [score for _, score, _ in expected], atol=2e-6)


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("top", [1, 2, 3, None])
@pytest.mark.parametrize("level", [1, 2, 3])
def test_ties_at_the_cut_go_to_the_smallest_id(factory, top, level):
    # One descriptor everywhere, ids descending: what the search meets first is what it may not return first.
    same = np.tile(unit_rows(np.random.default_rng(0), 1), (40 * patches_up_to(3), 1))
    index = index_of(range(40, 0, -1), 3, same, factory)
    hits = index.search(same[0], top, level)
    assert index.image_ids[hits.rows].tolist() == list(range(1, (top or 40) + 1))
    assert not hits.cells.any()  # the whole picture goes before its cells


@pytest.mark.parametrize("factory", FACTORIES)
def test_ties_at_the_cut_among_other_scores(factory):
    # The fourth place is shared by pictures 1..30 (last in the index) in all of their patches; three others are
    # better. A search that stopped at the first 4 * P patches would have met only some of the thirty.
    rng = np.random.default_rng(1)
    query, patches = unit_rows(rng, 1)[0], patches_up_to(2)
    other = unit_rows(rng, 1)[0]
    worse = query + 2 * other / np.linalg.norm(other)
    tied = np.tile(worse / np.linalg.norm(worse), (30 * patches, 1))
    better = np.tile(query, (3 * patches, 1))
    index = index_of([*range(101, 104), *range(30, 0, -1)], 2, np.concatenate([better, tied]), factory)
    hits = index.search(query, top=6)
    assert index.image_ids[hits.rows].tolist() == [101, 102, 103, 1, 2, 3]


def test_each_picture_appears_once_and_all_do():
    index = random_index(levels=4, pictures=12)
    hits = index.search(unit_rows(np.random.default_rng(9), 1)[0])
    assert sorted(hits.rows.tolist()) == list(range(12))
    assert (np.diff(hits.scores) <= 0).all()
    assert hits.rows.dtype == np.int64 and hits.scores.dtype == np.float32 and hits.cells.dtype == np.int64


@pytest.mark.parametrize("factory", FACTORIES)
def test_cell_scores_hold_the_score(factory):
    index = random_index(levels=3, pictures=6, factory=factory)
    query = unit_rows(np.random.default_rng(2), 1)[0]
    hits = index.search(query)
    for row, score, cell in zip(hits.rows, hits.scores, hits.cells, strict=True):
        cells = index.cell_scores(query, int(row))
        assert cells.shape == (14,)
        assert cells[cell] == score  # to the last bit, or a look into a match could name another cell than the match
        assert cells.argmax() == cell
        np.testing.assert_allclose(cells, index.descriptors_of(int(row)) @ query, atol=2e-6)


@pytest.mark.parametrize(
    ("factory", "bytes_per_number", "error"), [("Flat", 4, 0), ("SQfp16", 2, 5e-4), ("SQ8", 1, 5e-3)]
)
def test_codes_are_as_small_and_as_exact_as_they_say(factory, bytes_per_number, error):
    vectors = unit_rows(np.random.default_rng(0), 5 * 4)
    index = index_of(range(4), 2, vectors, factory)
    assert index.bytes_per_image == 5 * DIM * bytes_per_number
    for row in range(4):
        np.testing.assert_allclose(index.descriptors_of(row), vectors[5 * row : 5 * row + 5], atol=error)


def test_boxes_are_those_of_the_pictures_own_size():
    index = random_index(levels=2)
    assert index.boxes_of(3)[0].tolist() == [0, 0, 43, 33]
    np.testing.assert_array_equal(index.boxes_of(3), Pyramid(2).boxes(43, 33))


@pytest.mark.parametrize("top", [0, -1])
def test_at_least_one_result(top, refused):
    assert str(top) in refused(random_index().search, np.ones(DIM), top)


@pytest.mark.parametrize("level", [0, -1, 3])
def test_only_levels_that_the_index_has(level, refused):
    assert "levels 1 to 2" in refused(random_index(levels=2).search, np.ones(DIM), None, level)


@pytest.mark.parametrize(
    "query",
    [np.ones(DIM - 1), np.ones((2, DIM)), np.zeros(0), np.full(DIM, np.nan), np.r_[np.ones(DIM - 1), np.inf]],
)
def test_a_query_of_another_encoder_is_refused(query, refused):
    assert f"{DIM} finite numbers" in refused(random_index().search, query)


# Approximate codecs ---------------------------------------------------------------------------------------


def coded_index(factory, rescore=None, pictures=60, levels=2, seed=0, probes=None, ids=None):
    """(index, raw descriptors): any codec over seeded descriptors; `probes` lists visited, all of them by default."""
    vectors = unit_rows(np.random.default_rng(seed), pictures * patches_up_to(levels)).reshape(pictures, -1, DIM)
    regions = Pyramid(levels)
    made = encode_codes(vectors.__getitem__, pictures, regions, DIM, CodeSettings(factory, rescore=rescore))
    inverted = faiss.try_extract_index_ivf(made.codes)
    if inverted is not None:
        inverted.make_direct_map()
        inverted.nprobe = probes or inverted.nlist
    ids = range(1, pictures + 1) if ids is None else ids
    images = [IndexedImage(int(i), f"{i}.png", 40, 30, 7, f"{i:064d}") for i in ids]
    recipe = Recipe(ENCODER, regions, factory=factory, rescore=rescore)
    return PatchIndex(recipe, Pictures(images), made), vectors


def slow_decoded(index, query, level):
    """Best first: [(row, cell)] over decoded descriptors, one picture at a time."""
    used = patches_up_to(level or index.regions.levels)
    found = []
    for row, image in enumerate(index.images):
        scores = [np.float32(np.einsum("d,d", d, query)) for d in index.descriptors_of(row)[:used]]
        found.append((-max(scores), image.id, row, scores.index(max(scores))))
    return [(row, cell) for _, _, row, cell in sorted(found)]


APPROXIMATE = {
    "PQ": ("PQ4", None),
    "PQ x4": ("PQ4x4", None),
    "PQ fast-scan": ("PQ4x4fs", None),
    "OPQ": ("OPQ2_8,IVF2,SQ8", None),
    "IVF,PQ": ("IVF4,PQ4x4", None),
    "IVF by HNSW": ("IVF4_HNSW4,SQ8", None),
    "projection, PQ": ("PCAH8,PQ4x4", None),
    "projection, IVF, PQ": ("PCAH8,IVF4,PQ4x4", None),
    "PQ, finer": ("PQ4x4", "SQfp16"),
    "projection, IVF, finer": ("PCAH8,IVF4,PQ4x4", "Flat"),
    "graph": ("HNSW8,SQ8", None),
    "projection, graph, finer": ("PCAH8,HNSW8,SQ4", "SQfp16"),
}


@pytest.fixture(scope="module", params=APPROXIMATE.values(), ids=APPROXIMATE.keys())
def approximate(request):
    return coded_index(*request.param, ids=np.random.default_rng(5).permutation(60))


def test_everything_proposed_is_the_slow_search_over_decoded_patches(approximate):
    index, _ = approximate
    for seed in range(3):
        query = index.project(unit_rows(np.random.default_rng(100 + seed), 1))[0]
        for level in (None, 1, 2):
            hits = index.search(query, None, level)
            expected = slow_decoded(index, query, level)
            assert len(hits.rows) == 60
            scores = [index.cell_scores(query, row)[cell] for row, cell in expected]
            np.testing.assert_allclose(hits.scores, scores, atol=1e-6)
            # Where einsum's last bit may differ between one patch and many, neighbours may change places.
            clear = np.flatnonzero(-np.diff(scores) > 1e-5)
            for end in clear + 1:
                assert {*hits.rows[:end].tolist()} == {row for row, _ in expected[:end]}


def test_the_best_of_an_approximate_search_have_the_scores_that_their_cells_have(approximate):
    index, vectors = approximate
    for row in (0, 17, 59):
        query = index.project(vectors[row, 3:4])[0]
        for top in (1, 3, 60, 99):
            hits = index.search(query, top)
            assert len(hits.rows) == min(top, 60) == len({*hits.rows.tolist()})
            assert hits.rows.min() >= 0 and (np.diff(hits.scores) <= 0).all()
            for at, cell, score in zip(hits.rows.tolist(), hits.cells.tolist(), hits.scores, strict=True):
                cells = index.cell_scores(query, at)
                assert cells[cell] == score and cells.argmax() == cell  # to the last bit
        assert index.search(query, 1, 1).cells.tolist() == [0]


@pytest.mark.parametrize("factory", ["PQ4x4", "IVF4,SQ8", "PQ4x4fs", "PCAH8,PQ4x4"])
def test_what_stands_apart_is_found_whatever_the_codec(factory):
    index, vectors = coded_index(factory)
    for row in range(0, 60, 7):
        query = index.project(vectors[row, 2:3])[0]
        expected = slow_decoded(index, query, None)
        hits = index.search(query, 1)
        assert index.cell_scores(query, expected[0][0])[expected[0][1]] == pytest.approx(hits.scores[0], abs=1e-6)


@pytest.mark.parametrize("factory", ["IVF16,PQ4x4", "IVF16,Flat", "PCAH8,IVF16,SQ8"])
@pytest.mark.parametrize("level", [None, 1])
def test_few_lists_may_miss_pictures_but_repeat_none(factory, level):
    index, vectors = coded_index(factory, probes=1)
    missed = False
    for row in range(20):
        hits = index.search(index.project(vectors[row, :1])[0], None, level)
        assert hits.rows.min(initial=0) >= 0 and len({*hits.rows.tolist()}) == len(hits.rows) >= 1
        assert len(hits.rows) == len(hits.scores) == len(hits.cells)
        missed |= len(hits.rows) < 60
        assert len(index.search(index.project(vectors[row, :1])[0], 5, level).rows) <= 5
    assert missed


def test_no_list_that_is_visited_may_hold_a_patch_of_the_level():
    # Whole pictures lie on one side, cells on the other, and the query with the cells.
    rng = np.random.default_rng(0)
    towards = np.zeros(DIM, np.float32)
    towards[0] = 1
    vectors = rng.normal(size=(20, 5, DIM)).astype(np.float32) * 0.05
    vectors[:, 0] -= towards
    vectors[:, 1:] += towards
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    made = encode_codes(vectors.__getitem__, 20, Pyramid(2), DIM, CodeSettings("IVF2,Flat"))
    made.codes.make_direct_map()
    made.codes.nprobe = 1
    images = [IndexedImage(i, f"{i}.png", 4, 3, 7, "") for i in range(20)]
    index = PatchIndex(Recipe(ENCODER, Pyramid(2), factory="IVF2,Flat"), Pictures(images), made)
    assert len(index.search(towards, 5).rows) == 5
    none = index.search(towards, 5, 1)
    assert none.rows.tolist() == none.scores.tolist() == none.cells.tolist() == []


WALKED = 800  # pictures: a walk to the best ten of them looks at fewer patches than there are


@pytest.fixture(scope="module", params=[("HNSW16,SQfp16", None), ("PCAH8,HNSW16,SQ4", "Flat"), ("HNSW16,Flat", None)])
def graph(request):
    return coded_index(*request.param, pictures=WALKED, ids=np.random.default_rng(6).permutation(WALKED))


def test_a_walk_finds_what_comparing_with_every_patch_finds(graph, monkeypatch):
    index, vectors = graph
    found = []
    for row in range(0, WALKED, 40):
        query = index.project(unit_rows(np.random.default_rng(row), 1) * 0.1 + vectors[row, 1:2])[0]
        query /= np.linalg.norm(query)
        wanted = slow_decoded(index, query, None)[:10]
        with monkeypatch.context() as patched:
            patched.setattr(patch_index, "WALK_SHARE", 0)  # finer codes order a hundred pictures: many for so few
            patched.setattr(index, "_search_every_code", None)  # a walk it is
            hits = index.search(query, 10)
        found.append(len({*hits.rows.tolist()} & {row for row, _ in wanted}) / 10)
    assert np.mean(found) >= 0.97


@given(seed=st.integers(0, 2**32 - 1), top=st.integers(1, 40), level=st.none() | st.integers(1, 2))
@settings(PROPERTY, max_examples=20)
def test_what_a_walk_finds_has_the_scores_that_its_cells_have(graph, seed, top, level):
    index, _ = graph
    query = index.project(unit_rows(np.random.default_rng(seed), 1))[0]
    hits = index.search(query, top, level)
    assert len(hits.rows) == top == len({*hits.rows.tolist()})
    order = np.lexsort((index.image_ids[hits.rows], -hits.scores))
    assert order.tolist() == list(range(top))
    for row, cell, score in zip(hits.rows.tolist(), hits.cells.tolist(), hits.scores, strict=True):
        cells = index.cell_scores(query, row)[: patches_up_to(level or 2)]
        assert cells[cell] == score and cells.argmax() == cell  # to the last bit
    if level == 1 and index.rescore is None:  # where few patches count, each of them is compared
        assert hits.rows.tolist() == [row for row, _ in slow_decoded(index, query, 1)[:top]]


def test_a_whole_ranking_of_a_graph_misses_none(graph):
    index, vectors = graph
    hits = index.search(index.project(vectors[5, :1])[0])
    assert sorted(hits.rows.tolist()) == list(range(WALKED))


def test_a_graph_among_pictures_that_are_all_the_same():
    same = np.tile(unit_rows(np.random.default_rng(0), 1), (WALKED * 5, 1))
    index = index_of(range(WALKED, 0, -1), 2, same, "HNSW16,Flat")
    assert len({*index.search(same[0], 10).rows.tolist()}) == 10


@pytest.mark.parametrize("top", [1, 10, None])
def test_finer_codes_order_the_first_pictures(top):
    index, _ = coded_index("SQ4", "Flat", pictures=RESCORED + 40, levels=1)
    query = unit_rows(np.random.default_rng(9), 1)[0]
    alone = PatchIndex(Recipe(ENCODER, Pyramid(1)), Pictures(index.images), Codes("Flat", index.codes))
    hits, coarse = index.search(query, top), alone.search(query)
    first = coarse.rows[:RESCORED]
    exact = np.array([index.cell_scores(query, row)[0] for row in first.tolist()])
    expected = np.concatenate([first[np.argsort(-exact, kind="stable")], coarse.rows[RESCORED:]])
    assert hits.rows.tolist() == expected[: top or None].tolist()
    np.testing.assert_array_equal(hits.scores[:RESCORED], np.sort(exact)[::-1][: len(hits.scores)])


def test_bytes_are_those_of_all_codes():
    assert coded_index("PQ4x4", "SQ8")[0].bytes_per_patch == 2 + 16
    assert coded_index("PCAH8,SQ8", levels=1)[0].bytes_per_image == 8


# What it was made of --------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"weights_sha256": "1" * 64}, {"pooling": "max"}, {"input_size": 9}])
def test_other_settings_of_the_same_encoder_are_refused(change, refused):
    message = refused(random_index().check_encoder, dataclasses.replace(ENCODER, **change))
    assert "of the same encoder" in message


def test_another_encoder_is_refused_by_name(refused):
    message = refused(random_index().check_encoder, dataclasses.replace(ENCODER, spec="huge"))
    assert "'tiny'" in message and "'huge'" in message


def test_the_same_encoder_passes():
    random_index().check_encoder(dataclasses.replace(ENCODER))


@pytest.fixture
def with_pictures(tmp_path):
    """An index of two files that are there."""
    images = []
    for number in (1, 2):
        data = bytes([number]) * 10
        (tmp_path / f"{number}.png").write_bytes(data)
        images.append(IndexedImage(number, f"{number}.png", 4, 3, 10, sha256_of_bytes(data)))
    index = random_index(levels=1, pictures=2)
    index.images = tuple(images)
    return index, tmp_path


@pytest.mark.parametrize("content", [False, True])
def test_pictures_that_are_there_pass(with_pictures, content):
    index, root = with_pictures
    (root / "more.png").write_bytes(b"not indexed, not missed")
    index.check_pictures(root, content=content)


@pytest.mark.parametrize("content", [False, True])
@pytest.mark.parametrize(
    "change", [lambda p: p.unlink(), lambda p: p.write_bytes(b"longer than it was"), lambda p: p.write_bytes(b"")]
)
def test_pictures_that_are_not_the_indexed_ones(with_pictures, content, change, refused):
    index, root = with_pictures
    change(root / "2.png")
    assert "2.png" in refused(index.check_pictures, root, content=content)


def test_another_picture_of_the_same_size_is_found_by_its_content(with_pictures, refused):
    index, root = with_pictures
    (root / "1.png").write_bytes(b"x" * 10)
    index.check_pictures(root)  # sizes alone cannot tell
    assert "1.png" in refused(index.check_pictures, root, content=True)
