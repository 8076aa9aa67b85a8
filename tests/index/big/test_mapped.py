"""index.mapped: prefetching requests exactly what a search reads, and changes no result."""

from __future__ import annotations

import dataclasses
import mmap
from pathlib import Path

import faiss
import numpy as np
import pytest

from patchify_core.index.big import build_big
from patchify_core.index.mapped import READ_BYTES, MappedCodes, ReadAhead, map_codes
from patchify_core.index.patch_index import PatchIndex
from tests.big import SETTINGS, Clusters

pytestmark = pytest.mark.usefixtures("one_thread")
needs_madvise = pytest.mark.skipif(not hasattr(mmap, "MADV_WILLNEED"), reason="Windows takes no such advice")


class SearchRequest:
    """A mapping that notes what it is asked to read."""

    def __init__(self, size: int) -> None:
        self.size, self.spans = size, list[tuple[int, int]]()

    def __len__(self) -> int:
        return self.size

    def madvise(self, option: int, start: int, length: int) -> None:
        assert option == mmap.MADV_WILLNEED and start % mmap.PAGESIZE == 0
        assert 0 < length <= READ_BYTES and start + length <= self.size
        self.spans.append((start, start + length))

    def pages(self) -> set[int]:
        page = mmap.PAGESIZE
        return {at for first, last in self.spans for at in range(first // page, -(-last // page))}


@pytest.fixture
def built(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    build_big(Clusters(), tmp_path / "index", dataclasses.replace(SETTINGS, rescore=request.param))
    return tmp_path / "index"


def mapped(path: Path) -> MappedCodes:
    with open(path, "rb") as file:
        return map_codes(file)


def watched(found: MappedCodes) -> tuple[MappedCodes, SearchRequest]:
    asked = SearchRequest(len(found.file))
    return dataclasses.replace(found, file=asked), asked  # type: ignore[arg-type]


def pages_of(begin: int, end: int) -> set[int]:
    return set(range(begin // mmap.PAGESIZE, -(-end // mmap.PAGESIZE)))


@pytest.mark.parametrize("built", [None, "SQ8", "Flat", "PQ2"], indirect=True)
def test_no_answer_changes(built: Path) -> None:
    index, plain = PatchIndex.load(built), PatchIndex.load(built)
    plain.ahead = None
    assert index.ahead is not None and index.plan is not None
    for probes in (1, 3, 16):
        index.plan = plain.plan = dataclasses.replace(index.plan, probes=probes)
        for row in range(0, 450, 45):
            query = index.project(Clusters().vectors[row, 2:3])[0]
            for top, level in ((1, None), (10, 1), (None, None)):
                mine, theirs = index.search(query, top, level), plain.search(query, top, level)
                assert np.array_equal(mine.rows, theirs.rows) and np.array_equal(mine.cells, theirs.cells)
                assert np.array_equal(mine.scores, theirs.scores)


@needs_madvise
@pytest.mark.parametrize("built", ["SQ8", "Flat", "PQ2"], indirect=True)
def test_just_what_a_search_touches_is_asked_for(built: Path) -> None:
    coarse, lists = watched(mapped(built / "index.faiss"))
    fine, codes = watched(mapped(built / "fine.faiss"))
    ahead = ReadAhead(coarse, fine)
    inverted = coarse.codes.invlists  # type: ignore[attr-defined]
    wanted = set()
    for number in (0, 7, 15):
        size = inverted.list_size(number)
        for pointer, width in ((inverted.get_codes(number), 2), (inverted.get_ids(number), 8)):
            begin = int(pointer) - coarse.data.ctypes.data
            wanted |= pages_of(begin, begin + size * width)
    ahead.lists(np.array([15, -1, 0, 7]))
    assert lists.pages() == wanted
    wanted = set()
    size = int(fine.codes.sa_code_size())
    for row in (0, 200, 449):
        own = fine.codes.reconstruct_n(row * 5, 4)
        at = ahead._first + row * 5 * size
        there = fine.data[at : at + 4 * size].reshape(4, size).copy()
        assert np.array_equal(fine.codes.sa_decode(there), own)  # that is where these patches' codes are
        wanted |= pages_of(at, at + 4 * size)
    ahead.patches(np.array([200, 0, 449]) * 5, 4)
    assert codes.pages() == wanted


@pytest.mark.parametrize("built", ["SQ8"], indirect=True)
def test_a_search_asks_before_it_touches(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, order = PatchIndex.load(built), list[str]()
    assert index.ahead is not None
    original = faiss.IndexIVFPQ.search_preassigned_c

    def visit(self, *given):  # type: ignore[no-untyped-def]
        order.append("visit")
        return original(self, *given)

    monkeypatch.setattr(faiss.IndexIVFPQ, "search_preassigned_c", visit)
    monkeypatch.setattr(index.ahead, "lists", lambda numbers: order.append(f"{len(numbers)} lists"))
    monkeypatch.setattr(index.ahead, "patches", lambda firsts, count: order.append(f"{count} patches"))

    def score(query, rows, used):  # type: ignore[no-untyped-def]
        order.append("score")
        return np.zeros((len(rows), used))

    monkeypatch.setattr(index, "_similarities", score)
    index.search(index.project(Clusters().vectors[3, :1])[0], 2)
    probes = index.plan.probes  # type: ignore[union-attr]
    assert order[:3] == [f"{probes} lists", "visit", "5 patches"] and set(order[3:]) == {"score"}


@pytest.mark.parametrize("built", ["SQ8"], indirect=True)
def test_without_such_a_call_nothing_is_asked(built: Path) -> None:
    class Plain:  # as on Windows
        def __len__(self) -> int:
            raise AssertionError("not even its size")

    coarse = dataclasses.replace(mapped(built / "index.faiss"), file=Plain())  # type: ignore[arg-type]
    ReadAhead(coarse).lists(np.array([0, 1]))
    ReadAhead(coarse).patches(np.array([0]), 5)


@needs_madvise
def test_large_lists_are_asked_for_in_pieces(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    index = faiss.IndexIVFPQ(faiss.IndexFlatIP(8), 8, 1, 4, 8, faiss.METRIC_INNER_PRODUCT)
    vectors = rng.standard_normal((40_000, 8)).astype(np.float32)
    index.train(vectors[:5000])
    index.add(vectors)
    faiss.write_index(index, str(tmp_path / "index.faiss"))
    coarse, asked = watched(mapped(tmp_path / "index.faiss"))
    ReadAhead(coarse).lists(np.array([0]))
    size = len(coarse.data)
    assert len(asked.spans) == -(-(size - asked.spans[0][0]) // READ_BYTES) > 3
    assert asked.pages() == pages_of(size - 40_000 * 12, size)
