"""Several pictures at once."""

from __future__ import annotations

import threading

import pytest

from patchify_core.retrieval.localize.refine import map_at_once


def threads_of_blas():
    """Of numpy's, whose threads all callers share; a library on OpenMP (FAISS's) counts anew in every thread."""
    from threadpoolctl import threadpool_info

    return [pool["num_threads"] for pool in threadpool_info() if pool.get("threading_layer") == "pthreads"]


def test_the_order_is_kept():
    assert map_at_once(lambda item: item * item, list(range(50))) == [item * item for item in range(50)]
    assert map_at_once(str, []) == []
    assert map_at_once(str, [7]) == ["7"]


def test_libraries_use_one_thread_meanwhile_and_as_many_as_before_afterwards():
    before = threads_of_blas()
    during = map_at_once(lambda _: threads_of_blas(), [0, 1, 2])
    assert all(count == 1 for counts in during for count in counts)
    assert threads_of_blas() == before


def test_callers_that_overlap_leave_the_limit_as_it_was():
    before = threads_of_blas()
    inside, leave = threading.Barrier(3), threading.Event()

    def slow(item):
        if item == 0:
            inside.wait(10)
            leave.wait(10)
        return threads_of_blas()

    others = [threading.Thread(target=map_at_once, args=(slow, [0, 1])) for _ in range(2)]
    for other in others:
        other.start()
    inside.wait(10)
    assert all(count == 1 for counts in map_at_once(lambda _: threads_of_blas(), [1, 2]) for count in counts)
    assert all(count == 1 for count in threads_of_blas())  # the two others are still inside
    leave.set()
    for other in others:
        other.join(10)
    assert threads_of_blas() == before


def test_an_error_comes_through_and_lifts_the_limit():
    before = threads_of_blas()
    with pytest.raises(ZeroDivisionError):
        map_at_once(lambda item: 1 // item, [1, 0, 2])
    assert threads_of_blas() == before
