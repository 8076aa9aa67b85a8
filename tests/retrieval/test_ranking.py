"""retrieval.ranking against the list of all matches."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchify_core.demo.example_gallery import ExampleGallery
from patchify_core.evaluation.run import find_in_matches
from patchify_core.retrieval import ranking as module
from patchify_core.retrieval.ranking import Match, Ranking


@pytest.fixture(scope="module")
def made(sample_db):
    """(the ranking of an example, the same as a list, the showcase)."""
    showcase = ExampleGallery(sample_db)
    descriptor = showcase.first().descriptor
    return showcase.engine.ranking(descriptor), showcase.engine.search_descriptor(descriptor, None), showcase


def same(one: Match, other: Match) -> bool:
    return (one.image_id, one.score, one.patch, one.file_name) == (
        other.image_id,
        other.score,
        other.patch,
        other.file_name,
    ) and np.array_equal(one.box, other.box)


@given(st.slices(200), st.integers(0, 5))
def test_any_part_is_that_of_the_list(made, part: slice, front: int) -> None:
    whole, listed = made[0], made[1]
    first = listed[front - 1 :: -1] if front else []
    ranking, wanted = whole.with_first(first), [*first, *listed[front:]]
    assert len(ranking) == len(wanted)
    assert all(itertools.starmap(same, zip(ranking[part], wanted[part], strict=True)))
    assert ranking.image_ids.tolist() == [match.image_id for match in wanted]


def test_all_are_gone_through_in_pieces(made, monkeypatch) -> None:
    whole, listed, _ = made
    monkeypatch.setattr(module, "PIECE", 7)
    assert all(itertools.starmap(same, zip(whole, listed, strict=True)))
    assert same(whole[-1], listed[-1])
    with pytest.raises(IndexError):
        whole[len(listed)]


def test_only_those_that_are_looked_at_are_made(made, monkeypatch) -> None:
    whole, _, showcase = made
    counted = []
    real = module.as_matches
    monkeypatch.setattr(module, "as_matches", lambda index, hits: counted.append(len(hits.rows)) or real(index, hits))
    fresh = Ranking(whole.searched, whole.hits)
    assert len(fresh[:10]) == 10
    query = showcase.gallery.queries[0]
    found = find_in_matches(fresh, showcase.gallery, query)
    assert found is not None and sum(counted) == 10 + len(found.ranks)
