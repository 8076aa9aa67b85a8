"""retrieval.rerank: names, query expansion, chains, and how a search uses them."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from patchify_core.gallery import read_folder
from patchify_core.index.build import build_index
from patchify_core.patchify import Patchify
from patchify_core.regions import Pyramid
from patchify_core.retrieval.rerank import RERANKERS, Chain, ExpansionSettings, QueryExpansion, load_reranker
from patchify_core.retrieval.rerank.expansion import expanded
from patchify_core.retrieval.searcher import QueryView
from tests.tiny import TinyEncoder, picture, write_pictures


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """A tiny index of twelve pictures, pyramid:3, float32."""
    folder = tmp_path_factory.mktemp("rerank")
    write_pictures(folder / "photos", range(12), (60, 42))
    build_index(read_folder(folder / "photos"), folder / "idx", TinyEncoder(), Pyramid(3))
    return Patchify.open(folder / "idx", TinyEncoder())


def ids(matches):
    return [match.image_id for match in matches]


# Names ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["qe", "patch-qe", "sift", "patch-qe+sift", "qe+patch-qe"])
def test_a_reranker_knows_its_name(name):
    assert load_reranker(name).name == name


@pytest.mark.parametrize(
    ("name", "near"), [("shift", "sift"), ("patchqe", "patch-qe"), ("qe+alike", "aliked"), ("X-Feat", "xfeat")]
)
def test_an_unknown_name_is_told_the_nearest(refused, name, near):
    assert f"the nearest is {near}" in refused(load_reranker, name)


@pytest.mark.parametrize("name", ["", "+", "qe+", "123456"])
def test_what_is_no_name_is_told_all_names(refused, name):
    said = refused(load_reranker, name)
    assert all(known in said for known in RERANKERS)


# Alpha query expansion ------------------------------------------------------------------------------------


def slow_expansion(query, descriptors, count, alpha):
    """The formula, number by number."""
    total = [float(value) for value in query]
    for descriptor in descriptors[:count]:
        similarity = sum(float(a) * float(b) for a, b in zip(query, descriptor, strict=True))
        weight = max(similarity, 0.0) ** alpha
        for axis, value in enumerate(descriptor):
            total[axis] += weight * float(value)
    length = math.sqrt(sum(value * value for value in total))
    return [value / length for value in total]


def unit_rows(rows):
    rows = rows + np.where(np.arange(rows.shape[-1]) == 0, 1e-3, 0)  # no row may be all zeros
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


vectors = arrays(np.float64, (6, 5), elements=st.floats(-1, 1, width=32)).map(unit_rows)


@given(vectors, st.integers(0, 7), st.floats(0.5, 6))
def test_expansion_is_the_papers_formula(rows, count, alpha):
    fast = expanded(rows[0], rows[1:], ExpansionSettings(count, alpha))
    np.testing.assert_allclose(fast, slow_expansion(rows[0], rows[1:], count, alpha), atol=1e-5)
    assert np.linalg.norm(fast) == pytest.approx(1, abs=1e-5)


@given(vectors, st.floats(0.5, 6))
def test_expansion_with_nothing_changes_nothing(rows, alpha):
    query = rows[0]
    assert expanded(query, rows[1:], ExpansionSettings(0, alpha)) is query
    opposite = np.repeat(-query[None], 3, axis=0)
    assert expanded(query, opposite, ExpansionSettings(3, alpha)) is query
    np.testing.assert_allclose(expanded(query, query[None], ExpansionSettings(1, alpha)), query, atol=1e-6)


@given(vectors)
def test_the_expanded_query_comes_nearer_to_its_only_match(rows):
    query, match = rows[:2]
    assert expanded(query, match[None], ExpansionSettings(1, 1)) @ match >= query @ match - 1e-6


@pytest.mark.parametrize("patches", [False, True])
@pytest.mark.parametrize("level", [1, 2, None])
def test_an_expansion_searches_again(engine, patches, level):
    query = engine.describe_query(picture(3, (60, 42)), (5, 5, 40, 30))
    settings = ExpansionSettings(3, 2.0)
    matches = engine.search_descriptor(query, None, level)
    got = QueryExpansion(patches=patches, settings=settings).rerank(engine, QueryView(query), matches, level)
    used = [
        engine.index.descriptors_of(engine.index.row_of[m.image_id])[m.patch if patches else 0] for m in matches[:3]
    ]
    best = {}
    slow = np.array(slow_expansion(query, used, 3, 2.0))
    patches_used = engine.index.regions.stages[(level or 3) - 1].patches
    for row, image in enumerate(engine.index.images):
        best[image.id] = float((engine.index.descriptors_of(row)[:patches_used] @ slow).max())
    assert ids(got) == sorted(best, key=lambda image_id: (-round(best[image_id], 6), image_id))
    assert [m.score for m in got] == pytest.approx([best[m.image_id] for m in got], abs=1e-5)


def test_whole_pictures_only_make_both_expansions_the_same(engine):
    view = QueryView(engine.describe_query(picture(3, (60, 42))))
    matches = engine.search_descriptor(view.descriptor, None, 1)
    whole, patch = (load_reranker(name).rerank(engine, view, matches, 1) for name in ("qe", "patch-qe"))
    assert ids(whole) == ids(patch) and [m.score for m in whole] == [m.score for m in patch]


@pytest.mark.parametrize("name", ["qe", "patch-qe", "patch-qe+qe"])
@pytest.mark.parametrize("count", [0, 1, 4])
def test_as_many_matches_as_before(engine, name, count):
    view = QueryView(engine.describe_query(picture(3)))
    matches = engine.search_descriptor(view.descriptor)[:count]
    got = engine.rerank(view, matches, name)
    assert len(got) == count == len(set(ids(got)))


def test_excluded_pictures_take_no_part(engine):
    view = QueryView(engine.describe_query(picture(3, (60, 42))))
    matches = engine.search_descriptor(view.descriptor, None)
    first = matches[0].image_id  # the very picture
    expansion = QueryExpansion(patches=True, settings=ExpansionSettings(1, 1.0))
    without = dataclasses.replace(view, exclude=frozenset({first}))
    np.testing.assert_array_equal(
        expansion.expand(engine, without, matches), expansion.expand(engine, view, matches[1:])
    )
    assert not np.array_equal(expansion.expand(engine, without, matches), expansion.expand(engine, view, matches))


def test_a_chain_hands_on_answer_and_query(engine):
    first = QueryExpansion(patches=True, settings=ExpansionSettings(2, 1.0))
    second = QueryExpansion(patches=True, settings=ExpansionSettings(1, 1.0))
    view = QueryView(engine.describe_query(picture(3)))
    matches = engine.search_descriptor(view.descriptor, None)
    middle = first.rerank(engine, view, matches, None)
    query = dataclasses.replace(view, descriptor=first.expand(engine, view, matches))
    expected = second.rerank(engine, query, middle, None)
    got = Chain([first, second]).rerank(engine, view, matches, None)
    assert ids(got) == ids(expected) and [m.score for m in got] == [m.score for m in expected]
    assert Chain([first, second]).shortlist == 2 and not Chain([first, second]).needs_picture


# A search with one ----------------------------------------------------------------------------------------


def test_a_search_expands_with_its_best_matches_however_few_are_asked_for(engine):
    query = picture(3, (60, 42))
    everything = engine.search(query, (3, 3, 30, 30), top=None, rerank="patch-qe")
    assert len(everything) == 12
    for top in (1, 2, 5):
        few = engine.search(query, (3, 3, 30, 30), top=top, rerank="patch-qe")
        assert ids(few) == ids(everything)[:top]


def test_a_search_takes_a_loaded_reranker(engine):
    loaded = QueryExpansion(patches=True, settings=ExpansionSettings(0))
    plain = engine.search(picture(3), top=None)
    assert ids(engine.search(picture(3), top=None, rerank=loaded)) == ids(plain)
    assert ids(engine.rerank(engine.view(picture(3)), plain, loaded)) == ids(plain)


@pytest.mark.parametrize("asked", [{"rerank": "magic"}, {"top": 0, "rerank": "qe"}, {"level": 9, "rerank": "qe"}])
def test_what_cannot_be_asked_of_a_reranked_search(engine, asked, refused):
    refused(engine.search, picture(1), **asked)


def test_a_view_has_the_upright_picture_and_the_box_inside_it(engine):
    view = engine.view(picture(3, (60, 42)), (-10, 5, 30, 500))
    assert view.picture.size == (60, 42) and view.box.tolist() == [0, 5, 30, 42]
    np.testing.assert_array_equal(view.descriptor, engine.describe_query(picture(3, (60, 42)), (0, 5, 30, 42)))
    assert engine.view(picture(3)).box is None
