"""evaluation.record: a file of finished work that may be cut anywhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from patchify_core.evaluation.positives import RankedPositives
from patchify_core.evaluation.record import RunJournal, journal_beside
from patchify_core.evaluation.run import Outcome, evaluate
from patchify_core.files import JsonLines
from patchify_core.gallery import read_coco
from patchify_core.index.build import build_index
from patchify_core.patchify import Patchify
from patchify_core.regions import Pyramid
from tests.tiny import TinyEncoder, write_dataset

SETTINGS = {"dataset": "d", "index": "i", "cutoff": None}
LEVELS = [1, 2]


def record_of(query, seed=0):
    random = np.random.default_rng(seed + query)
    hits = int(random.integers(0, 4))
    ious = random.random(hits)
    ious[:1] = math.nan
    ranks = np.arange(1, hits + 1)
    found = RankedPositives(random.integers(0, 99, hits), ranks, ranks // 2, ranks + 1, ious, hits + 1, hits == 0)
    best = (hits + 5, random.random(4))
    return {1: Outcome(found, random.random(), None, best), 2: Outcome(None, 1.5, random.random())}


def same(a, b):
    for level in LEVELS:
        one, other = a[level], b[level]
        assert (one.search_ms, one.rerank_ms) == (other.search_ms, other.rerank_ms)
        assert (one.positives is None) == (other.positives is None) and (one.best is None) == (other.best is None)
        if one.best is not None:
            assert one.best[0] == other.best[0] and np.array_equal(one.best[1], other.best[1])
        if one.positives is not None:
            for x, y in zip(vars(one.positives).values(), vars(other.positives).values(), strict=True):
                assert np.array_equal(x, y, equal_nan=True) if isinstance(x, np.ndarray) else x == y
                assert getattr(x, "dtype", None) == getattr(y, "dtype", None)
    return True


def journalled(path, queries, given=SETTINGS):
    with RunJournal(path, given, LEVELS) as journal:
        for query in queries:
            journal.add(query, record_of(query))
    return path


# The journal -----------------------------------------------------------------------------------------------


def test_what_was_written_is_read_to_the_last_bit(tmp_path):
    path = journalled(tmp_path / "x.partial", range(5))
    with RunJournal(path, SETTINGS, LEVELS) as journal:
        assert sorted(journal.finished) == [0, 1, 2, 3, 4] and journal.changed == ()
        assert all(same(journal.finished[query], record_of(query)) for query in range(5))
        journal.add(5, record_of(5))
    with RunJournal(path, SETTINGS, LEVELS) as journal:
        assert sorted(journal.finished) == [0, 1, 2, 3, 4, 5]
        journal.remove()
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_kill_anywhere_costs_the_torn_line_only(tmp_path, data):
    path = journalled(tmp_path / "x.partial", range(4))
    whole = path.read_bytes()
    header = whole.index(b"\n") + 1
    cut = data.draw(st.integers(header, len(whole)))
    path.write_bytes(whole[:cut])
    kept = whole[:cut].count(b"\n") - 1
    with RunJournal(path, SETTINGS, LEVELS) as journal:
        assert sorted(journal.finished) == list(range(kept))
        for query in range(kept, 4):
            journal.add(query, record_of(query))
    assert path.read_bytes() == whole  # as if it had never been cut
    path.unlink()


@pytest.mark.parametrize("change", [{"cutoff": 5}, {"index": "j"}, {"dataset": "e"}])
def test_other_settings_begin_anew(tmp_path, change):
    path = journalled(tmp_path / "x.partial", range(3))
    with RunJournal(path, {**SETTINGS, **change}, LEVELS) as journal:
        assert journal.finished == {} and journal.changed == tuple(change)
        journal.add(7, record_of(7))
    with RunJournal(path, {**SETTINGS, **change}, LEVELS) as journal:
        assert sorted(journal.finished) == [7]


def test_lines_of_another_run_and_lines_of_nothing_are_passed_over(tmp_path):
    path = journalled(tmp_path / "x.partial", [0])
    other = journalled(tmp_path / "y.partial", [1], {**SETTINGS, "cutoff": 3})
    foreign = other.read_bytes().split(b"\n")[1]
    with open(path, "ab") as file:
        file.write(foreign + b"\nnonsense\n[]\n{}\n" + b'{"run": 1}\n')
    with RunJournal(path, SETTINGS, LEVELS) as journal:
        assert sorted(journal.finished) == [0]


def test_a_journal_without_queries_is_not_left_behind(tmp_path):
    with pytest.raises(KeyboardInterrupt), RunJournal(tmp_path / "x.partial", SETTINGS, LEVELS):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"my diary\n", b'{"a": 1}\n', b"[]\n"])
def test_something_else_in_the_way_is_left_alone(tmp_path, refused, content):
    path = tmp_path / "x.partial"
    path.write_bytes(content)
    assert "is in the way" in refused(RunJournal, path, SETTINGS, LEVELS)
    assert path.read_bytes() == content


def test_an_empty_file_is_no_obstacle(tmp_path):
    (tmp_path / "x.partial").touch()
    assert journalled(tmp_path / "x.partial", [1]).read_bytes().count(b"\n") == 2


def test_lines_come_back_and_a_torn_one_is_cut_off(tmp_path):
    path = tmp_path / "x.partial"
    lines = JsonLines(path, '{"key": ')
    assert lines.values == [] and not path.exists()
    lines.add({"key": 1})
    lines.add({"key": 2})
    with open(path, "ab") as file:
        file.write(b'no json\n\n{"key": 3')
    again = JsonLines(path, '{"key": ')
    assert [value for value in again.values if value] == [{"key": 1}, {"key": 2}]
    again.add({"key": 4})
    assert path.read_bytes().endswith(b'no json\n\n{"key": 4}\n')
    again.begin({"key": 5})
    assert again.values == JsonLines(path, '{"key": ').values == [{"key": 5}]
    again.remove()
    again.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_journal_lies_beside_its_file_and_beside_nothing_else(tmp_path):
    (tmp_path / "x.json").touch()
    (tmp_path / "link.json").symlink_to(tmp_path / "x.json")
    for name in ("x.json", "link.json"):
        assert journal_beside(tmp_path / name) == tmp_path / "x.json.partial"
    assert journal_beside(tmp_path / "new.json") == tmp_path / "new.json.partial"
    assert journal_beside(tmp_path) is None


# An evaluation that is resumed -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scored")
    gallery = read_coco(write_dataset(folder / "set"))
    build_index(gallery, folder / "idx", TinyEncoder(), Pyramid(2))
    engine = Patchify.open(folder / "idx", TinyEncoder())
    return gallery, engine, folder


class Cut(Exception):
    """The power fails."""


def test_a_resumed_evaluation_gives_the_same_numbers_and_asks_nothing_twice(scored, tmp_path):
    gallery, engine, _ = scored
    path = tmp_path / "x.partial"

    def fail(done, total):
        raise Cut

    with pytest.raises(Cut), RunJournal(path, SETTINGS, LEVELS) as journal:
        evaluate(gallery, engine, progress=fail, record=journal.add)
    asked = []
    with RunJournal(path, SETTINGS, LEVELS) as journal:
        assert len(journal.finished) == 1
        resumed = evaluate(gallery, engine, finished=journal.finished, record=lambda query, _: asked.append(query))
    whole = evaluate(gallery, engine)
    assert len(asked) == len(gallery.queries) - 1
    for one, other in zip(resumed, whole, strict=True):
        assert (one.report, one.at_1k, one.breakdown) == (other.report, other.at_1k, other.breakdown)
