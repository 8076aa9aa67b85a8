"""evaluation.study.paper and .needs: the cells, the paper's numbers beside ours, and what it all takes."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from patchify_core.encoders import EncoderSettings
from patchify_core.evaluation.study.experiments import Configuration
from patchify_core.evaluation.study.needs import RERANK_S, EncoderCost, measure_encoder, needs_of
from patchify_core.evaluation.study.paper import (
    ENCODERS,
    REGIONS,
    SECOND_HAND,
    benchmark_map,
    csv_rows,
    paper_cells,
    paper_tables,
    second_hand,
)
from patchify_core.evaluation.study.run import LONGEST_NAME, Workbench
from patchify_core.regions import parse_regions
from patchify_core.retrieval.rerank import RERANKERS
from tests.tiny import DIM, TinyEncoder

DINO, CLIP, SIGLIP, OPEN_CLIP = ENCODERS


def test_the_matrix_compares_like_with_like():
    cells = paper_cells()
    assert len(cells) == len(set(cells)) == 4 * (4 + 4 + 12 + 8) and {cell.encoder for cell in cells} == {*ENCODERS}
    assert {parse_regions(spec).patches_per_image for spec in REGIONS} == {30}
    assert all(len(cell.levels) == 1 for cell in cells)  # one record per cell
    assert {part for cell in cells if cell.rerank for part in cell.rerank.split("+")} <= {*RERANKERS}
    # Descriptors that are the same stand side by side, so that an index is loaded once.
    order = [(cell.encoder, cell.regions) for cell in cells]
    assert len({*order}) == 1 + sum(a != b for a, b in pairwise(order))
    assert {*paper_cells(parts=["levels"])} < {*cells}


def row(**changes):
    values = {"dataset": "instre", "encoder": DINO, "indexed": "pyramid:4", "regions": "pyramid:1", "level": 1}
    values |= {"patches": 1, "factory": "Flat", "codebook": "uniform", "bytes_per_patch": 3072, "rerank": None}
    return values | {"map": 0.5, "locscore": 0.25} | changes


@pytest.mark.parametrize(
    ("changes", "known"),
    [
        ({}, 57.70),
        ({"level": 4}, 72.54),
        ({"level": 4, "encoder": CLIP}, 87.57),
        ({"dataset": "ilias-core", "encoder": CLIP}, 31.60),
        ({"dataset": "ilias-core", "level": 4}, 57.52),
        ({"encoder": f"{DINO.split('.')[0]}@/weights/openai-clip.pth"}, 57.70),
        ({"level": 2}, None),
        ({"encoder": SIGLIP}, None),
        ({"encoder": OPEN_CLIP}, None),  # CLIP's architecture, and others' pictures
        ({"encoder": "timm:test_vit@/openai/clip/dinov2.pth"}, None),
        ({"dataset": "ilias-mini"}, None),
        ({"factory": "PQ64", "level": 4}, None),
        ({"rerank": "qe"}, None),
        ({"indexed": "salient:30"}, None),
    ],
)
def test_the_papers_numbers_stand_where_they_belong(changes, known):
    assert second_hand(row(**changes)) == known
    assert len(SECOND_HAND) == 4


def test_the_benchmarks_own_map_is_shown():
    scores = [{"measure": "oracle@1000", "value": 0.9}, {"measure": "mAP@1000", "value": 0.4}]
    of_ilias = row(published=[*scores, {"measure": "mAP@1000", "value": 0.1}], dataset="ilias-core")
    assert benchmark_map(of_ilias) == 0.4 and benchmark_map(row()) == 0.5
    numbers = {"rows": [row(), of_ilias], "datasets": {"instre": {}, "ilias-core": {}}, "refused": []}
    assert f"| {DINO} | L0 | 50.00 | 57.70 | 25.00 | 40.00 | 40.56 | 25.00 |" in paper_tables(numbers)
    assert paper_tables(numbers).count("second hand") == 2
    assert [(r["map"], r["benchmark_map"], r["paper_map_second_hand"]) for r in csv_rows(numbers)] == [
        (0.5, 0.5, 57.70),
        (0.5, 0.4, 40.56),
    ]


def test_a_reason_is_told_once():
    cell = Configuration(rerank="xfeat").as_dict()
    refused = [{"dataset": name, **cell, "why": "It is not installed."} for name in ("a", "b", "c")]
    said = paper_tables({"rows": [row()], "datasets": {"instre": {}}, "refused": refused})
    assert said.endswith("Not had on a (effnet-lite0, pyramid:4, Flat, uniform, xfeat): It is not installed. (3 cells)")


def test_needs_are_what_is_left(tmp_path):
    cost = EncoderCost("spec", 10, 400, False, 100.0, 1e-6, 7000, "cuda:0")
    flat = Configuration("e")
    cells = [
        flat,
        replace(flat, factory="PQ8"),
        replace(flat, rerank="patch-qe+sift"),
        replace(flat, regions="random:7"),
    ]
    sets = {"a": (100, 3), "b": (10, 2)}
    bench = Workbench(tmp_path)
    bench.place("b", Configuration("spec")).mkdir(parents=True)  # embedded before
    needs = needs_of(sets, cells, {"e": cost}, bench, lambda name, cell: name == "b" and cell == flat)
    assert (needs.cells, needs.finished) == (8, 1)
    patches = 100 * 30 + 100 * 7 + 10 * 7
    assert needs.patches == patches and needs.embed_s == pytest.approx(patches / 100)
    searched = 3 * (100 * (30 + 30 + 2 * 30 + 7)) + 2 * (10 * (30 + 2 * 30 + 7))
    assert needs.search_s == pytest.approx(searched * 1e-6)
    assert needs.rerank_s == pytest.approx(5 * (RERANK_S["patch-qe"] + RERANK_S["sift"]))
    assert needs.download_bytes == 400 and needs.disk_bytes == 40 * (patches + 3000) + 400
    assert needs.memory_bytes == 2 * 40 * 3000 and needs.gpu_bytes == 7000
    on_processor = needs_of(sets, cells, {"e": replace(cost, device="cpu")}, bench, lambda *_: False)
    assert on_processor.memory_bytes == 2 * 40 * 3000 + 7000 and on_processor.gpu_bytes == 0
    done = needs_of(sets, cells, {}, bench, lambda *_: True)
    assert done.finished == 8 and done.embed_s == done.search_s == done.rerank_s == done.disk_bytes == 0


@pytest.mark.usefixtures("offline")
def test_an_encoder_is_measured_without_its_weights():
    cost = measure_encoder("timm:test_vit.r160_in1k")
    assert not cost.here and cost.spec == "timm:test_vit.r160_in1k" and cost.dim == 64
    assert cost.patches_per_s > 0 and cost.search_s > 0 and cost.memory_bytes > cost.weights_bytes > 1e6
    inner = measure_encoder("aspect:192:timm:test_vit.r160_in1k")
    assert inner.weights_bytes == cost.weights_bytes and inner.memory_bytes > cost.memory_bytes and not inner.here
    assert measure_encoder("effnet-lite0").here
    settings = []

    def load(spec, chosen):
        settings.append(chosen)
        return TinyEncoder()

    cost = measure_encoder("tiny", load)
    assert settings == [EncoderSettings()] and (cost.dim, cost.weights_bytes, cost.here) == (DIM, 0, True)


def test_folders_of_long_names_differ(tmp_path):
    bench = Workbench(tmp_path)
    places = {bench.place("a", Configuration(f"timm:x@/{'deep/' * 80}{end}.pth")) for end in "pq"}
    assert len(places) == 2 and max(len(place.name) for place in places) <= LONGEST_NAME + 10
    assert bench.place("a b", Configuration()).name == "a-b_effnet-lite0_pyramid-4"
