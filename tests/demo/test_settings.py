"""demo.settings: what environment variables say about the page, and what they may not say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from patchify_core.demo.settings import (
    LIBRARY_VARIABLES,
    VARIABLES,
    PageSettings,
    QueueSettings,
    ServerSettings,
    networks,
)
from patchify_core.files import ROOT, SAMPLE_DB

HOSTING = (ROOT / "patchify_core" / "web" / "HOSTING.md").read_text(encoding="utf-8")
NAMES = {variable.name for variable in VARIABLES} | {name for name, _, _ in LIBRARY_VARIABLES}


def test_without_variables_the_defaults_are_those_of_the_dataclasses():
    assert PageSettings.from_environment({}) == PageSettings()
    assert QueueSettings.from_environment({}) == QueueSettings()
    assert ServerSettings.from_environment({}) == ServerSettings()
    assert ServerSettings.from_environment({variable.name: " " for variable in VARIABLES}) == ServerSettings()


GOOD = {
    "PATCHIFY_HOST": ("0.0.0.0", "0.0.0.0"),
    "PATCHIFY_PORT": ("8080", 8080),
    "PATCHIFY_ROOT_PATH": ("/patchify/", "/patchify"),
    "PATCHIFY_HOSTS": ("Patchify.example.org, *.lab.example", ("patchify.example.org", "*.lab.example")),
    "PATCHIFY_PROXIES": ("127.0.0.1,10.0.0.0/8", networks("127.0.0.1,10.0.0.0/8")),
    "PATCHIFY_MCP": ("yes", True),
    "PATCHIFY_GALLERY": (str(SAMPLE_DB), (SAMPLE_DB,)),
    "PATCHIFY_CODE": ("https://example.org/code", "https://example.org/code"),
    "PATCHIFY_RESULTS": ("20", 20),
    "PATCHIFY_FORGET_S": ("600", 600),
    "PATCHIFY_VISITS": ("100", 100),
}


@pytest.mark.parametrize("variable", VARIABLES, ids=lambda variable: variable.name)
def test_each_variable_sets_its_field_and_no_other(variable):
    text, value = GOOD.get(variable.name, ("7", 7))
    found = variable.settings.from_environment({variable.name: f" {text} "})
    default = variable.settings()
    assert getattr(found, variable.field) == value != getattr(default, variable.field) or text == str(SAMPLE_DB)
    for other in vars(default):
        assert other == variable.field or getattr(found, other) == getattr(default, other)


def test_several_galleries_are_separated_as_in_path(tmp_path):
    (tmp_path / "annotations.json").touch()
    found = ServerSettings.from_environment({"PATCHIFY_GALLERY": f"{SAMPLE_DB}{os.pathsep} {tmp_path} {os.pathsep}"})
    assert found.galleries == (SAMPLE_DB, tmp_path)


BAD = {
    "PATCHIFY_HOST": ["a b", "http://x"],
    "PATCHIFY_PORT": ["0", "70000", "x", "-1", "7860.0", "٧٨٦٠"],
    "PATCHIFY_ROOT_PATH": ["patchify", "/a b"],
    "PATCHIFY_HOSTS": ["http://example.org", "a b", "example.org:80", "a/b", ","],
    "PATCHIFY_PROXIES": ["proxy.example.org", "10.0.0.1/8", "1.2.3"],
    "PATCHIFY_MCP": ["2", "maybe"],
    "PATCHIFY_GALLERY": [str(ROOT), *(os.pathsep.join([str(SAMPLE_DB), str(more)]) for more in (ROOT, SAMPLE_DB))],
    "PATCHIFY_CODE": ["example.org", "javascript:alert(1)", 'https://x"onclick="', "https://a b"],
    "PATCHIFY_RESULTS": ["7", "ten"],
}


@pytest.mark.parametrize(
    ("variable", "text"), [(v, text) for v in VARIABLES for text in BAD.get(v.name, ["0", "x", "1e3", "9" * 30])]
)
def test_what_does_not_do_is_one_sentence_that_names_the_variable(variable, text, refused):
    said = refused(variable.settings.from_environment, {variable.name: text})
    assert said.startswith(f"{variable.name} is ")


def test_gradios_own_variables_count_where_ours_are_not_set():
    outer = {"GRADIO_SERVER_NAME": "10.0.0.1", "GRADIO_SERVER_PORT": "8000"}
    found = ServerSettings.from_environment(outer)
    assert (found.host, found.port) == ("10.0.0.1", 8000)
    found = ServerSettings.from_environment(outer | {"PATCHIFY_HOST": "127.0.0.1", "PATCHIFY_PORT": "9000"})
    assert (found.host, found.port) == ("127.0.0.1", 9000)


def test_on_a_space_every_address_is_listened_on():
    assert ServerSettings.from_environment({"SPACE_ID": "a/b"}).host == "0.0.0.0"
    assert ServerSettings.from_environment({"SPACE_ID": "a/b", "PATCHIFY_HOST": "127.0.0.1"}).host == "127.0.0.1"


def test_help_lists_every_variable_at_once():
    said = subprocess.run([sys.executable, "app.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(re.findall(r"PATCHIFY_\w+", said.stdout)) == NAMES


def test_a_wrong_variable_ends_the_start_with_one_line():
    said = subprocess.run(
        [sys.executable, "app.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={"PATH": "", "PATCHIFY_QUEUE": "many"},
    )
    assert said.returncode == 2
    assert said.stderr == "error: PATCHIFY_QUEUE is 'many', but it takes a whole number from 1 to 10,000.\n"


def test_every_variable_in_the_code_is_known_and_in_readme_and_the_other_way_round():
    code = [ROOT / "app.py", *(ROOT / "patchify_core").rglob("*.py")]
    used = {name for path in code for name in re.findall(r"PATCHIFY_[A-Z_]+\b", Path(path).read_text(encoding="utf-8"))}
    assert used == NAMES
    rows = dict(re.findall(r"^\| `(PATCHIFY_\w+)` \| ([^|]*) \|", HOSTING, re.M))
    assert set(rows) == NAMES
    for variable in VARIABLES:
        assert rows[variable.name].strip().strip("`") == variable.default


def test_a_space_links_to_its_own_files_unless_somebody_says_otherwise():
    space = {"SPACE_ID": "me/demo"}
    assert ServerSettings.from_environment(space).code == "https://huggingface.co/spaces/me/demo/tree/main"
    assert (
        ServerSettings.from_environment(space | {"PATCHIFY_CODE": "https://a.example/b"}).code == "https://a.example/b"
    )
    assert ServerSettings.from_environment({"SPACE_ID": "me/demo?x="}).code == ""
