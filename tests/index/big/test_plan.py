"""index.big.plan: the codec chosen for a memory budget."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchify_core.errors import PatchifyError
from patchify_core.index.big.plan import CodecChoice, choose, choose_fast, lists_of
from patchify_core.index.codec.factory import make_codec, parse_factory

PICTURES, BUDGETS = st.integers(1, 50_000_000), st.floats(0.1, 500)
DIMS = st.sampled_from([24, 64, 128, 384, 768, 1280])


def chosen(pictures: int, patches: int, memory: float, dim: int) -> CodecChoice | str:
    try:
        return choose(pictures, patches, memory, dim)
    except PatchifyError as error:
        return str(error)


@given(PICTURES, st.integers(1, 100), BUDGETS, DIMS)
def test_never_above_the_budget_and_always_possible(pictures: int, patches: int, memory: float, dim: int) -> None:
    found = chosen(pictures, patches, memory, dim)
    if isinstance(found, CodecChoice):
        assert pictures * patches * found.bytes_per_patch / 1e9 < found.memory_gb <= memory
        assert found.probes <= found.lists and f"{found.lists:,}" in found.why + "0"
        make_codec(parse_factory(found.factory), dim)  # FAISS knows it and it fits the dimension
    else:
        smallest = float(re.search(r"is ([0-9.e+]+) GB", found)[1])  # type: ignore[index]
        assert smallest > memory and isinstance(chosen(pictures, patches, smallest, dim), CodecChoice)


@given(PICTURES, BUDGETS, BUDGETS, DIMS)
def test_more_memory_never_buys_less(pictures: int, one: float, two: float, dim: int) -> None:
    less, more = (chosen(pictures, 30, memory, dim) for memory in sorted((one, two)))
    if isinstance(less, CodecChoice):
        assert isinstance(more, CodecChoice) and more.bytes_per_patch >= less.bytes_per_patch


@given(PICTURES, PICTURES, BUDGETS, DIMS)
def test_more_pictures_never_get_more_bytes(one: int, two: int, memory: float, dim: int) -> None:
    few, many = (chosen(pictures, 30, memory, dim) for pictures in sorted((one, two)))
    if isinstance(many, CodecChoice):
        assert isinstance(few, CodecChoice) and few.lists <= many.lists
        if bool(few.lists) == bool(many.lists):
            assert few.bytes_per_patch >= many.bytes_per_patch
    assert lists_of(min(one, two)) <= lists_of(max(one, two))


def test_without_a_budget_the_number_of_pictures_chooses() -> None:
    for pictures in (0, 1, 164, 651, 652, 10_000, 100_000, 100_001, 10**9):
        found = choose_fast(pictures, 30, 1280)
        assert found.factory == ("exact" if pictures <= 651 else "fast" if pictures <= 100_000 else "huge")
        assert (found.rescore is None) == (found.factory != "huge")
        assert f"{pictures:,} pictures of 30 patches" in found.why and "5 ms" in found.why
        assert ("--preset exact" in found.why) == (found.factory != "exact") and found.why.count(".") == 1
    assert choose_fast(6_000, 30, 128).factory == "exact" and choose_fast(7_000, 30, 128).factory == "fast"


def test_the_page_of_the_issue() -> None:
    found = choose(10_000_000, 30, 16, 1280)
    assert found.factory == "PCAH128,IVF65536,PQ32" and 14 < found.memory_gb <= 16
    assert "10,000,000 pictures of 30 patches in 16 GB" in found.why and "65,536 lists" in found.why
    assert choose(300, 30, 2, 1280).factory == "Flat"
    with pytest.raises(PatchifyError, match=r"do not fit 4 GB of memory: the smallest budget that suffices is"):
        choose(10_000_000, 30, 4, 1280)
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(PatchifyError, match="number of GB above 0"):
            choose(10, 30, wrong, 1280)
