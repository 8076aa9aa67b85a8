"""`evaluate` and `compare`: what they print, write and refuse."""

from __future__ import annotations

import json

import pytest

from patchify_core.evaluation.run import evaluate
from patchify_core.gallery import read_coco
from patchify_core.index import open_store
from patchify_core.index.build import build_index
from patchify_core.patchify import Patchify
from patchify_core.regions import Pyramid
from tests.cli import DONE, REFUSED, process
from tests.tiny import TinyEncoder, picture

pytestmark = pytest.mark.usefixtures("tiny_everywhere")


def test_evaluate_prints_a_table_and_writes_json(run, dataset, tmp_path):
    file = tmp_path / "numbers.json"
    kept = tmp_path / "idx"
    code, printed, _ = run("evaluate", dataset, "--regions", "pyramid:3", "--json", file, "--index", kept)
    assert code == DONE
    numbers = json.loads(file.read_text(encoding="utf-8"))
    expected = evaluate(read_coco(dataset), Patchify.open(kept))
    assert 0 < numbers["locscore"] < numbers["map"]
    assert numbers["map"] == expected[-1].report.map and numbers["locscore"] == expected[-1].report.locscore
    assert [level["map"] for level in numbers["levels"]] == [level.report.map for level in expected]
    assert numbers["queries"] == 2 and numbers["bytes_per_image"] == 14 * 24 * 4 and numbers["images_per_s"] > 0
    for level in expected:
        row = next(line for line in printed.splitlines() if line.startswith(f"pyramid:{level.level}"))
        assert f"{level.report.map:.3f}" in row and f"{level.report.locscore:.3f}" in row
    # Again: nothing is embedded, and the numbers are the same.
    assert run("evaluate", dataset, "--regions", "pyramid:3", "--json", file, "--index", kept)[0] == DONE
    again = json.loads(file.read_text(encoding="utf-8"))
    assert again["images_per_s"] is None and again["map"] == numbers["map"]


def test_evaluate_uses_an_index_as_it_was_made(run, dataset, tmp_path, refusal):
    kept, file = tmp_path / "idx", tmp_path / "numbers.json"
    made = ["--regions", "sliding:0.5,0.25", "--factory", "PCAH8,SQ8", "--rescore", "SQfp16", "--features", "pooled:64"]
    assert run("index", dataset, "--out", kept, *made, "--keep-maps")[0] == DONE
    before = (kept / "meta.json").read_bytes()
    write = ["--index", kept, "--json", file]
    code, printed, error = run("evaluate", dataset, *write)
    assert code == DONE and "indexed before" in printed, error
    said = json.loads(file.read_text(encoding="utf-8"))["run"]
    assert (said["regions"], said["factory"], said["rescore"]) == ("sliding:0.5,0.25", "PCAH8,SQ8", "SQfp16")
    assert run("evaluate", dataset, *write, *made, "--keep-maps")[0] == DONE
    assert (kept / "meta.json").read_bytes() == before
    bar = "indexing"  # it is there before the refusal
    code, _, error = run("evaluate", dataset, *write, "--regions", "pyramid:2")
    assert code == REFUSED and bar in error and "was made with regions sliding:0.5,0.25, not pyramid:2" in error


def test_evaluate_takes_a_big_index_as_it_is(run, dataset, tmp_path, refusal):
    shards, kept = tmp_path / "shards", tmp_path / "idx"
    assert run("embed", dataset, "--out", shards, "--regions", "pyramid:5")[0] == DONE
    assert run("index", "--from-shards", shards, "--out", kept, "--rescore", "Flat")[0] == DONE
    before = (kept / "meta.json").read_bytes()
    scores = []
    for more in (["--index", kept], ["--regions", "pyramid:5"]):
        code, printed, error = run("evaluate", dataset, *more)
        assert code == DONE, error
        scores.append([line.split()[:4] for line in printed.splitlines() if line.startswith("pyramid:")])
    assert scores[0] == scores[1] and len(scores[0]) == 6  # every list, and then exact descriptors: the same
    assert (kept / "meta.json").read_bytes() == before
    said = refusal("evaluate", dataset, "--index", kept, "--regions", "pyramid:4")
    assert "was made with regions pyramid:5, not pyramid:4" in said
    picture(99, (60, 48)).save(dataset / "gallery" / "3.png")
    assert "not the picture that was indexed" in refusal("evaluate", dataset, "--index", kept)


def contents(folder):
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def add_picture(dataset):
    picture(7, (60, 48)).save(dataset / "gallery" / "7.png")
    path = dataset / "annotations.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    data["images"].append(
        {"id": 99, "file_name": "gallery/7.png", "width": 60, "height": 48, "split": "gallery"},
    )
    path.write_text(json.dumps(data), encoding="utf-8")


