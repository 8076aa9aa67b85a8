"""index.big: inverted lists against slow references, built in parts, killed, damaged."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest

from patchify_core.errors import IndexFolderError, PatchifyError
from patchify_core.index.big import build_big
from patchify_core.index.big.learned import Lists, _shares
from patchify_core.index.patch_index import PatchIndex, SearchPlan
from patchify_core.regions import parse_regions
from tests.big import SETTINGS, Clusters

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).parents[3]


def built(out: Path, **changed: object) -> PatchIndex:
    build_big(Clusters(), out, dataclasses.replace(SETTINGS, **changed))  # type: ignore[arg-type]
    return PatchIndex.load(out)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    faiss.omp_set_num_threads(1)
    out = tmp_path_factory.mktemp("big") / "index"
    built(out)
    return out


def slow_search(index: PatchIndex, query: np.ndarray, top: int, used: int) -> list[tuple[int, int]]:
    """[(row, cell)]: every decoded patch of every picture compared, one picture at a time."""
    found = []
    for row, image in enumerate(index.images):
        scores = np.einsum("pd,d->p", index.descriptors_of(row), query)[:used]
        found.append((-scores.max(), image.id, row, int(scores.argmax())))
    return [(row, cell) for _, _, row, cell in sorted(found)[:top]]


@pytest.mark.parametrize("rescore", [None, "SQ8", "Flat", "SQfp16", "PQ2"])
def test_a_search_of_all_lists_is_the_slow_one(rescore: str | None, tmp_path: Path) -> None:
    index = built(tmp_path / "i", rescore=rescore)
    index.plan = SearchPlan(16, fetch=2250)  # every patch is proposed, so nothing may differ
    stream = Clusters()
    for row in range(0, 450, 50):
        query = index.project(stream.vectors[row, 1:2])[0]
        for level, used in ((None, 5), (1, 1)):
            hits = index.search(query, 10, level)
            assert list(zip(hits.rows.tolist(), hits.cells.tolist(), strict=True)) == slow_search(
                index, query, 10, used
            )
            for at, cell, score in zip(hits.rows.tolist(), hits.cells.tolist(), hits.scores.tolist(), strict=True):
                scores = index.cell_scores(query, at)[:used]
                assert scores.argmax() == cell and scores.max() == score
    if rescore == "Flat":  # the finest codes are the descriptors themselves
        exact = index.project(stream.vectors.reshape(-1, 24)).reshape(450, 5, 12)
        assert np.array_equal(index.descriptors_of(123), exact[123])


def test_few_patches_asked_for_first_are_followed_by_more(plain: Path) -> None:
    index = PatchIndex.load(plain)
    query = index.project(Clusters().vectors[3, :1])[0]
    index.plan = SearchPlan(16, fetch=1)
    assert len(index.search(query, 60).rows) == 60 and len({*index.search(query, 60).rows.tolist()}) == 60


def test_the_file_is_what_faiss_would_write(plain: Path) -> None:
    """The lists, put together from parts without FAISS, are those of FAISS's own `add` of the same vectors."""
    index = PatchIndex.load(plain)
    stored = faiss.read_index(str(plain / "index.faiss"))
    again = faiss.clone_index(stored)
    again.reset()
    again.add(index.project(Clusters().vectors.reshape(-1, 24)))
    assert stored.ntotal == again.ntotal == 2250
    for number in range(16):
        size = stored.invlists.list_size(number)
        assert size == again.invlists.list_size(number)
        ours, theirs = (faiss.rev_swig_ptr(i.invlists.get_ids(number), size).tolist() for i in (stored, again))
        assert ours == theirs == sorted(ours)
        ours, theirs = (faiss.rev_swig_ptr(i.invlists.get_codes(number), 2 * size).copy() for i in (stored, again))
        assert (ours == theirs).mean() > 0.99  # of equally near centroids rounding may pick another
    assert bytes(faiss.serialize_index(stored)) == (plain / "index.faiss").read_bytes()


def test_how_it_was_cut_into_parts_leaves_no_trace(plain: Path, tmp_path: Path) -> None:
    built(tmp_path / "i", part_pictures=7)
    for path in plain.iterdir():
        assert (tmp_path / "i" / path.name).read_bytes() == path.read_bytes(), path.name


def test_pictures_are_found_by_id_and_row(plain: Path) -> None:
    index, stream = PatchIndex.load(plain), Clusters()
    assert index.images == stream.table and index.row_of[7 + 3 * 44] == 44 and 8 not in index.row_of
    assert index.image_ids.tolist() == stream.table.ids.tolist()
    assert index.box_of(44, 1).tolist() == stream.regions.box(40, 30, 1).tolist()
    assert index.meta()["images"] is None
    with pytest.raises(IndexFolderError, match="cannot be written again"):
        index.write(plain, ".")


