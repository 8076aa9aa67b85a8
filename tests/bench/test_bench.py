"""The benchmarks run and agree with themselves; how fast they are is for a person to read, not for a test."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest

from patchify_core.bench import BENCHMARKS, in_turn, indexing, page, search, serve
from patchify_core.bench.browser import Browser


def test_ways_take_turns_and_the_first_round_is_not_counted():
    calls = []
    seconds = in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, runs=2)
    assert calls == ["a", "b"] * 3
    assert set(seconds) == {"a", "b"}


def test_encode_describes_what_the_plain_loop_describes(monkeypatch, capsys):
    monkeypatch.setattr(indexing, "PICTURES", 1)
    monkeypatch.setattr(indexing, "RUNS", 1)
    numbers = indexing.measure_speed()
    rates = numbers["images_per_s"]
    ways = [f"{what} ({engine})" for what in ("crops", "pooled") for engine in indexing.installed_engines()]
    assert "crops (torch)" in ways and list(rates) == [*ways, "one crop at a time", "30 crops a batch"]
    assert [*numbers["smallest_cosine"]] == [way for way in rates if not way.startswith("pooled")]
    said = capsys.readouterr().out
    for way in rates:
        assert way.startswith("pooled") or numbers["smallest_cosine"][way] > 0.9999
        assert numbers["ratio_to_plain"][way] == pytest.approx(rates[way] / rates["one crop at a time"])
        assert numbers["ratio_to_batch"][way] == pytest.approx(rates[way] / rates["30 crops a batch"])
        assert way in said


def test_another_descriptor_is_seen_as_another():
    same, other = np.eye(3, dtype=np.float32)[:2], np.eye(3, dtype=np.float32)[1:]
    assert indexing._smallest_cosine([same, same], [same, same]) == 1
    assert indexing._smallest_cosine([same, same], [same, other]) == 0


def test_an_engine_that_is_not_installed_is_left_out(monkeypatch):
    monkeypatch.setattr(indexing, "ENGINES", ("torch", "no_such_engine"))
    assert indexing.installed_engines() == ["torch"]


def test_search_agrees_with_numpy(monkeypatch, capsys):
    monkeypatch.setattr(search, "SIZES", (164,))
    monkeypatch.setattr(search, "SEARCH_RUNS", 1)
    numbers = search.measure_search()  # it asserts itself that both find the same picture
    assert numbers["164"]["ratio_to_numpy"] > 0
    assert "153600" in capsys.readouterr().out


def test_rerank_compares_with_plain_opencv(monkeypatch, capsys):
    monkeypatch.setattr(search, "QUERIES", 1)
    monkeypatch.setattr(search, "RUNS", 1)
    monkeypatch.setattr(search, "SHORTLIST", 3)
    numbers = search.measure_rerank()
    seconds = numbers["seconds"]
    assert numbers["ratio_to_plain"] == pytest.approx(seconds["plain OpenCV"] / seconds["sift, first"])
    assert "shortlist of 3" in capsys.readouterr().out


def test_the_plain_way_finds_a_picture_in_itself(sample_gallery):
    paths = [image.path for image in sample_gallery.images[:2]]
    same, other = search._plain(paths[0], None, paths)
    assert same > 100 > other


def test_page_times_what_a_visitor_does(monkeypatch, capsys):
    monkeypatch.setattr(page, "RUNS", 1)
    monkeypatch.setattr(page, "_start_up", lambda: page._Start(0.5, 1.5, 900.0))  # the page's own tests start it
    numbers = page.measure_waits()
    assert numbers["start_up"] == {"first_s": 0.5, "photos_s": 1.5, "idle_mb": 900.0}
    assert all(value > 0 for value in numbers["seconds"].values())
    assert "12-megapixel" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no peak memory to ask for")
def test_memory_is_measured_in_processes_of_their_own(monkeypatch):
    monkeypatch.setattr(indexing, "SIZES", (2, 3))
    monkeypatch.setattr(indexing, "PICTURE", (32, 24))
    numbers = indexing.measure_memory()
    assert numbers["3"]["peak_bytes"] > 50_000_000  # torch alone is more
    assert numbers["ratio"] == pytest.approx(numbers["3"]["peak_bytes"] / numbers["2"]["peak_bytes"])


def test_every_benchmark_is_on_the_command_line():
    from patchify_core.cli.main import parser

    for name in BENCHMARKS:
        assert parser().parse_args(["bench", name]).what == name


# Visitors ---------------------------------------------------------------------------------------------------


@pytest.fixture
def hasty(sample_db, tmp_path, monkeypatch):
    """Visitors in a hurry, of the bundled gallery with the two examples that they click: the server prepares all."""
    folder = tmp_path / "gallery"
    shutil.copytree(sample_db, folder)
    listing = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))
    queries = [image["id"] for image in listing["images"] if image["split"] == "query"]
    for kind, key in (("images", "id"), ("annotations", "image_id")):
        listing[kind] = [row for row in listing[kind] if row[key] not in queries[2:]]
    (folder / "annotations.json").write_text(json.dumps(listing), encoding="utf-8")
    monkeypatch.setattr(serve, "SAMPLE_DB", folder)
    monkeypatch.setattr(serve, "THINK_S", (0.05, 0.1))
    monkeypatch.setattr(serve, "EXAMPLES", 2)
    monkeypatch.setattr(serve, "UPLOADS", 1)
    monkeypatch.setattr(serve, "SETTLE_S", 0.0)


def test_visitors_are_answered_and_what_is_wrong_is_seen(hasty, monkeypatch, capsys):
    real = serve.expect

    def examples_wrong(gallery):
        right = real(gallery)
        return replace(right, examples=dict.fromkeys(right.examples, "something else"))

    monkeypatch.setattr(serve, "expect", examples_wrong)
    numbers = serve.measure(2, 3.0, flood=40)
    assert numbers["errors"] == 0, numbers["trouble"]
    waits = numbers["waits_s"]
    assert numbers["answers"] == waits["all"]["count"] == sum(waits[w]["count"] for w in serve.ACTIONS if waits[w])
    assert waits["upload"] is None or 0 < waits["upload"]["p50"] <= waits["upload"]["max"]
    assert numbers["mixed"] == waits["example"]["count"] < numbers["answers"]  # those, and only those
    assert 0 < numbers["flood_refused"] < 40
    if sys.platform == "linux":
        assert numbers["memory_mb"]["peak"] >= numbers["memory_mb"]["before"] > 100
    said = capsys.readouterr().out
    assert "2 visitors for 3 s" in said and "were told to wait" in said


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8 on its loopback")
def test_floods_of_new_visitors_from_other_addresses_keep_visitors_from_nothing(hasty, monkeypatch, capsys):
    monkeypatch.setenv("PATCHIFY_QUEUE", "50")  # more than there are addresses
    numbers = serve.measure(2, 6.0, flood_sessions=90, flood_addresses=90)
    assert numbers["errors"] == numbers["mixed"] == numbers["busy"] == 0, numbers["trouble"]
    assert numbers["answers"] > 0
    assert numbers["flood_sessions"]["asked"] == numbers["flood_addresses"]["asked"] == 90
    assert numbers["flood_sessions"]["refused"] + numbers["flood_addresses"]["refused"] > 0
    said = capsys.readouterr().out
    assert "one address asked 90 times, each as a new visitor" in said and "20 addresses asked 90 times" in said


def test_floods_from_other_addresses_are_for_systems_that_have_them(monkeypatch, refused):
    monkeypatch.setattr("patchify_core.bench.browser.sys.platform", "darwin")
    assert "need Linux" in refused(serve.measure, 1, 1.0, flood_sessions=5)
    refused(serve.measure, 1, 1.0, flood_addresses=-5)


def test_nobody_visits_for_no_time(refused):
    refused(serve.measure, 0, 10)
    refused(serve.measure, 3, 0)
    refused(serve.measure, 3, float("nan"))


def test_options_of_visitors_are_for_visitors_alone(capsys):
    from patchify_core.cli.main import main

    assert main(["bench", "page", "--visitors", "3"]) == 2
    assert capsys.readouterr().err == "error: --visitors belongs to bench serve: leave it out.\n"


def test_a_browser_finds_functions_by_their_elements_and_takes_what_comes_back(refused):
    browser = Browser("http://127.0.0.1:9")
    browser._ids, browser._values = {"pf-cards": 3, "pf-query": 4}, {3: "before", 4: "no picture here"}
    browser._functions = [{"id": 7, "targets": [[3, "look"]], "inputs": [3], "outputs": [3, 4]}]
    assert browser._function("pf-cards", "look")["id"] == 7
    browser._take([3, 4], ["after", {"__type__": "update"}])
    assert (browser.html("pf-cards"), browser.html("pf-query")) == ("after", "no picture here")
    browser._take([3], [{"__type__": "update", "value": "once more"}])
    assert browser.html("pf-cards") == "once more"
    assert "markup has changed" in refused(browser.picture)
    assert "markup has changed" in refused(browser._function, "pf-cards", "again")