@pytest.fixture(params=["faiss", "milvus", "big"])
def index_of(request, run, tmp_path):
    """index_of(gallery, out): makes an index of each kind."""

    def make(gallery, out):
        if request.param == "big":
            shards = tmp_path / f"{out.name}.shards"
            assert run("embed", gallery, "--out", shards, "--regions", "pyramid:5")[0] == DONE
            assert run("index", "--from-shards", shards, "--out", out, "--rescore", "Flat")[0] == DONE
            return
        if request.param == "milvus":
            pytest.importorskip("milvus_lite", reason="Milvus Lite is not installed")
        more = ["--store", "milvus", "--uri", tmp_path / "patches.db"] if request.param == "milvus" else []
        assert run("index", gallery, "--out", out, "--regions", "pyramid:2", *more)[0] == DONE

    make.kind = request.param
    return make


@pytest.mark.parametrize("named_alike", [False, True])
def test_evaluate_refuses_an_index_of_other_pictures(
    index_of, run, refusal, photos, dataset, tmp_path, monkeypatch, named_alike
):
    if named_alike:  # another camera's pictures of the same names, and as long
        photos = tmp_path / "others"
        (photos / "gallery").mkdir(parents=True)
        for path in (dataset / "gallery").iterdir():
            other = photos / "gallery" / path.name
            picture(int(path.stem) + 200, (60, 48)).save(other)
            for one in (path, other):
                one.write_bytes(one.read_bytes().ljust(20_000, b"\0"))
            assert path.stat().st_size == other.stat().st_size and path.read_bytes() != other.read_bytes()
    kept = tmp_path / "my_index"
    index_of(photos, kept)
    before, beside = contents(kept), sorted(tmp_path.iterdir())
    first = "gallery/0.png" if named_alike else "0000.png"
    monkeypatch.setattr(TinyEncoder, "encode", lambda *_: pytest.fail("embedded"))
    said = refusal("evaluate", dataset, "--index", kept, "--json", tmp_path / "numbers.json")
    assert said == (
        f"error: {kept} is an index of other pictures (first: {first}), not of {dataset}: choose another --index, or "
        "leave it out.\n"
    )
    assert contents(kept) == before and sorted(tmp_path.iterdir()) == beside


def test_evaluate_updates_the_index_of_a_dataset_that_changed(index_of, run, dataset, tmp_path):
    kept = tmp_path / "my_index"
    index_of(dataset, kept)
    add_picture(dataset)
    if index_of.kind == "big":  # never brought up to date, but known as the dataset's
        code, _, said = run("evaluate", dataset, "--index", kept)
        assert code == REFUSED and "does not hold exactly the pictures" in said
        return
    assert run("evaluate", dataset, "--index", kept)[0] == DONE
    assert "gallery/7.png" in [image.file_name for image in open_store(kept).images]
    # Moved, and one picture less: known by the bytes of the others.
    moved = dataset.rename(tmp_path / "moved")
    data = json.loads((moved / "annotations.json").read_text(encoding="utf-8"))
    data["images"] = [image for image in data["images"] if image["id"] != 99]
    (moved / "annotations.json").write_text(json.dumps(data), encoding="utf-8")
    (moved / "gallery" / "7.png").unlink()
    code, printed, said = run("evaluate", moved, "--index", kept)
    assert code == DONE and "indexed before" in printed, said
    assert len(open_store(kept).images) == 7


def test_evaluate_knows_renamed_and_edited_pictures(run, photos, dataset, tmp_path):
    kept = tmp_path / "my_index"
    # The index of the dataset's folder of pictures has other names and another root, but the same bytes.
    assert run("index", dataset / "gallery", "--out", kept, "--regions", "pyramid:2")[0] == DONE
    code, printed, said = run("evaluate", dataset, "--index", kept)
    assert code == DONE and "indexed before" in printed, said
    # All pictures edited where they are: the same names in the same folder.
    for path in (dataset / "gallery").iterdir():
        picture(int(path.stem) + 300, (60, 48)).save(path)
    code, printed, said = run("evaluate", dataset, "--index", kept)
    assert code == DONE and "pictures/s indexed" in printed, said


def test_evaluate_asks_with_whole_pictures_and_says_so(run, dataset, tmp_path):
    file = tmp_path / "numbers.json"
    code, printed, _ = run("evaluate", dataset, "--regions", "pyramid:2", "--query", "whole", "--json", file)
    assert code == DONE and "queries: whole pictures; boxes: squashed to a square" in printed
    numbers = json.loads(file.read_text(encoding="utf-8"))
    assert (numbers["run"]["query"], numbers["run"]["resize"]) == ("whole", "squash")
    build_index(read_coco(dataset), tmp_path / "idx", TinyEncoder(), Pyramid(2))
    engine = Patchify.open(tmp_path / "idx", TinyEncoder())
    assert numbers["map"] == evaluate(read_coco(dataset).with_whole_queries(), engine)[-1].report.map
    code, printed, _ = run("evaluate", dataset, "--regions", "pyramid:2", "--features", "pooled:64")
    assert code == DONE and "queries: the box of their object; boxes: seen on one map per picture" in printed


