"""web.api in this process: what programs are answered is what the command line prints."""

from __future__ import annotations

import base64
import inspect
import json
from pathlib import Path

import pytest

from patchify_core import encoders
from patchify_core import patchify as retrieval
from patchify_core.cli.main import main
from patchify_core.demo.example_gallery import ExampleGallery
from patchify_core.gallery import read_coco
from patchify_core.index.build import BuildSettings, build_index
from patchify_core.regions import parse_regions
from patchify_core.web import api, inputs
from patchify_core.web.api import Endpoints
from patchify_core.web.visits import Visits
from tests.tiny import TinyEncoder, write_dataset

BOX = [5.0, 6.0, 35.0, 30.0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A dataset with an index of crops and a pooled one."""
    gallery = read_coco(write_dataset(tmp_path_factory.mktemp("api") / "set"))
    build_index(gallery, gallery.root / "index", TinyEncoder(), parse_regions("pyramid:3"))
    pooled = BuildSettings(features="pooled:64", keep_maps=True)
    build_index(gallery, gallery.root / "indexes" / "pooled", TinyEncoder(), parse_regions("pyramid:3"), pooled)
    return gallery.root


@pytest.fixture
def uploads(tmp_path, monkeypatch) -> Path:
    """Where Gradio puts uploads."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    return tmp_path / "uploads"


@pytest.fixture
def programs(folder, uploads, monkeypatch) -> Endpoints:
    for module in (retrieval, encoders):  # for the command line in this process
        monkeypatch.setattr(module, "load_encoder", lambda spec="tiny", settings=None: TinyEncoder())
    return Endpoints(Visits(ExampleGallery(folder, TinyEncoder())))


def sent(folder: Path, uploads: Path, name: str = "queries/1.png") -> dict[str, object]:
    """The query as Gradio hands an upload on."""
    target = uploads / "0a" / Path(name).name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes((folder / name).read_bytes())
    return {"path": str(target), "meta": {"_type": "gradio.FileData"}}


def data_address(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def printed(capsys, *words: object) -> object:
    capsys.readouterr()
    assert main([str(word) for word in words]) == 0
    return json.loads(capsys.readouterr().out)


def from_the_gallery_on(rows: list[dict[str, object]], folder: Path) -> list[dict[str, object]]:
    """Rows of the command line as the page answers them: not where the files are on this machine."""
    return [row | {"file": Path(str(row["file"])).relative_to(folder.resolve()).as_posix()} for row in rows]


@pytest.mark.parametrize(
    ("index", "options"),
    [
        ("index", {}),
        ("index", {"top": 3, "level": 1}),
        ("index", {"refine": "soft", "rerank": "patch-qe"}),
        ("pooled", {"level": 2}),
        ("pooled", {"refine": "map"}),
        ("pooled", {"refine": "map", "rerank": "map"}),
    ],
)
@pytest.mark.parametrize("box", [None, BOX])
def test_a_search_is_what_the_command_line_prints(programs, folder, uploads, capsys, index, options, box):
    path = folder / ("index" if index == "index" else f"indexes/{index}")
    flags = [word for name, value in options.items() for word in (f"--{name}", value)]
    flags += [] if box is None else ["--box", ",".join(map(str, box))]
    expected = printed(capsys, "search", path, folder / "queries/1.png", *flags, "--json")
    expected = from_the_gallery_on(expected, folder)
    assert expected and programs.search_by_picture(sent(folder, uploads), box, index=index, **options) == expected
    address = data_address(folder / "queries/1.png")
    assert programs.search_by_picture(address, box, index=index, **options) == expected


def test_an_example_is_searched_with_its_annotated_box_or_another(programs, folder, capsys):
    query = read_coco(folder).queries[0]
    box = ",".join(map(str, query.box.tolist()))
    index = folder / "indexes/pooled"
    expected = printed(capsys, "search", index, query.path, "--box", box, "--json")
    assert programs.search_by_example(query.id) == from_the_gallery_on(expected, folder)
    expected = printed(capsys, "search", index, query.path, "--box", "0,0,20,20", "--json")
    assert programs.search_by_example(query.id, [0, 0, 20, 20]) == from_the_gallery_on(expected, folder)


def test_an_explanation_holds_the_score_that_the_search_gave(programs, folder, uploads):
    query = read_coco(folder).queries[0]
    for level in (1, 3):
        for match in programs.search_by_example(query.id, level=level):
            why = programs.explain_match(match["image_id"], query.id, level=level)
            assert (why["score"], why["box"], why["patch"]) == (match["score"], match["box"], match["patch"])
            assert why["file"] == match["file"]
            scores = [patch["score"] for patch in why["patches"]]
            assert len(scores) == {1: 1, 3: 14}[level] and max(scores) == why["score"]
            assert why["patches"][why["patch"]]["box"] == why["box"]
    names = [patch["regions"] for patch in why["patches"]]
    assert names == ["pyramid:1"] + ["pyramid:2"] * 4 + ["pyramid:3"] * 9
    box = query.box.tolist()
    by_picture = programs.explain_match(match["image_id"], picture=sent(folder, uploads), box=box)
    assert by_picture["patches"] == why["patches"]


def without_times(numbers: object) -> object:
    if isinstance(numbers, dict):
        gone = ("ms_per_query", "ms_per_rerank", "images_per_s", "program", "format", "run", "per_query")
        return {key: without_times(value) for key, value in numbers.items() if key not in gone}
    return [without_times(value) for value in numbers] if isinstance(numbers, list) else numbers


@pytest.mark.parametrize(
    ("index", "flags", "options"),
    [
        ("index", [], {}),
        ("index", ["--levels", "1,3", "--refine", "soft"], {"levels": [1, 3], "refine": "soft"}),
        ("pooled", ["--refine", "map", "--rerank", "map"], {"refine": "map", "rerank": "map"}),
    ],
)
def test_an_evaluation_is_what_the_command_line_writes(programs, folder, tmp_path, index, flags, options):
    path, file = folder / ("index" if index == "index" else f"indexes/{index}"), tmp_path / "scores.json"
    kept = ["--features", "pooled:64", "--keep-maps"] if index == "pooled" else []
    words = ["evaluate", folder, "--index", path, "--regions", "pyramid:3", *kept, *flags, "--json", file]
    assert main([str(word) for word in words]) == 0
    expected = without_times(json.loads(file.read_text()))
    found = programs.evaluate_index(index, details=True, **options)
    assert json.loads(json.dumps(without_times(found))) == expected
    again = programs.evaluate_index(index, **options)
    assert again["map"] == found["map"] and all("breakdown" not in level for level in again["levels"])


def test_what_was_evaluated_is_not_evaluated_again(programs, monkeypatch):
    first = programs.evaluate_index(levels=[1])
    monkeypatch.setattr(api, "EVALUATION_LIMIT_S", -1.0)
    assert programs.evaluate_index(levels=[1]) == first


def test_an_evaluation_that_takes_too_long_is_stopped_and_goes_on_when_asked_again(programs, monkeypatch, refused):
    monkeypatch.setattr(api, "EVALUATION_LIMIT_S", -1.0)
    assert "after -1 s and 1 of 2 queries" in refused(programs.evaluate_index)
    described = []
    monkeypatch.setattr(api, "EVALUATION_LIMIT_S", 60.0)
    real = retrieval.Patchify.view
    monkeypatch.setattr(retrieval.Patchify, "view", lambda *a, **k: described.append(a) or real(*a, **k))
    assert programs.evaluate_index()["queries"] == 2
    assert len(described) == 1  # the other query was finished before


def test_an_evaluation_that_nobody_waits_for_is_given_up(programs, monkeypatch, refused):
    monkeypatch.setattr(api, "still_wanted", lambda: False)
    assert "has left" in refused(programs.evaluate_index, "index")


def test_the_list_names_what_can_be_asked(programs, folder):
    said = programs.list_gallery()
    json.dumps(said)
    assert [index["name"] for index in said["indexes"]] == ["pooled", "index"]
    assert [index["refine"] for index in said["indexes"]] == [["soft", "map"], ["soft"]]
    assert said["pictures"] == 7 and said["objects"] == ["quilt", "rug"] and "aliked" not in said["rerankers"]
    for example in said["examples"]:
        assert programs.search_by_example(example["id"], top=1)
    for index in said["indexes"]:
        assert programs.search_by_example(said["examples"][0]["id"], index=index["name"], level=index["levels"])


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"level": 99}, "levels 1 to 3"),
        ({"level": 0}, "levels 1 to 3"),
        ({"level": True}, "level must be a whole number"),
        ({"level": 1.5}, "level must be a whole number"),
        ({"top": 0}, "top must be from 1 to 200"),
        ({"top": 100_000}, "top must be from 1 to 200"),
        ({"top": "10"}, "top must be a whole number"),
        ({"top": None}, "top must be a whole number"),
        ({"box": [1, 2, 3]}, "box must be four numbers"),
        ({"box": "1,2,3,4"}, "box must be four numbers"),
        ({"box": [1, 2, 3, None]}, "box must be four numbers"),
        ({"box": [1, 2, 3, float("nan")]}, "four finite numbers"),
        ({"box": [1, 2, 3, 10**400]}, "four finite numbers"),
        ({"box": [5, 5, 5, 9]}, "no area"),
        ({"box": [500, 500, 600, 600]}, "outside"),
        ({"box": [30, 30, 10, 10]}, "inverted"),
        ({"index": "nope"}, "choose one of pooled, index"),
        ({"index": ["index"]}, "choose one of pooled, index"),
        ({"index": "../index"}, "choose one of pooled, index"),
        ({"refine": "best"}, "refine must be soft or map"),
        ({"refine": 1}, "refine must be soft or map"),
        ({"index": "index", "refine": "map"}, "feature maps"),
        ({"rerank": "magic"}, "Unknown re-ranker"),
        ({"rerank": 3}, "no re-ranker 3"),
        ({"rerank": "qe+qe"}, "twice"),
        ({"rerank": "qe+aliked"}, "command line"),
    ],
)
def test_bad_options_are_one_sentence_and_the_upload_is_gone(programs, folder, uploads, refused, options, word):
    upload = sent(folder, uploads)
    assert word in refused(programs.search_by_picture, upload, **options)
    assert not any(uploads.rglob("*"))
    if "index" not in options or options["index"] == "index":
        query = read_coco(folder).queries[0].id
        assert word in refused(programs.search_by_example, query, **options)


