"""demo.memory, and when the server gives memory back."""

import ctypes
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from patchify_core.demo.example_gallery import ExampleGallery
from patchify_core.demo.memory import release_memory
from patchify_core.web import launch

glibc = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="glibc alone keeps freed memory"
)


def resident_mb() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6


@glibc
def test_freed_memory_is_given_back():
    pieces = [np.ones(12_000) for _ in range(1_500)]  # 96 kB each: on the heap, not mapped one by one
    kept = pieces[::50]  # among them, so that glibc cannot shrink the heap from its end
    del pieces
    before = resident_mb()
    release_memory()
    assert before - resident_mb() > 100 and all(piece.all() for piece in kept)


def test_memory_is_given_back_once_visitors_have_gone(monkeypatch, little_to_collect):
    monkeypatch.setattr(launch, "LOOK_S", 0.01)
    given: list[int] = []
    looks = iter([False, False, True, True, False, False, True, False, False])
    closing, looked = threading.Event(), 0

    def busy() -> bool:
        nonlocal looked
        looked += 1
        if looked == 9:
            closing.set()
        return next(looks)

    monkeypatch.setattr(launch, "_prepare", lambda *arguments: None)
    monkeypatch.setattr(launch, "release_memory", lambda: given.append(looked))
    launch._between((), closing, busy)
    assert given == [1, 5, 8]


def test_memory_is_given_back_while_examples_are_still_being_prepared(monkeypatch, little_to_collect):
    monkeypatch.setattr(launch, "LOOK_S", 0.01)
    closing, given = threading.Event(), threading.Event()
    monkeypatch.setattr(launch, "_prepare", lambda *arguments: closing.wait(60))
    monkeypatch.setattr(launch, "release_memory", given.set)
    thread = threading.Thread(target=launch._between, args=((), closing, lambda: False))
    thread.start()
    try:
        assert given.wait(60)
    finally:
        closing.set()
        thread.join(60)


def test_maps_that_are_ready_are_let_go_of_when_nobody_has_asked_for_long(monkeypatch, little_to_collect):
    for name in ("LOOK_S", "REST_S"):
        monkeypatch.setattr(launch, name, 0.02)
    rested: list[int] = []
    closing, looked = threading.Event(), 0

    def busy() -> bool:
        nonlocal looked
        looked += 1
        if looked == 60:
            closing.set()
        return looked in (20, 21)

    indexes = SimpleNamespace(free_maps=lambda: rested.append(looked))
    monkeypatch.setattr(launch, "_prepare", lambda *arguments: None)
    monkeypatch.setattr(launch, "release_memory", lambda: None)
    launch._between([(SimpleNamespace(indexes=indexes), None)], closing, busy)
    assert len(rested) == 2 and rested[0] < 20 < 22 <= rested[1]  # once each time that it has nothing to do


def test_a_map_that_was_let_go_of_is_made_again(sample_db, lite0):
    gallery = ExampleGallery(sample_db, lite0)
    query = gallery.first()
    shown = gallery.ranking(query, gallery.levels)[:2]
    before = [match.box.tolist() for match in gallery.engine.refine(query.view, shown, "map")]
    localizer = gallery.engine.refiner("map").localizer
    assert len(localizer._ready) == 2
    gallery.indexes.free_maps()
    assert not localizer._ready
    assert [match.box.tolist() for match in gallery.engine.refine(query.view, shown, "map")] == before
