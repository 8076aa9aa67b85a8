"""features.crop.map_ahead: the order, the errors and the threads of `map`, and no item read too early."""

from __future__ import annotations

import gc
import threading
import time
import weakref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchify_core.features.crop import map_ahead

PROPERTY = settings(max_examples=40, deadline=None)


def workers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("patchify-ahead")]


@PROPERTY
@given(st.lists(st.integers()), st.integers(1, 4))
def test_it_is_map(items, ahead):
    assert list(map_ahead(lambda item: item * 2, iter(items), ahead)) == [item * 2 for item in items]
    assert workers() == []


@PROPERTY
@given(st.integers(0, 9), st.integers(1, 4))
def test_items_are_read_when_needed_and_here(count, ahead):
    read, reader, worked = [], set(), set()

    def items():
        for item in range(count):
            read.append(item)
            reader.add(threading.get_ident())
            yield item

    def work(item):
        worked.add(threading.get_ident())
        return item

    results = map_ahead(work, items(), ahead)
    assert read == []
    for result in results:
        assert len(read) <= result + 1 + ahead
    assert len(read) == count
    assert reader <= {threading.get_ident()} and len(worked) <= 1 and not worked & reader


@pytest.mark.timeout(120)
def test_the_next_item_is_read_while_the_work_goes_on():
    """With one after the other, each would wait for the other for ever."""
    second_is_read, first_is_worked_on = threading.Event(), threading.Event()

    def items():
        yield 1
        assert first_is_worked_on.wait(60)
        second_is_read.set()
        yield 2

    def work(item):
        first_is_worked_on.set()
        assert second_is_read.wait(60)
        return item

    assert list(map_ahead(work, items())) == [1, 2]


@PROPERTY
@given(st.integers(0, 6), st.integers(1, 3))
def test_an_error_of_reading_comes_after_the_results_before_it(good, ahead):
    def items():
        yield from range(good)
        raise OSError("the disk")

    found = []
    with pytest.raises(OSError, match="the disk"):
        for result in map_ahead(lambda item: item, items(), ahead):
            found.append(result)
    assert found == list(range(good)) and workers() == []


@PROPERTY
@given(st.integers(0, 6), st.integers(1, 3))
def test_an_error_of_the_work_comes_in_its_place(good, ahead):
    def work(item):
        if item == good:
            raise ArithmeticError(item)
        return item

    found = []
    with pytest.raises(ArithmeticError):
        for result in map_ahead(work, range(20), ahead):
            found.append(result)
    assert found == list(range(good)) and workers() == []


def test_a_wish_to_stop_comes_at_once():
    def items():
        yield 1
        raise KeyboardInterrupt

    found = []
    with pytest.raises(KeyboardInterrupt):
        for result in map_ahead(lambda item: item, items()):
            found.append(result)
    assert found == [] and workers() == []


def test_closing_early_leaves_no_thread_and_does_no_more_work():
    done = []

    def work(item):
        time.sleep(0.01)
        done.append(item)
        return item

    results = map_ahead(work, range(1000), ahead=3)
    assert next(results) == 0
    assert len(workers()) == 1
    results.close()
    assert workers() == [] and len(done) <= 3


def test_items_are_let_go(little_to_collect):
    class Thing:
        pass

    alive: list[weakref.ref] = []
    most = 0

    def items():
        for _ in range(20):
            thing = Thing()
            alive.append(weakref.ref(thing))
            yield thing
            del thing

    for _ in map_ahead(lambda thing: None, items(), ahead=2):
        gc.collect()
        most = max(most, sum(thing() is not None for thing in alive))
    assert most <= 4


def test_ahead_is_at_least_one():
    with pytest.raises(ValueError, match="at least 1"):
        list(map_ahead(str, [1], ahead=0))
