"""README.md and the pages beside the rooms: tables are what commands print, commands parse, links lead somewhere."""

from __future__ import annotations

import json
import re
import shlex

import pytest

from patchify_core.cli.main import parser
from patchify_core.evaluation.study.experiments import STUDIES, tables
from patchify_core.files import ASSETS, ROOT

PAGES = {
    page: (ROOT / page).read_text(encoding="utf-8")
    for page in (
        "README.md",
        "assets/study/NUMBERS.md",
        "patchify_core/index/big/SCALE.md",
        "patchify_core/cli/USAGE.md",
        "patchify_core/gallery/BENCHMARKS.md",
        "patchify_core/web/API.md",
        "patchify_core/web/HOSTING.md",
        "sample_db/README.md",
    )
}
README, NUMBERS, HOSTING = (
    PAGES[page] for page in ("README.md", "assets/study/NUMBERS.md", "patchify_core/web/HOSTING.md")
)


def test_the_readme_is_one_page():
    assert len(README.encode()) <= 10_240


@pytest.mark.parametrize("study", STUDIES)
def test_its_tables_are_those_of_the_shipped_studies(study):
    numbers = json.loads((ASSETS / "study" / f"{study}.json").read_text(encoding="utf-8"))
    blocks = [block for block in tables(numbers).split("\n\n") if block.startswith("|")]
    assert blocks
    for block in blocks:
        assert block in NUMBERS


def commands():
    """Every `python -m patchify_core ...` of the pages' command blocks, with $S and $D put in."""
    found = []
    for block in (block for page in PAGES.values() for block in re.findall(r"```sh\n(.*?)```", page, re.S)):
        names = dict(re.findall(r'(\w)="([^"]*)"', block))
        for line in block.replace("\\\n", " ").splitlines():
            for name, value in names.items():
                line = re.sub(rf"\${name}\b", value, line)
            words = shlex.split(line.partition("    #")[0].partition("      #")[0], comments=True)
            while words and re.match(r"[A-Z_]+=", words[0]):  # a variable for this command alone
                words = words[1:]
            if words[1:3] == ["-m", "patchify_core"]:
                found.append(words[3:])
    return found


def test_there_are_commands_of_every_kind():
    assert {words[0] for words in commands()} == {
        "index",
        "embed",
        "tune",
        "calibrate",
        "search",
        "evaluate",
        "compare",
        "study",
        "reproduce",
        "bench",
        "showcase",
    }


@pytest.mark.parametrize("words", commands(), ids=lambda words: " ".join(words)[:60])
def test_its_commands_parse(words):
    assert parser().parse_args(words).command == words[0]


@pytest.mark.parametrize("page", PAGES)
def test_what_it_points_to_is_there(page):
    for target, anchor in re.findall(r"\]\(([^)#]*)(#[^)]+)?\)", PAGES[page]):
        if target.startswith("http"):
            continue
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.M)
            assert anchor[1:] in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}, anchor


HEADLINES = {
    "whole pictures": ("encoders", {"encoder": "effnet-lite0", "regions": "pyramid:1"}),
    "patches, as in the paper": ("encoders", {"encoder": "effnet-lite0", "regions": "pyramid:4"}),
    "one pass per picture (ours)": (
        "features",
        {"features": "`pooled:640`", "codec": "`PCAH256,SQ8`", "patches": "30"},
    ),
    "… with refined boxes (ours)": (
        "boxes",
        {"features": "`pooled:640`", "box": "`--refine map`", "ranking": "by patches", "patches": "30"},
    ),
    "patches at 64 bytes instead of 5,120": ("compression", {"codec": "`PCAH256,PQ64`"}),
}


