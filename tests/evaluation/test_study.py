"""evaluation.study: every configuration scored as `evaluate` scores it, cut anywhere and resumed, told as tables."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest

from patchify_core.errors import EncoderError
from patchify_core.evaluation.run import evaluate
from patchify_core.evaluation.study.chart import draw_chart
from patchify_core.evaluation.study.experiments import STUDIES, Configuration, Mean, means, plan, tables, without_seed
from patchify_core.evaluation.study.run import CachingEncoder, Workbench, run_study
from patchify_core.gallery import read_coco
from patchify_core.index.build import BuildSettings, build_index
from patchify_core.patchify import Patchify
from patchify_core.regions import parse_regions
from tests.tiny import TinyEncoder, write_dataset

BASE = Configuration(encoder="tiny", regions="pyramid:2")
CONFIGURATIONS = (
    BASE,
    replace(BASE, factory="PQ4x4", levels=(2,)),
    replace(BASE, factory="PQ4x4", levels=(2,), seed=1),
    replace(BASE, factory="PQ4x4", codebook="global", levels=(2,)),  # seven whole pictures are too few for 16 words
    replace(BASE, rerank="patch-qe"),
    replace(BASE, regions="salient:3"),
)


class Counted:
    """Loads tiny encoders and counts what went through them."""

    def __init__(self):
        self.encoders = []

    def __call__(self, spec):
        self.encoders.append(TinyEncoder())
        return self.encoders[-1]

    @property
    def encoded(self):
        return sum(encoder.encoded for encoder in self.encoders)


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    return read_coco(write_dataset(tmp_path_factory.mktemp("datasets") / "rugs"))


@pytest.fixture(scope="module")
def numbers(gallery, tmp_path_factory):
    work = Workbench(tmp_path_factory.mktemp("work"), Counted())
    return run_study("compression", CONFIGURATIONS, [gallery], work)


def test_rows_are_what_evaluate_says(gallery, numbers, tmp_path):
    build_index(gallery, tmp_path / "idx", TinyEncoder(), parse_regions("pyramid:2"), BuildSettings())
    reports = evaluate(gallery, Patchify.open(tmp_path / "idx", TinyEncoder()))
    rows = [row for row in numbers["rows"] if row["factory"] == "Flat" and row["indexed"] == "pyramid:2"]
    rows = [row for row in rows if row["rerank"] is None]
    assert [row["regions"] for row in rows] == ["pyramid:1", "pyramid:2"]
    for row, report in zip(rows, reports, strict=True):
        assert (row["map"], row["locscore"], row["recall@1"]) == (
            report.report.map,
            report.report.locscore,
            report.report.recall[1],
        )
        np.testing.assert_allclose(np.mean(row["ap"]), row["map"], atol=1e-4)
        assert row["patches"] == report.patches and row["bytes_per_image"] == 24 * 4 * report.patches
        best = [outcome.best for outcome in report.outcomes.values()]
        assert [found[0] for found in row["best"]] == [image for image, _ in best]


def test_codes_are_the_codecs_own_size(numbers):
    small = [row for row in numbers["rows"] if row["factory"] == "PQ4x4"]
    assert [row["seed"] for row in small] == [0, 1]
    assert {row["bytes_per_patch"] for row in small} == {2} and {row["level"] for row in small} == {2}


def test_what_cannot_be_had_is_told_and_not_made_up(numbers):
    assert [refusal["codebook"] for refusal in numbers["refused"]] == ["global"]
    assert "16" in numbers["refused"][0]["why"]
    assert "Not had on rugs (tiny, pyramid:2, PQ4x4, global)" in tables(numbers)


def test_pictures_are_embedded_once_and_queries_too(gallery, tmp_path):
    load = Counted()
    run_study("compression", CONFIGURATIONS[:3], [gallery], Workbench(tmp_path / "work", load))
    assert load.encoded == 7 * 5 + 2
    again = Counted()
    run_study("compression", CONFIGURATIONS[:3], [gallery], Workbench(tmp_path / "work", again))
    assert again.encoded == 2  # descriptors of the gallery were kept


@pytest.mark.parametrize("cut", [1, 3, 5])
def test_an_interrupted_study_goes_on(gallery, tmp_path, cut):
    out = tmp_path / "study.json"
    whole = run_study(
        "compression", CONFIGURATIONS, [gallery], Workbench(tmp_path / "a", Counted()), tmp_path / "w.json"
    )

    def stop(step):
        if step.done == cut:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study("compression", CONFIGURATIONS, [gallery], Workbench(tmp_path / "b", Counted()), out, stop)
    partial = out.with_name("study.json.partial")
    assert not out.exists() and len(partial.read_text().splitlines()) == cut
    partial.write_text(partial.read_text() + '\n{"key": {"dataset": "rugs"')  # torn by a kill
    asked = []
    numbers = run_study(
        "compression",
        CONFIGURATIONS,
        [gallery],
        Workbench(tmp_path / "b", Counted()),
        out,
        lambda step: asked.append(step.done),
    )
    again = [3] if cut > 3 else []  # what could not be had is asked again: it may be there now
    assert asked == [*again, *range(cut, len(CONFIGURATIONS))] and not partial.exists()
    assert without_times(numbers) == without_times(whole) == without_times(json.loads(out.read_text()))


def test_a_strangers_file_stays_and_a_torn_first_line_does_not_matter(gallery, tmp_path, refused):
    out, partial = tmp_path / "study.json", tmp_path / "study.json.partial"
    run = ("encoders", [BASE], [gallery], Workbench(tmp_path / "work", Counted()), out)
    partial.write_text("dear diary\n")
    assert "is in the way and was not made by this program" in refused(run_study, *run)
    assert partial.read_text() == "dear diary\n" and not out.exists()
    partial.write_text('{"ke')
    assert len(run_study(*run)["rows"]) == 2 and not partial.exists()


def test_what_ails_the_dataset_or_encoder_ends_the_study(tmp_path, refused):
    gallery = read_coco(write_dataset(tmp_path / "rugs"))

    def absent(spec):
        raise EncoderError(f"There is no encoder {spec}.")

    assert "There is no encoder tiny" in refused(
        run_study, "encoders", [BASE], [gallery], Workbench(tmp_path / "work", absent)
    )
    gallery.images[0].path.write_bytes(b"no picture")
    said = refused(run_study, "encoders", [BASE], [gallery], Workbench(tmp_path / "work", Counted()))
    assert "1 pictures of" in said and "cannot be read" in said


def without_times(numbers):
    rows = [{k: v for k, v in row.items() if not k.startswith("ms_")} for row in numbers["rows"]]
    return numbers | {"rows": rows}


def test_another_dataset_does_not_reuse_finished_lines(tmp_path):
    gallery = read_coco(write_dataset(tmp_path / "rugs"))
    out = tmp_path / "study.json"

    def stop(step):
        if step.done == 1:
            raise KeyboardInterrupt

    more = replace(BASE, rerank="qe")
    with pytest.raises(KeyboardInterrupt):
        run_study("encoders", [BASE, more], [gallery], Workbench(tmp_path / "a", Counted()), out, stop)
    annotations = gallery.root / "annotations.json"
    data = json.loads(annotations.read_text())
    data["annotations"][0]["bbox"][2] -= 1
    annotations.write_text(json.dumps(data))
    asked = []
    run_study(
        "encoders", [BASE], [read_coco(gallery.root)], Workbench(tmp_path / "a", Counted()), out,
        lambda step: asked.append(step.done),
    )  # fmt: skip
    assert asked == [0]


def test_a_crop_is_encoded_once_whatever_it_is_batched_with():
    tiny = TinyEncoder()
    encoder = CachingEncoder(tiny)
    crops = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    first = encoder.encode(crops)
    np.testing.assert_array_equal(encoder.encode(crops[::-1]), first[::-1])
    np.testing.assert_array_equal(first, np.concatenate([TinyEncoder().encode(crop[None]) for crop in crops]))
    assert tiny.encoded == 3


# Plans and tables -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STUDIES)
def test_plans_compare_like_with_like(name):
    configurations = plan(name)
    assert len(set(configurations)) == len(configurations)
    for configuration in configurations:
        parse_regions(configuration.regions)
    if name == "regions":
        assert {parse_regions(c.regions).patches_per_image for c in configurations} == {30}


def test_an_unknown_plan_says_the_nearest(refused):
    assert "did you mean compression?" in refused(plan, "compresion")


def test_skipping_names_what_there_is(refused):
    assert len(plan("rerank", skip=["aliked", "qe"])) == len(plan("rerank")) - 2
    assert "nothing called 'alikd' (did you mean aliked?)" in refused(plan, "rerank", skip=["aliked", "alikd"])
    assert "Nothing is left of the study of regions without tiny" in refused(plan, "regions", "tiny", ["tiny"])


def test_seeds_are_averaged_and_nothing_else(numbers):
    grouped = means(numbers["rows"], ("factory", "level", "rerank", "regions"))
    both = grouped["PQ4x4", 2, None, "pyramid:2"]["rugs"]
    assert len(both.rows) == 2
    assert both.of("map") == pytest.approx(np.mean([row["map"] for row in both.rows]))
    assert both.spread("map") == pytest.approx(abs(both.rows[0]["map"] - both.rows[1]["map"]))
    assert all(len(by["rugs"].rows) == 1 for key, by in grouped.items() if key[0] == "Flat")
    assert without_seed("pyramid:1+random:30,2") == "pyramid:1+random:30"


def test_a_mean_without_boxes_is_none():
    assert Mean(({"locscore": None}, {"locscore": 0.5})).of("locscore") is None


@pytest.mark.parametrize("study", STUDIES)
def test_tables_are_markdown_with_every_row(numbers, study):
    exact = [row for row in numbers["rows"] if row["factory"] == "Flat" and row["rerank"] is None]
    rows = [row for row in exact if row["indexed"] == "pyramid:2"]
    said = tables(numbers | {"study": study, "rows": rows if study != "regions" else exact})
    lines = [line for line in said.splitlines() if line.startswith("|")]
    assert len(lines) > 2
    for block in said.split("\n\n"):
        table = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in table}) <= 1
    assert f"{rows[1]['map']:.3f}" in said


def test_the_chart_is_a_drawing_with_a_point_a_size(numbers):
    drawing = ET.fromstring(draw_chart(numbers))
    circles = [node for node in drawing.iter("{http://www.w3.org/2000/svg}circle") if len(node)]
    titles = [circle[0].text for circle in circles]
    assert any("PQ4x4" not in title and "Flat" in title for title in titles)
    assert drawing.get("aria-label")


def test_only_the_compression_study_has_a_chart(numbers, refused):
    assert "compression" in refused(draw_chart, numbers | {"study": "regions"})
