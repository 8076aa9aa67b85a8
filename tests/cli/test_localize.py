"""The command line's pooled features and refined boxes: what it makes, what it shows, and what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest

from patchify_core.cli.main import main
from patchify_core.index.patch_index import PatchIndex
from patchify_core.patchify import Patchify
from patchify_core.retrieval.localize import LocalizeSettings, load_refiner
from tests.scenes import ONE, SCENES, scene, write_scenes
from tests.tiny import TinyEncoder, write_dataset

DONE, REFUSED = 0, 2
POOLED = ["--features", "pooled:128", "--regions", "pyramid:3"]
QUERY_BOX = "40,30,115,90"


pytestmark = pytest.mark.usefixtures("tiny_everywhere")


@pytest.fixture
def photos(tmp_path):
    return write_scenes(tmp_path / "photos")


@pytest.fixture
def asked(tmp_path):
    scene([(40, 30, 115, 90)], seed=99).save(tmp_path / "query.png")
    return tmp_path / "query.png"


@pytest.fixture
def pooled(run, photos, tmp_path):
    code, printed, _ = run("index", photos, "--out", tmp_path / "pooled", *POOLED, "--keep-maps")
    assert code == DONE and "6 embedded" in printed
    return tmp_path / "pooled"


@pytest.fixture
def crops(run, photos, tmp_path):
    assert run("index", photos, "--out", tmp_path / "crops", "--regions", "pyramid:3")[0] == DONE
    return tmp_path / "crops"


@pytest.fixture
def dataset(tmp_path):
    return write_dataset(tmp_path / "dataset")


# index ----------------------------------------------------------------------------------------------------


def test_index_makes_pooled_features_and_keeps_maps(pooled):
    index = PatchIndex.load(pooled)
    assert index.features == "pooled:128" and len(index.maps) == 6


def test_index_without_maps(run, photos, tmp_path):
    code, printed, _ = run("index", photos, "--out", tmp_path / "idx", "--features", "pooled:96", "--json")
    assert code == DONE and json.loads(printed)["embedded"] == 6
    index = PatchIndex.load(tmp_path / "idx")
    assert index.features == "pooled:96" and index.maps is None


def test_index_says_its_true_size(run, photos, pooled):
    _, printed, _ = run("index", photos, "--out", pooled, *POOLED, "--keep-maps", "--json")
    numbers = json.loads(printed)
    assert numbers["bytes"] == sum(path.stat().st_size for path in pooled.iterdir())
    assert numbers["embedded"] == 0 and numbers["reused"] == 6


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--features", "poold"], "Unknown features 'poold'"),
        (["--features", "pooled:x"], "Unknown features 'pooled:x'"),
        (["--features", ""], "Unknown features ''"),
        (["--features", "pooled:10"], "choose 64 to 4096"),
        (["--features", "pooled:9999"], "choose 64 to 4096"),
        (["--keep-maps"], "add --features pooled"),
        (["--features", "crop", "--keep-maps"], "add --features pooled"),
    ],
)
@pytest.mark.parametrize("command", ["index", "evaluate"])
def test_features_that_cannot_be_had(run, dataset, tmp_path, command, more, said):
    out = ["--out" if command == "index" else "--index", tmp_path / "idx"]
    code, printed, error = run(command, dataset, *out, *more)
    assert code == REFUSED and printed == ""
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and said in lines[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--features", "pooled:96", "--keep-maps"], "features pooled:128, not pooled:96"),
        (["--features", "crop"], "features pooled:128, not crop"),
        (["--features", "pooled:128"], "with feature maps, not without (--keep-maps)"),
    ],
)
def test_an_index_made_otherwise(run, photos, pooled, more, said):
    code, _, error = run("index", photos, "--out", pooled, "--regions", "pyramid:3", *more)
    assert code == REFUSED and said in error.splitlines()[-1]
    assert PatchIndex.load(pooled).features == "pooled:128"


# search ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["soft", "map"])
def test_search_refines(run, pooled, asked, name):
    command = ["search", pooled, asked, "--box", QUERY_BOX, "--json"]
    plain = json.loads(run(*command)[1])
    code, printed, said = run(*command, "--refine", name)
    assert code == DONE and said == ""
    found = json.loads(printed)
    engine = Patchify(PatchIndex.load(pooled), TinyEncoder())
    matches = engine.search(asked, (40, 30, 115, 90), refine=name)
    assert [row["box"] for row in found] == [match.box.tolist() for match in matches]
    for one, other in zip(found, plain, strict=True):
        assert [one[key] for key in ("rank", "image_id", "file", "score", "patch")] == [
            other[key] for key in ("rank", "image_id", "file", "score", "patch")
        ]
    assert [row["box"] for row in found] != [row["box"] for row in plain]


def test_calibrate_is_soft(run, pooled, crops, asked):
    for index in (pooled, crops):
        command = ["search", index, asked, "--box", QUERY_BOX]
        for form in ([], ["--json"]):
            assert run(*command, *form, "--calibrate") == run(*command, *form, "--refine", "soft")
        assert run(*command, "--calibrate") != run(*command)


def test_search_shows_refined_boxes_in_its_table(run, pooled, asked):
    code, printed, _ = run("search", pooled, asked, "--box", QUERY_BOX, "--refine", "map")
    assert code == DONE
    [line] = [line for line in printed.splitlines() if line.endswith("/one.png")]
    corners = [int(value) for value in line.split()[2].split(",")]
    np.testing.assert_allclose(corners, ONE[0], atol=2)


def test_further_objects_stand_in_json(run, pooled, asked, monkeypatch):
    """Nothing asks for several yet but a refiner of one's own; what is found is written."""
    two = LocalizeSettings(objects=2)
    load = "patchify_core.retrieval.localize.refine.load_refiner"
    monkeypatch.setattr(load, lambda name, engine: load_refiner(name, engine, two))
    rows = json.loads(run("search", pooled, asked, "--box", QUERY_BOX, "--refine", "map", "--json")[1])
    for row in rows:
        name = row["file"].rsplit("/", 1)[-1]
        if SCENES[name]:
            assert len(row.get("others", [])) == len(SCENES[name]) - 1
    plain = json.loads(run("search", pooled, asked, "--box", QUERY_BOX, "--json")[1])
    assert not any("others" in row for row in plain)