@pytest.mark.parametrize(
    "picture",
    [
        None,
        5,
        [],
        {},
        {"path": 5},
        {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}},
        {"path": "\0"},
        "/etc/passwd",
        "",
        "data:image/png,abc",
        "data:image/png;base64,%%%",
        "data:image/png;base64,",
        "data:image/png;base64,aGVsbG8=",
        "http://example.org/x.jpg",
        "file:///etc/passwd",
        "http://127.0.0.1/gradio_api/file=/etc/passwd",
    ],
)
def test_what_is_no_picture_is_one_sentence(programs, refused, picture):
    refused(programs.search_by_picture, picture)


def test_a_picture_that_the_server_was_given_before_can_be_named_by_its_address(programs, folder, uploads):
    expected = programs.search_by_picture(sent(folder, uploads))
    path = sent(folder, uploads)["path"]
    assert programs.search_by_picture(f"http://localhost:7860/gradio_api/file={path}") == expected
    assert not any(uploads.rglob("*"))


def test_a_data_address_that_is_too_large_is_refused_before_it_is_read(programs, refused):
    assert "larger than 30 MB" in refused(programs.search_by_picture, "data:image/png;base64," + "A" * 41_000_000)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((1,), "only one"),
        ((1, 8, None, "words"), "only one"),
        ((999, 8), "no picture 999"),
        (("x", 8), "image_id must be a whole number"),
        ((1, 999), "no example 999"),
        ((1, 8, None, None, None, 9), "levels 1 to 3"),
        ((1, None, None, "a kettle", [1, 2, 3, 4]), "A box belongs to a query picture"),
        ((1, None, None, "a kettle"), "understands pictures only"),
    ],
)
def test_what_cannot_be_explained_is_one_sentence(programs, refused, arguments, word):
    assert word in refused(programs.explain_match, *arguments)