def test_words_need_an_encoder_that_knows_some(run, dataset, tmp_path, refusal):
    from tests.gallery import test_ilias as ilias

    assert "Only ILIAS has text queries" in refusal("evaluate", dataset, "--query", "text")
    for number, name in enumerate((ilias.POSITIVES[0], ilias.QUERIES[0])):
        ilias.save(tmp_path / "ilias" / "ilias_core" / name, number)
        (tmp_path / "ilias" / "ilias_core" / (name[:-4] + "_bbox.txt")).write_text("1 2 10 12\n")
    (tmp_path / "ilias" / "ilias_core" / ilias.BIMP / "query" / "T000.txt").write_text("a toy")
    code, _, said = run("evaluate", tmp_path / "ilias", "--query", "text")
    assert code == REFUSED and "knows no words: use an open_clip encoder" in said


def test_evaluate_keeps_the_aspect_where_the_encoder_can(dataset, tmp_path):
    file, kept = tmp_path / "numbers.json", tmp_path / "idx"
    options = ["evaluate", dataset, "--regions", "pyramid:1", "--index", kept]
    done = process(*options, "--resize", "aspect", "--json", file, module="patchify_core")
    assert done.returncode == DONE and "the larger side resized, aspect kept" in done.stdout, done.stderr
    numbers = json.loads(file.read_text(encoding="utf-8"))
    assert numbers["run"]["encoder"] == "aspect:effnet-lite0" and numbers["run"]["resize"] == "aspect"
    # The index remembers it.
    done = process(*options, module="patchify_core")
    assert done.returncode == DONE and "aspect kept" in done.stdout and "indexed before" in done.stdout
    done = process(*options, "--resize", "squash", module="patchify_core")
    assert done.returncode == REFUSED and "aspect:effnet-lite0 keeps the aspect ratio" in done.stderr


def test_evaluate_leaves_nothing_behind(run, dataset, tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    before = sorted(tmp_path.rglob("*"))
    assert run("evaluate", dataset, "--regions", "pyramid:1")[0] == DONE
    assert sorted(tmp_path.rglob("*")) == before


def test_evaluate_counts_the_first_k_ranks(run, dataset):
    code, printed, _ = run("evaluate", dataset, "--regions", "pyramid:2", "--cutoff", 1)
    assert code == DONE and "mAP@1" in printed and "LocScore@1" in printed


def test_evaluate_names_queries_that_are_left_out(run, dataset):
    path = dataset / "annotations.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    data["categories"].append({"id": 3, "name": "nowhere"})
    data["annotations"][-1]["category_id"] = 3  # the last query now asks for what no picture shows
    path.write_text(json.dumps(data), encoding="utf-8")
    code, printed, _ = run("evaluate", dataset, "--regions", "pyramid:1")
    assert code == DONE and "left out, without a positive: queries 9" in printed


def test_evaluate_writes_csv_and_only_the_levels_asked_for(run, dataset, tmp_path):
    code, printed, _ = run(
        "evaluate", dataset, "--regions", "pyramid:3", "--levels", "3,1", "--csv", tmp_path / "s.csv", "--json",
        tmp_path / "s.json",
    )  # fmt: skip
    assert code == DONE and "pyramid:2" not in printed and "by size:" in printed
    rows = (tmp_path / "s.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0].startswith("query,file_name,instance,name,level,regions") and len(rows) == 1 + 2 * 2
    numbers = json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))
    assert [level["level"] for level in numbers["levels"]] == [1, 3] and len(numbers["per_query"]) == 2
    assert {part["name"] for part in numbers["levels"][1]["breakdown"]["instance"]} == {"rug", "quilt"}


def test_evaluate_with_a_reranker(run, dataset, tmp_path):
    command = [
        "evaluate",
        dataset,
        "--regions",
        "pyramid:2",
        "--index",
        tmp_path / "idx",
        "--json",
        tmp_path / "s.json",
    ]
    code, printed, said = run(*command, "--rerank", "patch-qe")
    assert code == DONE and "re-ranked by patch-qe" in printed and "ms/re-rank" in printed, said
    assert json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))["ms_per_rerank"] > 0


