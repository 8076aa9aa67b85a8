"""evaluation.record: a journal that may be cut anywhere, and files of numbers that are whole or not there."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from patchify_core.evaluation.metrics import FoundPositives
from patchify_core.evaluation.record import (
    CSV_COLUMNS,
    RunJournal,
    gallery_digest,
    index_digest,
    query_rows,
    run_as_json,
    write_csv,
    write_json,
)
from patchify_core.evaluation.run import Outcome, QueryRecord, evaluate
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
    found = FoundPositives(random.integers(0, 99, hits), np.arange(1, hits + 1), ious, hits + 1, hits == 0)
    best = (hits + 5, random.random(4))
    return QueryRecord(query, {1: Outcome(found, random.random(), None, best), 2: Outcome(None, 1.5, random.random())})


def same(a, b):
    for level in LEVELS:
        one, other = a.levels[level], b.levels[level]
        assert (one.search_ms, one.rerank_ms) == (other.search_ms, other.rerank_ms)
        assert (one.found is None) == (other.found is None) and (one.best is None) == (other.best is None)
        if one.best is not None:
            assert one.best[0] == other.best[0] and np.array_equal(one.best[1], other.best[1])
        if one.found is not None:
            for x, y in zip(vars(one.found).values(), vars(other.found).values(), strict=True):
                assert np.array_equal(x, y, equal_nan=True) if isinstance(x, np.ndarray) else x == y
                assert getattr(x, "dtype", None) == getattr(y, "dtype", None)
    return True


def journalled(path, queries, given=SETTINGS):
    with RunJournal(path, given, LEVELS) as journal:
        for query in queries:
            journal.add(record_of(query))
    return path


# The journal -----------------------------------------------------------------------------------------------


def test_what_was_written_is_read_to_the_last_bit(tmp_path):
    path = journalled(tmp_path / "x.partial", range(5))
    with RunJournal(path, SETTINGS, LEVELS) as journal:
        assert sorted(journal.finished) == [0, 1, 2, 3, 4] and journal.changed == ()
        assert all(same(journal.finished[query], record_of(query)) for query in range(5))
        journal.add(record_of(5))
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
            journal.add(record_of(query))
    assert path.read_bytes() == whole  # as if it had never been cut
    path.unlink()


@pytest.mark.parametrize("change", [{"cutoff": 5}, {"index": "j"}, {"dataset": "e"}])
def test_other_settings_begin_anew(tmp_path, change):
    path = journalled(tmp_path / "x.partial", range(3))
    with RunJournal(path, {**SETTINGS, **change}, LEVELS) as journal:
        assert journal.finished == {} and journal.changed == tuple(change)
        journal.add(record_of(7))
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
        resumed = evaluate(gallery, engine, finished=journal.finished, record=lambda r: asked.append(r.query_id))
    whole = evaluate(gallery, engine)
    assert len(asked) == len(gallery.queries) - 1
    for one, other in zip(resumed, whole, strict=True):
        assert (one.report, one.at_1k, one.breakdown) == (other.report, other.at_1k, other.breakdown)


# The numbers -----------------------------------------------------------------------------------------------


def test_digests_change_with_what_counts(scored, tmp_path):
    gallery, _, folder = scored
    before = gallery_digest(gallery)
    assert before == gallery_digest(read_coco(folder / "set"))
    assert before == gallery_digest(dataclasses.replace(gallery, root=tmp_path))
    query = gallery.queries[0]
    other = (
        dataclasses.replace(gallery, images=gallery.images[:-1]),
        dataclasses.replace(gallery, queries=gallery.queries[1:]),
        dataclasses.replace(
            gallery, queries=(dataclasses.replace(query, exclude=frozenset({1})), *gallery.queries[1:])
        ),
        dataclasses.replace(gallery, queries=(dataclasses.replace(query, box=None), *gallery.queries[1:])),
        dataclasses.replace(
            gallery, annotations=dataclasses.replace(gallery.annotations, ignore=~gallery.annotations.ignore)
        ),
    )
    assert len({before, *map(gallery_digest, other)}) == 6
    build_index(gallery, tmp_path / "deep" / "idx", TinyEncoder(), Pyramid(2))
    build_index(gallery, tmp_path / "other", TinyEncoder(), Pyramid(1))
    assert index_digest(folder / "idx") == index_digest(tmp_path / "deep" / "idx") != index_digest(tmp_path / "other")


def test_a_query_that_is_gone(scored, tmp_path, refused):
    gallery, _, _ = scored
    gone = dataclasses.replace(gallery.queries[0], path=tmp_path / "gone.png")
    assert "gone.png" in refused(gallery_digest, dataclasses.replace(gallery, queries=(gone,)))


def test_json_and_csv_hold_every_query(scored, tmp_path):
    gallery, engine, _ = scored
    reports = evaluate(gallery, engine)
    numbers = run_as_json(gallery, reports, {"cutoff": None, "dataset": "abc"}, 40, 2.5)
    write_json(tmp_path / "x.json", numbers)
    read = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert read["queries"] == len(read["per_query"]) == 2 and read["run"]["dataset"] == "abc"
    for level in (1, 2):
        aps = [query["levels"][str(level)]["ap"] for query in read["per_query"]]
        assert sum(aps) / 2 == pytest.approx(read["levels"][level - 1]["map"])
    write_csv(tmp_path / "x.csv", query_rows(gallery, reports))
    with open(tmp_path / "x.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == CSV_COLUMNS and len(rows) == 4
    assert [float(row["ap"]) for row in rows if row["level"] == "2"] == aps
    assert rows[0]["name"] == gallery.name(gallery.queries[0].instance) and rows[0]["regions"] == "pyramid:1"


def test_a_query_without_positives_has_no_scores(scored):
    gallery, engine, _ = scored
    lost = dataclasses.replace(gallery.queries[1], instance=99)
    gallery = dataclasses.replace(
        gallery, queries=(gallery.queries[0], lost), instances={**gallery.instances, 99: "nowhere"}
    )
    row = query_rows(gallery, evaluate(gallery, engine))[-1]
    assert row["name"] == "nowhere" and row["positives"] == 0 and row["ap"] is None and row["locscore"] is None


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError):
        write_json(path, {"a": math.nan})
    assert json.loads(path.read_text()) == {"a": 1} and [p.name for p in tmp_path.iterdir()] == ["x.json"]
    (tmp_path / "link.json").symlink_to(path)
    write_json(tmp_path / "link.json", {"a": 2})
    assert json.loads(path.read_text()) == {"a": 2} and (tmp_path / "link.json").is_symlink()


@pytest.mark.skipif(os.name == "nt", reason="no /dev there")
def test_a_device_is_written_to():
    write_json(Path(os.devnull), {"a": 1})
    assert os.path.exists(os.devnull) and not os.path.isfile(os.devnull)