def test_words_need_an_encoder_that_knows_them(programs, refused):
    assert "understands pictures only" in refused(programs.search_by_words, "a red kettle")
    refused(programs.search_by_words, "")
    refused(programs.search_by_words, None)
    refused(programs.search_by_words, "x" * 5000)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"levels": []}, "at least one level"),
        ({"levels": [1, 99]}, "levels 1 to 3"),
        ({"levels": 1}, "levels must be a list"),
        ({"levels": ["1"]}, "whole number"),
        ({"rerank": "sift"}, "cannot be evaluated here"),
        ({"details": 1}, "details must be true or false"),
        ({"refine": "map", "index": "index"}, "feature maps"),
    ],
)
def test_what_cannot_be_evaluated_is_one_sentence(programs, refused, options, word):
    assert word in refused(programs.evaluate_index, **options)


@pytest.mark.parametrize("value", [float("inf"), 2**53 + 2.0, "1", [], {}, None, True])
def test_what_is_no_whole_number(refused, value):
    refused(inputs.integer, "top", value)


def test_every_endpoint_documents_itself_in_lines_that_gradio_reads():
    import gradio as gr

    for name, fn in inspect.getmembers(Endpoints, inspect.isfunction):
        if name.startswith("_"):
            continue
        description, arguments, returns = gr.utils.get_function_description(fn)
        assert description.endswith(".") and returns
        for argument in inspect.signature(fn).parameters:
            assert argument == "self" or arguments[argument], (name, argument)
