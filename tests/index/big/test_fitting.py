"""The index of shards for a memory budget, against the one built from the pictures."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from patchify_core.errors import IndexFolderError, PatchifyError
from patchify_core.gallery import read_gallery
from patchify_core.index.big import ScaleSettings, build_big, build_fitting, choose
from patchify_core.index.build import BuildSettings, build_index
from patchify_core.index.codec.projection import Projection
from patchify_core.index.patch_index import PatchIndex
from patchify_core.index.shards import embed_gallery
from patchify_core.index.shards.folder import ShardFolder
from tests.big import SETTINGS, Clusters
from tests.tiny import TinyEncoder, write_pictures

pytestmark = pytest.mark.usefixtures("one_thread")
AMPLE = ScaleSettings(memory_gb=16)


def tight(stream: Clusters, dim: int) -> ScaleSettings:
    """A budget that exact descriptors do not fit."""
    exact = choose(len(stream), stream.regions.patches_per_image, 16, dim).memory_gb
    return ScaleSettings(memory_gb=exact - 1e-9)


@pytest.mark.parametrize("factory", ["Flat", "PCAH16,PQ16"])
def test_it_is_the_index_that_is_built_of_the_pictures(factory: str, tmp_path: Path) -> None:
    gallery = read_gallery(write_pictures(tmp_path / "pictures", range(30)))
    embed_gallery(gallery, tmp_path / "shards", TinyEncoder())
    stream = ShardFolder(tmp_path / "shards")
    settings = AMPLE if factory == "Flat" else tight(stream, stream.encoder.dim)  # type: ignore[arg-type]
    out, expected = tmp_path / "out", tmp_path / "expected"
    shown: list[tuple[int, int]] = []
    report = build_fitting(stream, out, settings, lambda *done: shown.append(done), gallery.root)
    build_index(gallery, expected, TinyEncoder(), settings=BuildSettings(factory))
    for path in expected.iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes(), path.name
    assert report.factory == factory and "Every patch is compared" in report.why
    assert (report.images, report.patches, report.coded) == (30, 900, 30)
    assert shown == [(done, 30) for done in range(1, 31)] and not (tmp_path / "out.partial").exists()
    tiny = TinyEncoder()
    write_pictures(gallery.root, [77])
    assert build_index(read_gallery(gallery.root), out, tiny, settings=BuildSettings(factory)).embedded == 1


def test_finer_codes_are_kept_where_they_add_something(tmp_path: Path) -> None:
    stream = Clusters()
    report = build_fitting(stream, tmp_path / "exact", dataclasses.replace(AMPLE, rescore="SQ8"))
    assert PatchIndex.load(tmp_path / "exact").fine is None and "(SQ8) would add nothing" in report.why
    short = dataclasses.replace(tight(stream, stream.encoder.dim), rescore="SQ8")
    report = build_fitting(stream, tmp_path / "short", short)
    index = PatchIndex.load(tmp_path / "short")
    assert index.factory == "PCAH16,PQ16" and index.rescore == "SQ8" and "add nothing" not in report.why
    query = index.project(stream.vectors[7, 2:3])[0]
    assert index.search(query, 1).rows.tolist() == [7]


def test_what_is_projected_already_is_not_projected_again(tmp_path: Path) -> None:
    learned = Projection.learn(Clusters().vectors.reshape(-1, Clusters().vectors.shape[2]), 16)

    class Projected(Clusters):
        projection = learned

        def batch(self, start, stop):  # type: ignore[no-untyped-def]
            table, vectors = super().batch(start, stop)
            return table, learned(vectors.reshape(-1, vectors.shape[2])).reshape(*vectors.shape[:2], -1)

    stream = Projected()
    for settings, factory in ((AMPLE, "PCAH16,Flat"), (tight(stream, 16), "PCAH16,PQ16")):
        out = tmp_path / factory
        assert build_fitting(stream, out, settings).factory == factory
        index = PatchIndex.load(out)
        assert index.projection is not None and index.projection.to_bytes() == learned.to_bytes()
        query = index.project(Clusters().vectors[9, 1:2])[0]
        assert index.search(query, 1).rows.tolist() == [9]
        if factory.endswith("Flat"):
            np.testing.assert_allclose(index.descriptors_of(9), stream.batch(9, 10)[1][0], atol=1e-6)


@pytest.mark.parametrize("rescore", [None, "SQ8"])
def test_a_codec_that_is_asked_for_is_the_one_of_the_pictures(rescore: str | None, tmp_path: Path) -> None:
    gallery = read_gallery(write_pictures(tmp_path / "pictures", range(30)))
    embed_gallery(gallery, tmp_path / "shards", TinyEncoder())
    asked = {"factory": "PCAH8,IVF4,PQ4x4", "codebook": "informative", "rescore": rescore}
    out, expected = tmp_path / "out", tmp_path / "expected"
    report = build_fitting(ShardFolder(tmp_path / "shards"), out, ScaleSettings(**asked), None, gallery.root)
    build_index(gallery, expected, TinyEncoder(), settings=BuildSettings(**asked))
    for path in expected.iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes(), path.name
    assert (report.factory, report.why) == (asked["factory"], "PCAH8,IVF4,PQ4x4, as requested.")


def test_a_codec_that_cannot_be_had_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Projected(Clusters):
        projection = Projection.learn(Clusters().vectors.reshape(-1, Clusters().vectors.shape[2]), 16)

    with pytest.raises(PatchifyError, match="projected already: write SQ8 instead of PCAH8,SQ8"):
        build_fitting(Projected(), tmp_path / "out", ScaleSettings(factory="PCAH8,SQ8"))
    with pytest.raises(PatchifyError, match="did you mean PQ64"):
        build_fitting(Clusters(), tmp_path / "out", ScaleSettings(factory="QP64"))
    monkeypatch.setattr("patchify_core.index.big.plan.MAX_RECORDS", 449)
    with pytest.raises(PatchifyError, match="would have 450 pictures in memory, and the maximum is 449"):
        build_fitting(Clusters(), tmp_path / "out", ScaleSettings(factory="SQ8"))
    assert list(tmp_path.iterdir()) == []


def test_lists_where_comparing_takes_too_long_or_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(name: str, settings: ScaleSettings) -> PatchIndex:
        build_fitting(Clusters(), tmp_path / name, settings)
        return PatchIndex.load(tmp_path / name)

    assert made("no budget", SETTINGS).plan is not None
    assert made("asked for", dataclasses.replace(AMPLE, lists=8)).factory == "IVF8,PQ24"
    with monkeypatch.context() as patched:
        patched.setattr("patchify_core.index.big.plan.MAX_RECORDS", 449)
        assert made("many pictures", AMPLE).plan is not None
    monkeypatch.setattr("patchify_core.index.big.plan.EXHAUSTIVE_PATCHES", 2249)
    assert made("many patches", AMPLE).factory == "PCAH16,IVF128,PQ16"


def test_one_kind_takes_the_place_of_the_other(tmp_path: Path) -> None:
    out = tmp_path / "out"
    build_big(Clusters(), out, SETTINGS)
    build_fitting(Clusters(), out, AMPLE)
    assert PatchIndex.load(out).factory == "Flat"
    build_big(Clusters(), out, SETTINGS)
    assert PatchIndex.load(out).plan is not None


def test_what_cannot_be_is_refused_and_the_old_index_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    build_fitting(Clusters(), out, AMPLE)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(PatchifyError, match="smallest budget"):
        build_fitting(Clusters(), out, ScaleSettings(memory_gb=0.1))
    with pytest.raises(PatchifyError, match="has 10"):
        build_fitting(Clusters(2), out, tight(Clusters(2), Clusters.recipe.encoder.dim))

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_fitting(Clusters(), out, AMPLE, stop)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(IndexFolderError, match="move it elsewhere"):
        build_fitting(Clusters(), out, AMPLE)
    (out / "notes.txt").unlink()
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    shutil.rmtree(tmp_path / "out.partial", ignore_errors=True)