@pytest.mark.parametrize("name", HEADLINES)
def test_its_headline_numbers_are_those_of_the_shipped_studies(name):
    study, row = HEADLINES[name]
    numbers = json.loads((ASSETS / "study" / f"{study}.json").read_text(encoding="utf-8"))
    for block in tables(numbers).split("\n\n"):
        lines = [
            [cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines() if line.startswith("|")
        ]
        rows = [dict(zip(lines[0], line, strict=True)) for line in lines[2:]] if lines else []
        found = [line for line in rows if row.items() <= line.items()]
        if found:
            break
    values = {key: value.partition(" ")[0] for key, value in found[0].items()}
    sets = ("sample_db", "davis20")
    wanted = [", ".join(values[f"{each}: {score}"] for score in ("mAP", "LocScore")) for each in sets]
    line = next(line for line in README.splitlines() if line.startswith(f"| {name} |"))
    assert [cell.strip() for cell in line.strip("|").split("|")][1:] == [
        *wanted,
        values["dreambooth30: mAP"],
        f"`study {study}`",
    ]


# The lines at the top, which make the checkout a Hugging Face Space -------------------------------------------

COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
"""That huggingface.co/docs/hub/spaces-config-reference allows."""


def front_matter() -> dict[str, str]:
    assert README.startswith("---\n")
    lines = README.split("---\n")[1].splitlines()
    return {key: value.strip().strip('"') for key, _, value in (line.partition(":") for line in lines)}


def test_it_is_a_spaces_readme():
    found = front_matter()
    assert set(found) == {
        "title",
        "emoji",
        "colorFrom",
        "colorTo",
        "sdk",
        "sdk_version",
        "python_version",
        "app_file",
        "pinned",
        "license",
        "short_description",
    }
    assert found["sdk"] == "gradio" and (ROOT / found["app_file"]).is_file()
    assert {found["colorFrom"], found["colorTo"]} <= COLOURS
    assert found["license"] == "mit" and (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT")
    assert found["pinned"] in ("true", "false")
    assert 0 < len(found["short_description"]) <= 60
    assert len(found["emoji"].encode("utf-16-le")) <= 8 and not found["emoji"].isascii()


def test_a_space_gets_the_gradio_and_a_python_that_are_pinned_here():
    pins = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    assert re.search(r"^gradio\[mcp\]==(.+)$", pins, re.M)[1] == front_matter()["sdk_version"]
    assert front_matter()["python_version"] in ("3.10", "3.11", "3.12", "3.13")


def test_the_hint_to_install_mcp_names_the_pinned_gradio():
    from patchify_core.web.launch import INSTALL

    assert f"gradio[mcp]=={front_matter()['sdk_version']}" in INSTALL


def test_what_hosting_says_is_so():
    for name in re.findall(r"PATCHIFY_[A-Z_]+", "".join(PAGES.values())):
        assert f"| `{name}` |" in HOSTING, name
    for words in re.findall(r"-m patchify_core ([^#\n]+)", HOSTING):
        assert parser().parse_args(words.split()).command in ("bench", "index", "showcase")


@pytest.mark.parametrize(
    ("page", "time", "overlap"), [("patchify_core/cli/USAGE.md", 4, 5), ("patchify_core/index/big/SCALE.md", 4, 10)]
)
def test_its_table_of_millions_is_the_record(page, time, overlap):
    rows = json.loads((ASSETS / "study" / "scale.json").read_text(encoding="utf-8"))["rows"]
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    assert [row["images"] for row in rows] == [10_000, 100_000, 1_000_000, 10_000_000]
    for row in rows:
        line = next(line for line in lines if line.startswith(f"| {row['images']:,} | ") and " ms | " in line)
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        found = row["refined"]
        assert cells[time] == f"{found['p50_ms']:.{1 if found['p50_ms'] < 10 else 0}f} ms"
        assert cells[overlap] == f"{found['overlap']:.2f}"


def test_what_peers_take_is_the_record():
    rows = json.loads((ASSETS / "study" / "scale-peers.json").read_text(encoding="utf-8"))["rows"]
    lines = (ROOT / "patchify_core" / "index" / "big" / "SCALE.md").read_text(encoding="utf-8").splitlines()
    for row, start in zip(rows, ("| 1,000, exact |", "| 30,000 |"), strict=True):
        line = next(line for line in lines if line.startswith(start))
        ours = row["flat"] if "flat" in row else row["refined"]
        names = ("faiss-flat", "hnswlib", "qdrant-local", "milvus-lite-exact", "milvus-lite")
        found = [ours["p50_ms"], *(row["peers"][name].get("p50_ms") for name in names)]
        said = ["not run" if value is None else f"{value:.{1 if value < 10 else 0}f} ms" for value in found]
        assert [cell.strip() for cell in line.strip("|").split("|")][1:] == said
        assert all(ours["p50_ms"] < value for value in found[3:]) and ours.get("overlap", 1) >= 0.98


def test_its_table_of_peers_at_ten_thousand_is_the_record():
    row = json.loads((ASSETS / "study" / "scale.json").read_text(encoding="utf-8"))["rows"][0]
    lines = (ROOT / "patchify_core" / "index" / "big" / "SCALE.md").read_text(encoding="utf-8").splitlines()
    exact = row["flat"]["p50_ms"]
    starts = {
        "faiss-flat": "| FAISS IndexFlatIP, grouped by numpy |",
        "hnswlib": "| hnswlib, M 16 |",
        "qdrant-local": "| Qdrant, local mode |",
        "milvus-lite-exact": "| Milvus Lite, FLAT |",
        "milvus-lite": "| Milvus Lite, HNSW |",
    }
    for name, start in starts.items():
        cells = [cell.strip() for cell in next(line for line in lines if line.startswith(start)).strip("|").split("|")]
        found = row["peers"][name]["p50_ms"]
        assert cells[3] == f"{found:.{1 if found < 10 else 0}f} ms"
        times = found / exact
        assert cells[4] == f"{times:.{0 if times >= 10 else 1 if times > 1 else 2}f}"
