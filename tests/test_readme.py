"""README.md: its tables are what the commands print, its commands parse, and what it points to is there."""

from __future__ import annotations

import json
import re
import shlex

import pytest

from patchify_core.__main__ import parser
from patchify_core.paths import ASSETS, ROOT
from patchify_core.study.plans import PLANS
from patchify_core.study.report import tables

README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("study", PLANS)
def test_its_tables_are_those_of_the_shipped_studies(study):
    numbers = json.loads((ASSETS / "study" / f"{study}.json").read_text(encoding="utf-8"))
    blocks = [block for block in tables(numbers).split("\n\n") if block.startswith("|")]
    assert blocks
    for block in blocks:
        assert block in README


def commands():
    """Every `python -m patchify_core ...` of README's command blocks, with $S and $D put in."""
    found = []
    for block in re.findall(r"```sh\n(.*?)```", README, re.S):
        names = dict(re.findall(r'(\w)="([^"]*)"', block))
        for line in block.splitlines():
            for name, value in names.items():
                line = re.sub(rf"\${name}\b", value, line)
            words = shlex.split(line.partition("    #")[0].partition("      #")[0], comments=True)
            if words[1:3] == ["-m", "patchify_core"] and "=" not in words[0]:
                found.append(words[3:])
    return found


def test_there_are_commands_of_every_kind():
    assert {words[0] for words in commands()} == {"index", "search", "evaluate", "compare", "study"}


@pytest.mark.parametrize("words", commands(), ids=lambda words: " ".join(words)[:60])
def test_its_commands_parse(words):
    assert parser().parse_args(words).command == words[0]


def test_what_it_points_to_is_there():
    for target in re.findall(r"\]\(([^)#]+)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target