def test_evaluate_reads_published_layouts(run, tmp_path):
    from tests.gallery import test_ilias as ilias
    from tests.gallery import test_instre as instre

    for number, (name, boxes) in enumerate(instre.BOXES.items()):
        path = tmp_path / "instre" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number, (instre.WIDTH, instre.HEIGHT)).save(path)
        path.with_suffix(".txt").write_text("".join(" ".join(map(str, box)) + "\n" for box in boxes))
    instre.write_truth(tmp_path / "instre")
    for number, (name, boxes) in enumerate(ilias.BOXES.items()):
        path = tmp_path / "ilias" / "ilias_core" / name
        ilias.save(path, number)
        path.with_name(path.stem + "_bbox.txt").write_text("".join(" ".join(map(str, box)) + "\n" for box in boxes))
    code, printed, said = run("evaluate", tmp_path / "instre", "--regions", "pyramid:2", "--subset", "s1")
    assert code == DONE and "5 pictures, 2 queries" in printed, said
    code, printed, said = run("evaluate", tmp_path / "ilias", "--regions", "pyramid:2", "--cutoff", 1000)
    assert code == DONE and "3 pictures, 3 queries" in printed and "mAP@1000" in printed, said


def test_compare_two_runs(run, refusal, dataset, tmp_path):
    kept = tmp_path / "idx"
    for name, more in (("a", ["--levels", "1"]), ("b", [])):
        command = ["evaluate", dataset, "--regions", "pyramid:3", "--index", kept, "--json", tmp_path / f"{name}.json"]
        assert run(*command, *more)[0] == DONE
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    code, printed, _ = run("compare", a, b)
    assert code == DONE and printed.count("mAP") == 1 and printed.count("LocScore") == 1 and "(2 queries)" in printed
    first, last = (json.loads(file.read_text(encoding="utf-8"))["map"] for file in (a, b))
    numbers = json.loads(run("compare", a, b, "--json")[1])
    assert numbers["differences"]["mAP"]["difference"] == pytest.approx(last - first)
    assert json.loads(run("compare", b, b, "--level", "1,3", "--json")[1]) == numbers
    assert run("compare", a, b, "--json", tmp_path / "c.json")[0] == DONE
    assert json.loads((tmp_path / "c.json").read_text(encoding="utf-8")) == numbers
    assert "the same mAP for every query" in run("compare", a, a)[1]
    assert "Run A has no level 2" in refusal("compare", a, b, "--level", 2)
    assert "--level takes one number" in refusal("compare", a, b, "--level", "1,2,3")
    assert "There is no file" in refusal("compare", a, tmp_path / "none.json")
    assert "was not written by evaluate --json" in refusal("compare", a, dataset / "annotations.json")
    assert "cannot be written" in refusal("compare", a, b, "--json", tmp_path)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--levels", "one"], "--levels takes numbers"),
        (["--levels", ""], "--levels takes numbers"),
        (["--rerank", "magic"], "Unknown re-ranker 'magic'"),
        (["--shortlist", "5"], "name a re-ranker with --rerank"),
        (["--rerank", "patch-qe", "--shortlist", "5"], "has no shortlist"),
        (["--rerank", "patch-qe", "--shortlist", "0"], "--shortlist must be at least 1"),
        (["--subset", "s1"], "Only INSTRE and ILIAS have subsets"),
        (["--csv", "."], "cannot be written"),
        (["--json", "same.x", "--csv", "./same.x"], "named for JSON and for CSV"),
        (["--similarities", "same.json", "--json", "same.json"], "named for JSON and for similarities"),
        (["--similarities", "x.pkl"], "reads only .json files"),
        (["--similarities", "x.json"], "is not read as ILIAS"),
        (["--format", "instre"], "gnd_instre.mat"),
        (["--format", "ilias"], "unpack ilias_core.tar"),
    ],
)
def test_evaluate_refuses_before_the_work(run, dataset, tmp_path, monkeypatch, more, said):
    monkeypatch.chdir(tmp_path)
    code, printed, error = run("evaluate", dataset, "--index", tmp_path / "idx", *more)
    assert code == REFUSED and printed == "" and said in error.splitlines()[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == [dataset.name]


def test_evaluate_a_level_that_the_index_lacks(run, dataset):
    code, _, said = run("evaluate", dataset, "--regions", "pyramid:2", "--levels", "1,4")
    assert code == REFUSED and "levels 1 to 2" in said


def test_evaluate_with_other_options_than_its_index(run, dataset, tmp_path):
    assert run("evaluate", dataset, "--regions", "pyramid:1", "--index", tmp_path / "idx")[0] == DONE
    code, _, said = run("evaluate", dataset, "--regions", "pyramid:2", "--index", tmp_path / "idx")
    assert code == REFUSED and "error: " in said and "pyramid:1, not pyramid:2" in said


def test_evaluate_checks_its_options_before_the_work(refusal, dataset, tmp_path):
    assert "cutoff" in refusal("evaluate", dataset, "--cutoff", 0)
    assert "cannot be written" in refusal("evaluate", dataset, "--json", tmp_path / "nowhere" / "x.json")
    assert "cannot be written" in refusal("evaluate", dataset, "--json", tmp_path)
