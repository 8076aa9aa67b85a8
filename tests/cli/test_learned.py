"""search and evaluate with learned re-rankers."""

from __future__ import annotations

import json

from tests.cli import DONE
from tests.retrieval.rerank.weights import files, reranker


def options_of(chosen):
    return ["--rerank-weights", chosen.weights, "--rerank-detector", chosen.detector]


def test_search_with_a_learned_reranker(tiny_everywhere, run, refusal, photos, idx, tmp_path):
    chosen = files(tmp_path / "files", "elvis")
    command = ["search", idx, photos / "0003.png", "--json"]
    code, printed, said = run(*command, "--rerank", "qe+elvis", *options_of(chosen))
    rows = json.loads(printed)
    assert code == DONE and said == "" and len(rows) == 6
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    assert "--rerank-weights FILE" in refusal(*command, "--rerank", "ames")
    assert "--rerank-weights is for learned re-ranking" in refusal(*command, *options_of(chosen))
    assert "--allow-torch-hub is for learned" in refusal(*command, "--rerank", "sift", "--allow-torch-hub")
    assert "There is no checkpoint" in refusal(*command, "--rerank", "ames", "--rerank-weights", tmp_path / "none.pt")


def test_evaluate_with_a_learned_reranker(tiny_everywhere, run, dataset, tmp_path):
    chosen, wide = files(tmp_path / "files", "ames"), files(tmp_path / "files", "ames", channels=768)
    command = ["evaluate", dataset, "--regions", "pyramid:1", "--index", tmp_path / "idx", "--rerank", "ames"]
    code, printed, said = run(*command, *options_of(wide))
    assert code != DONE and "trained on cells of 768 numbers" in said and not (tmp_path / "idx").exists()
    json_file = tmp_path / "s.json"
    code, printed, said = run(*command, *options_of(chosen), "--shortlist", 2, "--json", json_file)
    assert code == DONE and "re-ranked by ames" in printed, said
    record = json.loads(json_file.read_text(encoding="utf-8"))["run"]
    assert record["shortlist"] == 2 and record["rerank_recipe"] == [reranker("ames", chosen).recipe]
