"""Finer codes added to a big index later, against an index that was built with them."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from pathlib import Path

import faiss
import numpy as np
import pytest

from patchify_core.errors import IndexFolderError, PatchifyError
from patchify_core.index.big import add_finer as add_finer_in_parts
from patchify_core.index.big import build_big
from patchify_core.index.patch_index import PatchIndex
from patchify_core.index.swap import BuildFolder
from tests.big import SETTINGS, Clusters

add_finer = functools.partial(add_finer_in_parts, part_pictures=SETTINGS.part_pictures)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    faiss.omp_set_num_threads(1)
    out = tmp_path_factory.mktemp("finer") / "index"
    build_big(Clusters(), out, SETTINGS)
    return out


@pytest.fixture
def standing(plain: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain, tmp_path / "index"))


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("rescore", ["SQ8", "SQ6", "Flat", "SQfp16", "PQ2"])
def test_it_is_the_index_that_is_built_with_them(rescore: str, standing: Path, tmp_path: Path) -> None:
    report = add_finer(Clusters(), standing, rescore)
    build_big(Clusters(), tmp_path / "whole", dataclasses.replace(SETTINGS, rescore=rescore))
    assert bytes_of(standing) == bytes_of(tmp_path / "whole")
    assert report.images == report.coded == 450 and report.bytes == sum(map(len, bytes_of(standing).values()))
    assert not (tmp_path / "index.partial").exists()


class Stop(Exception):
    pass


def test_stopped_anywhere_it_goes_on_and_the_old_index_serves(
    standing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("patchify_core.index.big.parts.CODED_PATCHES", 250)
    old = bytes_of(standing)
    for limit, begun in ((50, 0), (250, 2), (350, 3)):

        def stop(done: int, total: int, limit: int = limit) -> None:
            if done >= limit:
                raise Stop

        with pytest.raises(Stop):
            add_finer(Clusters(), standing, "SQ8", stop)
        assert bytes_of(standing) == old
        with open(tmp_path / "index.partial" / f"part-{begun:05d}.fine", "ab") as file:
            file.write(b"half a batch")  # as a power cut leaves it
    report = add_finer(Clusters(), standing, "SQ8")
    assert report.coded == 150  # three parts of 100 were whole
    build_big(Clusters(), tmp_path / "whole", dataclasses.replace(SETTINGS, rescore="SQ8"))
    assert bytes_of(standing) == bytes_of(tmp_path / "whole")


@pytest.mark.parametrize(("damage", "coded"), [("codes", 350), ("codec", 250), ("journal", 450), ("other codec", 450)])
def test_what_a_stopped_run_left_is_not_trusted(
    damage: str, coded: int, standing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("patchify_core.index.big.parts.CODED_PATCHES", 250)

    def stop(done: int, total: int) -> None:
        if done >= 250:
            raise Stop

    with pytest.raises(Stop):
        add_finer(Clusters(), standing, "SQ8", stop)
    private = tmp_path / "index.partial"
    broken = {"codes": "part-00001.fine", "codec": "learned.npz"}.get(damage)
    journal = private / "journal.jsonl"
    if broken is not None:
        found = bytearray((private / broken).read_bytes())
        found[len(found) // 2] ^= 1
        (private / broken).write_bytes(found)
    elif damage == "journal":
        journal.write_text("{")
    else:  # the parts were coded with another codec than the one that is there
        learned, *parts = map(json.loads, journal.read_text().splitlines())
        lines = [learned, *(part | {"learned": "0" * 64} for part in parts)]
        journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert add_finer(Clusters(), standing, "SQ8").coded == coded
    build_big(Clusters(), tmp_path / "whole", dataclasses.replace(SETTINGS, rescore="SQ8"))
    assert bytes_of(standing) == bytes_of(tmp_path / "whole")


def test_a_projected_stream_needs_the_same_projection(plain: Path, tmp_path: Path) -> None:
    learned = PatchIndex.load(plain).projection
    assert learned is not None

    class Projected(Clusters):
        projection = learned

        def batch(self, start, stop):  # type: ignore[no-untyped-def]
            table, vectors = super().batch(start, stop)
            return table, learned(vectors.reshape(-1, vectors.shape[2])).reshape(*vectors.shape[:2], -1)

    out = Path(shutil.copytree(plain, tmp_path / "index"))
    add_finer(Projected(), out, "Flat")
    index = PatchIndex.load(out)
    np.testing.assert_array_equal(index.descriptors_of(3), Projected().batch(0, SETTINGS.part_pictures)[1][3])
    other = dataclasses.replace(learned, mean=learned.mean + 1)
    Projected.projection = other
    with pytest.raises(PatchifyError, match="another projection"):
        add_finer(Projected(), Path(shutil.copytree(plain, tmp_path / "again")), "Flat")


def test_what_cannot_be_is_one_sentence(standing: Path, tmp_path: Path) -> None:
    with pytest.raises(PatchifyError, match="has 450 pictures, and the shards have 400"):
        add_finer(Clusters(400), standing, "SQ8")
    renamed = Clusters()
    renamed.table = Clusters(451).table[1:]
    with pytest.raises(PatchifyError, match="lists other pictures"):
        add_finer(renamed, standing, "SQ8")
    with pytest.raises(PatchifyError, match="the finer codes of a big index are"):
        add_finer(Clusters(), standing, "IVF4,Flat")
    with pytest.raises(IndexFolderError):
        add_finer(Clusters(), tmp_path / "nothing", "SQ8")
    add_finer(Clusters(), standing, "SQ8")
    with pytest.raises(IndexFolderError, match="has other finer codes"):
        add_finer(Clusters(), standing, "SQ6")


def test_the_same_command_again_does_nothing(standing: Path) -> None:
    add_finer(Clusters(), standing, "SQ8")
    there = bytes_of(standing)
    report = add_finer(Clusters(), standing, "SQ8")
    assert report.coded == 0 and report.bytes == sum(map(len, there.values())) and bytes_of(standing) == there


def test_another_index_that_came_meanwhile_is_not_mixed_with_this_one(
    standing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    build_big(Clusters(), other, dataclasses.replace(SETTINGS, seed=5))

    def meanwhile(out: Path) -> BuildFolder:
        if out == standing:  # as a build does that ends between the checks and the lock
            shutil.rmtree(out)
            shutil.copytree(other, out)
        return BuildFolder(out)

    monkeypatch.setattr("patchify_core.index.build.BuildFolder", meanwhile)
    with pytest.raises(IndexFolderError, match="meanwhile"):
        add_finer(Clusters(), standing, "SQ8")
    assert bytes_of(standing) == bytes_of(other)