def test_killed_at_any_moment_the_same_command_goes_on(plain: Path, tmp_path: Path) -> None:
    out = tmp_path / "index"
    shutil.copytree(plain, out)
    meta = (out / "meta.json").read_bytes()
    kept = 0
    for seen in (1, 2, 3):  # parts seen before the kill
        worker = subprocess.Popen(
            [sys.executable, "-m", "tests.big", str(out)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        assert worker.stdout is not None
        for _ in range(seen):
            worker.stdout.readline()
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        worker.stdout.close()
        journal = tmp_path / "index.partial" / "journal.jsonl"
        parts = journal.read_text().count('"piece": "part-') if journal.exists() else 0
        assert parts >= kept and (out / "meta.json").read_bytes() == meta
        assert len(PatchIndex.load(out).images) == 450
        kept = parts
    assert kept >= 1
    report = build_big(Clusters(), out, SETTINGS)
    assert report.coded <= 450 - 100 * kept and not (tmp_path / "index.partial").exists()
    for path in plain.iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes()


def test_a_torn_part_is_made_again(plain: Path, tmp_path: Path) -> None:
    out = tmp_path / "index"

    def stop(done: int, total: int) -> None:
        if done >= 300:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_big(Clusters(), out, SETTINGS, stop)
    part = next((tmp_path / "index.partial").glob("part-00000.codes"))
    data = bytearray(part.read_bytes())
    data[5] ^= 1
    part.write_bytes(data)
    assert build_big(Clusters(), out, SETTINGS).coded == 350  # of five parts one was whole
    assert (out / "index.faiss").read_bytes() == (plain / "index.faiss").read_bytes()


@pytest.mark.parametrize("name", ["index.faiss", "lists.npy", "pictures.bin", "projection.npy", "meta.json"])
def test_damage_is_refused_before_faiss_reads_it(name: str, plain: Path, tmp_path: Path) -> None:
    data = (plain / name).read_bytes()
    rng = np.random.default_rng(0)
    shutil.copytree(plain, tmp_path / "i")
    for _ in range(12):
        broken = bytearray(data)
        broken[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        (tmp_path / "i" / name).write_bytes(broken)
        with pytest.raises(IndexFolderError):
            PatchIndex.load(tmp_path / "i")
    (tmp_path / "i" / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(IndexFolderError):
        PatchIndex.load(tmp_path / "i")


def test_codes_stay_on_the_disk_after_another_index_took_the_place(plain: Path, tmp_path: Path) -> None:
    shutil.copytree(plain, tmp_path / "i")
    index = PatchIndex.load(tmp_path / "i")
    query = index.project(Clusters().vectors[9, :1])[0]
    before = index.search(query, 5)
    built(tmp_path / "i", seed=3)
    after = index.search(query, 5)
    assert before.rows.tolist() == after.rows.tolist() and before.scores.tolist() == after.scores.tolist()


def test_what_cannot_be_is_one_sentence(plain: Path, tmp_path: Path) -> None:
    salient = Clusters()
    salient.recipe = dataclasses.replace(salient.recipe, regions=parse_regions("salient:5"))
    with pytest.raises(PatchifyError, match="depend on the pixels, and this collection has none"):
        build_big(salient, tmp_path / "i", SETTINGS)
    with pytest.raises(PatchifyError, match="needs at least 5000 patches"):
        built(tmp_path / "i", lists=5000)
    with pytest.raises(PatchifyError, match="choose a divisor of 12"):
        built(tmp_path / "i", code_bytes=5)
    with pytest.raises(PatchifyError, match="finer codes of a big index"):
        built(tmp_path / "i", rescore="IVF4,Flat")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    with pytest.raises(IndexFolderError, match="not an index folder"):
        built(tmp_path / "full")
    other = Clusters()
    other.recipe = dataclasses.replace(other.recipe, regions=parse_regions("random:5"))
    with pytest.raises(IndexFolderError, match="made with regions pyramid:2, not random:5,0"):
        build_big(other, plain, SETTINGS)


def test_nearly_every_vector_gets_its_nearest_list() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((6000, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    lists = Lists.learn(vectors, 1100)
    assert lists.centroids.shape == (1100, 8) and lists.firsts[-1] == 1100 and len(lists.cells) == 32
    exact = (vectors @ lists.centroids.T).argmax(1)
    assert (lists.assign(vectors) == exact).mean() > 0.95


@pytest.mark.parametrize("population", [[5, 0, 1000, 3], [300, 300, 400], [1, 1, 1, 1, 96], [50, 0, 0]])
def test_lists_are_shared_out_by_population(population: list[int]) -> None:
    for count in range(max(1, sum(p > 0 for p in population)), min(sum(population), 60)):
        shares = _shares(np.array(population), count)
        assert (
            shares.sum() == count
            and (shares <= population).all()
            and ((shares > 0) == (np.array(population) > 0)).all()
        )


def test_meta_that_does_not_fit_is_refused(plain: Path, tmp_path: Path) -> None:
    from patchify_core.files import sha256_of_json

    shutil.copytree(plain, tmp_path / "i")
    path = tmp_path / "i" / "meta.json"
    meta = json.loads(path.read_text())
    for search in ({"probes": 17}, {"probes": 0}, {"probes": "x"}, {"lists": 1}, 5):
        edited = {key: value for key, value in meta.items() if key != "digest"} | {"search": search}
        path.write_text(json.dumps(edited | {"digest": sha256_of_json(edited)}))
        with pytest.raises(IndexFolderError):
            PatchIndex.load(tmp_path / "i")
