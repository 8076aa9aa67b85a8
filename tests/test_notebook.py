"""The notebook: its cells, in order, in a fresh process, give what the library gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from patchify_core.evaluation.run import score_matches
from tests.conftest import ROOT

FILE = ROOT / "assets" / "patchify.ipynb"

RUN = """
import json, sys
names = {}
for source in json.load(sys.stdin):
    exec(compile(source, "cell", "exec"), names)
score, why = names["score"], names["why"]
print("RESULT " + json.dumps({
    "ap": score.ap, "locscore": score.locscore, "ranks": score.ranks.tolist(), "last": score.rows()[-1].running,
    "best": [match.image_id for match in names["ranking"][:10]],
    "scores": len(why.scores), "max": float(why.scores.max()),
    "first": names["ranking"][0].score, "length": float((names["descriptor"] ** 2).sum()),
}))
"""


def code_cells() -> list[str]:
    cells = json.loads(FILE.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_it_is_a_notebook_without_outputs_and_of_at_most_twenty_lines() -> None:
    book = json.loads(FILE.read_text(encoding="utf-8"))
    assert book["nbformat"] == 4 and {cell["cell_type"] for cell in book["cells"]} == {"markdown", "code"}
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
    lines = [line for source in code_cells() for line in source.splitlines() if line.strip()]
    assert 10 <= len(lines) <= 20
    assert ";" not in "".join(lines)


def test_its_cells_give_what_the_library_gives(sample_engine, sample_gallery) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps(code_cells()),
        cwd=FILE.parent,  # as Jupyter starts it; from the root the first cell has less to look for
        capture_output=True,
        text=True,
        timeout=120,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.rpartition("RESULT ")[2])
    query = next(q for q in sample_gallery.queries if sample_gallery.name(q.instance) == "birthday cake")
    ranking = sample_engine.search_descriptor(sample_engine.describe_query(query.path, query.box), top=None)
    score = score_matches(ranking, sample_gallery, query)
    assert score is not None
    assert said["best"] == [match.image_id for match in ranking[:10]]
    assert said["ranks"] == score.ranks.tolist()
    assert (said["ap"], said["locscore"]) == (score.ap, score.locscore)
    assert said["last"] == said["locscore"]
    assert said["scores"] == 30 and said["max"] == said["first"]
    assert said["length"] == pytest.approx(1, abs=1e-5)
    assert f"AP {score.ap:.3f}, LocScore {score.locscore:.3f}" in done.stdout