def test_search_draws_refined_boxes(run, pooled, asked, tmp_path):
    for name in ("plain", "refined"):
        more = ["--refine", "map"] if name == "refined" else []
        assert run("search", pooled, asked, "--box", QUERY_BOX, "--draw", tmp_path / f"{name}.png", *more)[0] == DONE
    assert (tmp_path / "plain.png").read_bytes() != (tmp_path / "refined.png").read_bytes()


def test_search_by_map_in_an_index_of_crops(run, crops, asked):
    code, printed, said = run("search", crops, asked, "--refine", "map")
    assert code == REFUSED and printed == "" and said.count("\n") == 1
    assert "made of crops" in said and "soft" in said


def test_search_by_map_without_kept_maps(run, photos, asked, tmp_path):
    assert run("index", photos, "--out", tmp_path / "idx", *POOLED)[0] == DONE
    command = ["search", tmp_path / "idx", asked, "--box", QUERY_BOX, "--refine", "map"]
    assert run(*command)[0] == DONE
    (photos / "one.png").unlink()
    code, printed, said = run(*command)
    assert code == REFUSED and printed == "" and said.count("\n") == 1 and "one.png" in said


@pytest.mark.parametrize("more", [["--refine", "hard"], ["--refine"], ["--refine", "map", "--calibrate"]])
@pytest.mark.parametrize("command", ["search", "evaluate"])
def test_refiners_that_cannot_be_had(pooled, asked, dataset, capsys, command, more):
    with pytest.raises(SystemExit) as stopped:
        main([command, *([str(pooled), str(asked)] if command == "search" else [str(dataset)]), *more])
    assert stopped.value.code == REFUSED
    assert "--refine" in capsys.readouterr().err


# evaluate -------------------------------------------------------------------------------------------------


def evaluated(run, dataset, tmp_path, name, *more):
    file = tmp_path / f"{name}.json"
    code, printed, said = run("evaluate", dataset, *POOLED, "--keep-maps", "--json", file, *more)
    assert code == DONE, said
    return json.loads(file.read_text(encoding="utf-8")), printed


def test_evaluate_scores_refined_boxes(run, dataset, tmp_path):
    kept = ["--index", tmp_path / "idx"]
    plain, _ = evaluated(run, dataset, tmp_path, "plain", *kept)
    soft, printed = evaluated(run, dataset, tmp_path, "soft", *kept, "--refine", "soft")
    assert "boxes refined by soft" in printed
    mapped, printed = evaluated(run, dataset, tmp_path, "map", *kept, "--refine", "map")
    assert "boxes refined by map" in printed
    assert plain["map"] == soft["map"] == mapped["map"]
    assert len({plain["locscore"], soft["locscore"], mapped["locscore"]}) == 3
    calibrated, _ = evaluated(run, dataset, tmp_path, "calibrated", *kept, "--calibrate")
    assert calibrated["locscore"] == soft["locscore"]


def test_evaluate_re_ranks_and_refines(run, dataset, tmp_path):
    _, printed = evaluated(run, dataset, tmp_path, "both", "--rerank", "patch-qe", "--refine", "map")
    assert "re-ranked by patch-qe, boxes refined by map" in printed


def test_evaluate_another_refiner_begins_anew(run, dataset, tmp_path, monkeypatch):
    """Finished queries of one kind of box must not be counted among those of another."""
    from patchify_core.evaluation import run as evaluation

    real, asked = evaluation._search_levels, []

    def stopping(query, *arguments):
        asked.append(query.id)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return real(query, *arguments)

    monkeypatch.setattr(evaluation, "_search_levels", stopping)
    command = ["evaluate", dataset, *POOLED, "--index", tmp_path / "idx", "--json", tmp_path / "s.json"]
    assert run(*command)[0] == 130
    code, _, said = run(*command, "--refine", "soft")
    assert code == DONE and "evaluation with another refine" in said
    assert len(asked) == 4  # both queries again


@pytest.mark.parametrize("more", [["--refine", "map"], ["--rerank", "map"], ["--rerank", "map+sift"]])
def test_evaluate_refuses_a_map_of_crops_before_the_work(run, dataset, tmp_path, more):
    """Not after all pictures were embedded."""
    code, printed, said = run("evaluate", dataset, "--index", tmp_path / "idx", *more)
    assert code == REFUSED and printed == "" and said.count("\n") == 1 and "--features pooled" in said
    assert not (tmp_path / "idx").exists()
