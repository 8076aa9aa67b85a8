"""`calibrate`, and what `search` and `evaluate` say once something was learned."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest

from patchify_core.retrieval.presence import read_calibration
from tests.cli import DONE, INTERRUPTED, ROOT
from tests.tiny import picture

pytestmark = pytest.mark.usefixtures("tiny_everywhere")

OBJECTS, SHOWN = 12, 3


@pytest.fixture
def many(tmp_path):
    """A dataset of 36 pictures, each with one of 12 objects in a quadrant, and a query for each object."""
    return write_many(tmp_path / "many")


def write_many(folder, first=0):
    images, annotations = [], []

    def add(name, split, scene, shown, corner):
        scene.paste(picture(1000 + first + shown, (30, 24), cells=3), corner)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        scene.save(path)
        number = len(images) + 1
        images.append({"id": number, "file_name": name, "width": 60, "height": 48, "split": split})
        annotations.append({"image_id": number, "category_id": shown + 1, "bbox": [*corner, 30, 24]})

    for number in range(OBJECTS * SHOWN):
        scene = picture(first + number, (60, 48))
        add(f"gallery/{number:03}.png", "gallery", scene, number % OBJECTS, ((0, 0), (30, 24))[number % 2])
    for shown in range(OBJECTS):
        add(f"queries/{shown:02}.png", "query", picture(500 + first + shown, (60, 48)), shown, (30, 0))
    categories = [{"id": shown + 1, "name": f"object {shown}"} for shown in range(OBJECTS)]
    whole = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(whole))
    return folder


@pytest.fixture
def kept(run, many, tmp_path):
    assert run("index", many, "--out", tmp_path / "idx", "--regions", "pyramid:2")[0] == DONE
    return tmp_path / "idx"


def test_an_index_says_nothing_until_something_was_learned(run, refusal, many, kept):
    query = ("search", kept, many / "queries" / "03.png", "--box", "30,0,60,24")
    plain = json.loads(run(*query, "--json")[1])
    assert all({"probability", "verdict"}.isdisjoint(row) for row in plain)
    assert "prob." not in run(*query)[1]
    assert "run the calibrate command" in run("evaluate", many, "--index", kept, "--absent")[2]

    code, printed, _ = run("calibrate", many, "--index", kept)
    assert code == DONE
    assert "object removed" in printed and "false alarms  hits" in printed and "later results" in printed
    assert str(kept) + ".calibration.json" in printed

    known = json.loads(run(*query, "--json")[1])
    assert [{**row, "probability": 0, "verdict": 0} for row in plain] == [
        {**row, "probability": 0, "verdict": 0} for row in known
    ]  # neither the order nor anything else has changed
    chances = [row["probability"] for row in known]
    assert chances == sorted(chances, reverse=True) and all(0 <= chance <= 1 for chance in chances)
    assert known[0]["verdict"] == "likely" and known[-1]["verdict"] != "likely"
    said = run(*query)[1]
    assert "prob." in said and "likely: the first result contains the object with probability" in said
    assert said.count("the rest is more likely wrong than right") == 1


def test_what_changes_scores_or_levels_says_nothing(run, many, kept):
    assert run("calibrate", many, "--index", kept)[0] == DONE
    query = ("search", kept, many / "queries" / "03.png", "--json")
    assert "probability" in json.loads(run(*query, "--refine", "soft")[1])[0]
    for option in (("--level", 1), ("--rerank", "qe")):
        assert "probability" not in json.loads(run(*query, *option)[1])[0]


def test_another_recipe_has_no_probability(run, many, kept, tmp_path):
    assert run("calibrate", many, "--index", kept)[0] == DONE
    other = tmp_path / "other"
    assert run("index", many, "--out", other, "--regions", "pyramid:3")[0] == DONE
    path = tmp_path / "idx.calibration.json"
    path.rename(tmp_path / "other.calibration.json")
    assert "probability" not in json.loads(run("search", other, many / "queries" / "03.png", "--json")[1])[0]


def test_a_calibration_survives_a_build_and_a_damaged_one_is_refused(run, refusal, many, kept, tmp_path):
    assert run("calibrate", many, "--index", kept)[0] == DONE
    path = tmp_path / "idx.calibration.json"
    before = read_calibration(path)
    picture(99, (60, 48)).save(many / "gallery" / "new.png")
    assert run("index", many, "--out", kept, "--regions", "pyramid:2")[0] == DONE
    assert read_calibration(path) == before
    path.write_text("{}")
    assert "is no calibration that this version reads" in refusal("search", kept, many / "queries" / "03.png")


def test_other_datasets_are_indexed_like_the_index_and_embedded_once(run, many, kept, tmp_path):
    second = write_many(tmp_path / "second", first=200)
    command = ("calibrate", many, second, "--index", kept, "--work", tmp_path / "work", "--json")
    code, printed, _ = run(*command)
    assert code == DONE
    numbers = json.loads(printed)
    assert [one["name"] for one in numbers["learned"]["datasets"]] == ["many", "second"]
    assert {*numbers["learned"]["transfer"]} == {"many", "second"}
    made = next((tmp_path / "work").glob("second-*"))
    written = (made / "meta.json").stat().st_mtime_ns
    assert json.loads(run(*command)[1]) == numbers and (made / "meta.json").stat().st_mtime_ns >= written
    assert [one.name for one in (tmp_path / "work").iterdir()] == [made.name]


def test_evaluate_tells_how_well_absence_is_known(run, many, kept, tmp_path):
    assert run("calibrate", many, "--index", kept)[0] == DONE
    file = tmp_path / "numbers.json"
    code, printed, _ = run("evaluate", many, "--index", kept, "--absent", "--json", file)
    assert code == DONE and "measured: predicted absent among 12 queries" in printed
    rates = json.loads(file.read_text())["absent"]["measured"]
    assert rates["absent_false_alarms"]["queries"] == OBJECTS and 0 <= rates["absent_hits"]["low"] <= 1


def test_datasets_without_queries_or_with_too_few_objects_are_refused(run, refusal, photos, kept, dataset, tmp_path):
    assert "so there is nothing to score" in refusal("calibrate", photos, "--index", kept)
    assert run("index", dataset, "--out", tmp_path / "small")[0] == DONE
    assert "30 pictures that do not contain its object" in run("calibrate", dataset, "--index", tmp_path / "small")[2]
    assert not (tmp_path / "small.calibration.json").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT to a process is a matter of POSIX")
def test_an_interruption_leaves_what_was_there(run, many, kept, tmp_path):
    assert run("calibrate", many, "--index", kept)[0] == DONE
    path = tmp_path / "idx.calibration.json"
    before = path.read_bytes()
    command = [sys.executable, "-m", "tests.tiny", "calibrate", str(many), "--index", str(kept)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode in (DONE, INTERRUPTED, -signal.SIGINT) and path.read_bytes() == before
    assert process.returncode != INTERRUPTED or "run the same command again" in said
