"""The bundled gallery: pictures, annotations, index and credits are consistent and small."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from patchify_core.encoders import DEFAULT_ENCODER
from patchify_core.evaluation.record import gallery_digest
from patchify_core.evaluation.run import evaluate, score_matches
from patchify_core.evaluation.study.experiments import tables
from patchify_core.features.crop import describe
from patchify_core.features.extract import load_extractor
from patchify_core.features.pooled import describe_boxes, fractions
from patchify_core.files import ASSETS
from patchify_core.imaging.pictures import read_picture
from patchify_core.index.build import recode
from patchify_core.index.codec.codes import CodeSettings
from patchify_core.index.codec.factory import PRESETS
from patchify_core.index.patch_index import PatchIndex
from patchify_core.regions import Pyramid
from patchify_core.retrieval.searcher import Searcher

MEGABYTE = 1_000_000


def test_the_index_is_of_these_pictures(sample_engine, sample_db):
    sample_engine.index.check_pictures(sample_db, content=True)
    assert sample_engine.index.root == sample_db.resolve()  # stored as a relative path: a checkout may be anywhere


def test_the_index_and_the_annotations_agree(sample_engine, sample_gallery):
    indexed = [(i.id, i.file_name, i.width, i.height) for i in sample_engine.index.images]
    assert indexed == [(i.id, i.file_name, i.width, i.height) for i in sample_gallery.images]
    assert len(indexed) == 164
    assert sample_engine.index.encoder.spec == DEFAULT_ENCODER
    assert sample_engine.index.regions == Pyramid(4)


def test_annotations_list_exactly_the_pictures(sample_db):
    data = json.loads((sample_db / "annotations.json").read_text(encoding="utf-8"))
    listed = {image["file_name"] for image in data["images"]}
    there = {f"{folder}/{path.name}" for folder in ("gallery", "queries") for path in (sample_db / folder).iterdir()}
    assert listed == there


def test_sizes_are_those_of_the_files(sample_gallery):
    for entry in [*sample_gallery.images[::20], *sample_gallery.queries[::9]]:
        assert read_picture(entry.path).size == (entry.width, entry.height)


def test_every_query_has_positives(sample_gallery):
    assert len(sample_gallery.queries) == len(sample_gallery.instances) == 36
    for query in sample_gallery.queries:
        assert len(sample_gallery.positives(query.instance, query.exclude)) >= 7
        assert query.box is not None


@pytest.mark.parametrize("row", [0, 60, 163])
def test_the_index_contains_the_encoders_descriptors(row, sample_engine, sample_gallery, lite0):
    # Embed three pictures again and compare them with the index, cell by cell.
    index, image = sample_engine.index, sample_gallery.images[row]
    cells = [0, 1, 4, 5, 13, 14, 29]  # first and last cell of every grid
    fresh = describe(read_picture(image.path), index.boxes_of(row)[cells], lite0)
    stored = index.descriptors_of(row)
    similarity = fresh @ (stored / np.linalg.norm(stored, axis=1, keepdims=True)).T
    assert (similarity[np.arange(len(cells)), cells] > 0.999).all()
    assert similarity.argmax(axis=1).tolist() == cells  # each is most similar to itself, not to its neighbour
    np.testing.assert_allclose(np.linalg.norm(stored, axis=1), 1, atol=0.01)


@pytest.mark.parametrize(("preset", "lost"), [("small", 0.01), ("tiny", 0.02)])
def test_a_preset_scores_nearly_like_the_index(preset, lost, sample_engine, sample_gallery):
    coded = Searcher(recode(sample_engine.index, CodeSettings(preset)), sample_engine.encoder)
    exact, kept = (evaluate(sample_gallery, engine, (4,))[0].report for engine in (sample_engine, coded))
    assert kept.map > exact.map - lost and kept.locscore > exact.locscore - lost


def test_nothing_is_large(sample_db):
    sizes = {path: path.stat().st_size for path in sample_db.rglob("*") if path.is_file()}
    assert max(sizes.values()) < 10 * MEGABYTE
    assert sum(sizes.values()) < 60 * MEGABYTE


def test_no_temporary_files_of_a_build(sample_db):
    assert sorted(path.name for path in (sample_db / "index").iterdir()) == ["index.faiss", "meta.json"]
    assert not list(sample_db.glob("*.partial"))


def test_everything_is_credited(sample_db):
    credits = (sample_db / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for licence in ("CC BY 4.0", "CC BY 3.0", "CC0 1.0"):
        assert licence in credits
    rows = [line.split(" | ") for line in credits.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 80
    for kind, title, author, source, licence, address, change in rows:
        assert all(cell.strip(" |") for cell in (kind, title, author, source, licence, address, change))
        assert "https://creativecommons.org/" in licence
    models = {row[0].removeprefix("| model ") for row in rows if row[0].startswith("| model ")}
    data = json.loads((sample_db / "annotations.json").read_text(encoding="utf-8"))
    assert {entry["code"] for entry in data["categories"]} <= models  # each searchable object
    licences = {entry["id"] for entry in data["licenses"]}
    assert {image["license"] for image in data["images"]} <= licences
    assert all(entry["name"] and entry["url"].startswith("https://") for entry in data["licenses"])


# Other shipped indexes and records ---------------------------------------------------------------------------

INDEXES = {
    "lite1": ("effnet-lite1", "pyramid:4"),
    "lite2": ("effnet-lite2", "pyramid:4"),
    "pooled": (DEFAULT_ENCODER, "pyramid:4"),
    "salient": (DEFAULT_ENCODER, "pyramid:1+salient:29"),
}


def test_only_known_indexes_are_shipped(sample_db):
    assert sorted(path.name for path in (sample_db / "indexes").iterdir() if path.is_dir()) == sorted(INDEXES)


@pytest.mark.parametrize("name", INDEXES)
def test_the_other_indexes_are_of_these_pictures(name, sample_db, sample_gallery):
    index = PatchIndex.load(sample_db / "indexes" / name)
    index.check_pictures(sample_db, content=True)
    assert index.root == sample_db.resolve()
    assert (index.encoder.spec, index.regions.spec) == INDEXES[name]
    assert index.factory == PRESETS["small"] and index.bytes_per_patch == 256
    assert index.regions.stages[0].spec == "pyramid:1"  # the page compares with the global baseline
    assert [image.id for image in index.images] == [image.id for image in sample_gallery.images]


@pytest.mark.parametrize("row", [3, 100])
def test_the_salient_index_contains_the_boxes_and_descriptors(row, sample_db, sample_gallery, lite0):
    index = PatchIndex.load(sample_db / "indexes" / "salient")
    picture = read_picture(sample_gallery.images[row].path)
    boxes = index.regions.boxes_in(picture)
    np.testing.assert_allclose(index.boxes_of(row), boxes, atol=0.01)
    fresh = index.project(describe(picture, boxes[[0, 1, 15]], lite0))
    assert (np.einsum("pd,pd->p", fresh, index.descriptors_of(row)[[0, 1, 15]]) > 0.99).all()


@pytest.mark.parametrize("row", [3, 100])
def test_the_pooled_index_contains_the_encoders_maps(row, sample_db, sample_gallery, lite0):
    index = PatchIndex.load(sample_db / "indexes" / "pooled")
    assert index.features == "pooled:640" and index.maps is not None
    assert max(len(index.maps.packed(each)) for each in range(len(index.maps))) <= 200_000
    pooled = load_extractor(index.features, lite0)
    picture = read_picture(sample_gallery.images[row].path)
    fresh = pooled.picture_map(picture)
    assert np.abs(fresh.cells - index.maps[row].cells).max() < 0.05  # 8 bits of a range of 6
    boxes = fractions(index.boxes_of(row), *picture.size)
    described = index.project(describe_boxes(fresh.cells, boxes, lite0))
    assert (np.einsum("pd,pd->p", described, index.descriptors_of(row)) > 0.99).all()


@pytest.mark.parametrize("study", ["encoders", "regions", "compression", "rerank", "features", "boxes"])
def test_shipped_numbers_are_of_this_gallery(study, sample_gallery):
    numbers = json.loads((ASSETS / "study" / f"{study}.json").read_text(encoding="utf-8"))
    assert (numbers["program"], numbers["study"]) == ("patchify study", study)
    assert numbers["datasets"]["sample_db"]["digest"] == gallery_digest(sample_gallery)
    assert str(Path.home()) not in json.dumps(numbers) and "/work/" not in json.dumps(numbers)
    assert tables(numbers).count("|") > 20


def test_shipped_numbers_are_reproduced_by_the_shipped_index(sample_engine, sample_gallery):
    """They are of this version of the code: L3 scores as in the study, as far as 8-bit codes allow."""
    found = [
        score_matches(sample_engine.search(query.path, query.box, top=None), sample_gallery, query)
        for query in sample_gallery.queries
    ]
    numbers = json.loads((ASSETS / "study" / "encoders.json").read_text(encoding="utf-8"))
    row = next(
        row
        for row in numbers["rows"]
        if (row["dataset"], row["encoder"], row["level"]) == ("sample_db", DEFAULT_ENCODER, 4)
    )
    assert np.mean([score.ap for score in found]) == pytest.approx(row["map"], abs=0.003)
    assert np.mean([score.locscore for score in found]) == pytest.approx(row["locscore"], abs=0.003)
