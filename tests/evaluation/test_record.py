"""evaluation.record: files of numbers that are whole or not there, and digests of what they are of."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
from pathlib import Path

import pytest

from patchify_core.evaluation.record import (
    CSV_COLUMNS,
    gallery_digest,
    index_digest,
    query_rows,
    run_as_json,
    write_csv,
    write_json,
)
from patchify_core.evaluation.run import evaluate
from patchify_core.gallery import read_coco
from patchify_core.index.build import build_index
from patchify_core.patchify import Patchify
from patchify_core.regions import Pyramid
from tests.tiny import TinyEncoder, write_dataset


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scored")
    gallery = read_coco(write_dataset(folder / "set"))
    build_index(gallery, folder / "idx", TinyEncoder(), Pyramid(2))
    engine = Patchify.open(folder / "idx", TinyEncoder())
    return gallery, engine, folder


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
