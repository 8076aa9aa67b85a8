"""index.shards.ray with two real workers on this machine: identical bytes, and lost workers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from patchify_core.encoders import EncoderSettings
from patchify_core.gallery import read_gallery
from patchify_core.imaging.pictures import read_picture
from patchify_core.index.patch_index import PatchIndex
from patchify_core.index.recipe import Recipe
from patchify_core.index.shards import EmbedSettings, RaySettings, embed_gallery
from patchify_core.index.shards import ray as pool
from patchify_core.index.shards.folder import ShardFolder
from patchify_core.index.shards.worker import EmbedPlan
from patchify_core.regions import Pyramid, parse_regions
from tests import embedders
from tests.tiny import INFO, TinyEncoder, write_pictures

pytestmark = pytest.mark.skipif(
    find_spec("ray") is None or find_spec("pyarrow") is None,
    reason="Ray Data is not installed (pip install -r requirements-ray.txt)",
)

TWO = RaySettings(workers=2, load=embedders.load)
FOUR = EmbedSettings(shard_images=4)


@pytest.fixture(scope="module")
def orders(tmp_path_factory):
    """The folder through which tests talk to the encoders in the workers."""
    folder = tmp_path_factory.mktemp("orders")
    os.environ[embedders.VARIABLE] = str(folder)
    yield folder
    del os.environ[embedders.VARIABLE]


@pytest.fixture(scope="module")
def cluster(orders):
    """Our own Ray, started once for all tests of this file, on two cores whatever this machine has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "cpu_count", lambda: 2)
        with pool._connected(RaySettings()) as ray:
            yield ray


@pytest.fixture
def pictures(tmp_path, cluster, orders):
    for path in orders.iterdir():
        path.unlink()
    return write_pictures(tmp_path / "pictures", range(24))


def embed(folder, out, ray=TWO, **named):
    return embed_gallery(read_gallery(folder), out, TinyEncoder(), settings=FOUR, ray=ray, **named)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "holder.json"}


def name_of(path):
    return embedders.called(read_picture(path))


def times_embedded(orders):
    return Counter(name for _, name in embedders.logged(orders))


def test_the_same_bytes_as_without_ray_and_nothing_on_the_terminal(pictures, tmp_path, orders, capfd):
    (pictures / "0005.png").write_bytes((pictures / "0005.png").read_bytes()[:-40])
    here = embed_gallery(read_gallery(pictures), tmp_path / "here", TinyEncoder(), settings=FOUR)
    steps = []
    report = embed(pictures, tmp_path / "ray", progress=lambda done, total: steps.append((done, total)))
    assert contents(tmp_path / "here") == contents(tmp_path / "ray")
    assert replace(report, seconds=0) == replace(here, seconds=0) and len(report.skipped) == 1
    assert set(times_embedded(orders).values()) == {1} and len(times_embedded(orders)) == 23
    assert [done for done, _ in steps] == [4, 8, 12, 16, 20, 24] and {total for _, total in steps} == {24}
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")
    again = embed(pictures, tmp_path / "ray")
    assert (again.embedded, again.reused, again.skipped) == (0, 6, report.skipped)
    assert sum(times_embedded(orders).values()) == 23


def test_boxes_and_maps_come_from_workers_too(pictures, tmp_path):
    settings, regions = EmbedSettings("pooled:64", 4, keep_maps=True), parse_regions("pyramid:1+salient:3")
    for name, ray in (("here", None), ("ray", TWO)):
        embed_gallery(read_gallery(pictures), tmp_path / name, TinyEncoder(), regions, settings, ray=ray)
    assert contents(tmp_path / "here") == contents(tmp_path / "ray")
    assert {path.suffix for path in (tmp_path / "ray").glob("shard-00005.*")} >= {".boxes", ".maps"}


def test_a_worker_that_dies_over_a_picture_is_replaced_and_no_picture_is_lost(pictures, tmp_path, orders, capfd):
    # It dies before it has embedded anything of shard 2, so that each picture is embedded exactly once.
    (orders / f"once-{name_of(pictures / '0008.png')}").touch()
    report = embed(pictures, tmp_path / "ray")
    assert (report.images, report.embedded, report.lost) == (24, 24, 1)
    assert len(times_embedded(orders)) == 24 and set(times_embedded(orders).values()) == {1}
    embed_gallery(read_gallery(pictures), tmp_path / "here", TinyEncoder(), settings=FOUR)
    assert contents(tmp_path / "here") == contents(tmp_path / "ray")
    assert capfd.readouterr() == ("", "")


def test_a_worker_killed_from_outside_costs_its_one_unfinished_shard(pictures, tmp_path, orders):
    (orders / "slowly").touch()
    killed: list[int] = []

    def kill(done, total):
        if not killed:
            process, _ = embedders.logged(orders)[-1]  # in the middle of something, or just done with it
            os.kill(process, signal.SIGKILL)
            killed.append(process)

    report = embed(pictures, tmp_path / "ray", progress=kill)
    assert killed and report.images == 24
    counted = times_embedded(orders)
    assert len(counted) == 24 and max(counted.values()) <= 2
    twice = {name for name, times in counted.items() if times == 2}
    shards = [{name_of(pictures / f"{seed:04d}.png") for seed in range(k, k + 4)} for k in range(0, 24, 4)]
    assert any(twice <= shard for shard in shards)
    embed_gallery(read_gallery(pictures), tmp_path / "here", TinyEncoder(), settings=FOUR)
    assert contents(tmp_path / "here") == contents(tmp_path / "ray")


def test_a_picture_that_ends_every_worker_is_named_and_the_rest_is_kept(pictures, tmp_path, orders, refused):
    order = orders / f"always-{name_of(pictures / '0021.png')}"
    order.touch()
    said = refused(embed, pictures, tmp_path / "ray", RaySettings(workers=1, load=embedders.load))
    assert "4 workers were lost over shard 5 (pictures 0020.png to 0023.png)" in said
    order.unlink()
    report = embed(pictures, tmp_path / "ray")
    assert (report.images, report.reused) == (24, 5)


def test_stopped_it_goes_on_where_it_was(pictures, tmp_path, orders):
    def stop(done, total):
        if done == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed(pictures, tmp_path / "ray", progress=stop)
    report = embed(pictures, tmp_path / "ray")
    assert report.images == 24 and report.reused >= 3
    embed_gallery(read_gallery(pictures), tmp_path / "here", TinyEncoder(), settings=FOUR)
    assert contents(tmp_path / "here") == contents(tmp_path / "ray")


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        (RaySettings(workers=3, load=embedders.load), "ask for at most 2"),
        (RaySettings(cpus=3, load=embedders.load), "of 3 cores each do not fit"),
        (RaySettings(gpus=1, load=embedders.load), "leave out --gpus"),
        (RaySettings(workers=2, load=embedders.load_other), "other weights of tiny"),
        (RaySettings(workers=2, load=embedders.load_none), "The weights of tiny are not installed"),
    ],
)
def test_what_workers_cannot_do_is_one_sentence(pictures, tmp_path, refused, settings, word):
    assert word in refused(embed, pictures, tmp_path / "ray", settings)


def test_a_worker_of_another_version_or_without_the_folders_says_so(pictures, tmp_path):
    made = (str(pictures), str(tmp_path), Recipe(INFO, Pyramid()), EncoderSettings(), FOUR)
    batch = {"number": [0], "images": ["[]"]}
    for version, word in (("9.9.9", "not 9.9.9"), (pool.__version__, "does not see the folder")):
        answer = pool.Actor(EmbedPlan(version, *made), embedders.load)(batch)
        assert word in json.loads(answer["done"][0])["error"]


@pytest.mark.parametrize("address", ["ray://127.0.0.1:1", "nonsense", "host:port"])
def test_what_is_no_address_is_refused(refused, address):
    assert "is not the address" in refused(pool._check_answers, address)


def test_an_address_that_does_not_answer_is_refused_soon(refused, monkeypatch):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        assert "No Ray cluster answers" in refused(pool._check_answers, address)
        listener.listen()
        monkeypatch.setattr(pool, "CONNECT_S", 3)
        assert "accepts no connection within 3 seconds" in refused(pool._check_answers, address)


def test_every_port_of_our_own_ray_is_on_loopback(cluster):
    """Linux tells which ports are listened on, and by which addresses."""
    table = Path("/proc/net/tcp")
    if not table.exists():
        pytest.skip("this system has no /proc/net/tcp")
    assert cluster.get_runtime_context().gcs_address.startswith("127.0.0.1:")
    port = int(cluster.get_runtime_context().gcs_address.rpartition(":")[2])
    wanted = f":{port:04X}"
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    heard = [row[1].rpartition(":")[0] for row in rows if row[3] == "0A" and row[1].endswith(wanted)]
    assert heard and all(address in ("0100007F", "0000000000000000FFFF00000100007F") for address in heard)


def test_the_command_with_ray(pictures, tmp_path, run, monkeypatch):
    monkeypatch.setattr("patchify_core.encoders.load_encoder", embedders.load)
    arguments = ("embed", pictures, "--out", tmp_path / "ray", "--shard-images", 4, "--ray", "--workers", 2, "--json")
    code, said, _ = run(*arguments)
    assert code == 0 and json.loads(said)["embedded"] == 24


def test_index_with_ray_embeds_and_builds_and_keeps_the_shards(pictures, tmp_path, run, monkeypatch):
    monkeypatch.setattr("patchify_core.encoders.load_encoder", embedders.load)
    arguments = ("index", pictures, "--out", tmp_path / "index", "--ray", "--workers", 2, "--shard-images", 4)
    code, _, told = run(*arguments)
    assert code == 0 and "24 embedded" in told
    index = PatchIndex.load(tmp_path / "index")
    assert len(index.images) == 24 and index.root == pictures.resolve()
    index.check_pictures(index.root, content=True)
    assert len(ShardFolder(tmp_path / "index.shards")) == 24
    code, _, told = run(*arguments, "--like", tmp_path / "index")
    assert code == 2 and "--like does not work with --ray" in told


def test_index_with_ray_makes_the_codec_that_is_asked_for(pictures, tmp_path, run, monkeypatch):
    monkeypatch.setattr("patchify_core.encoders.load_encoder", embedders.load)
    codec = ("--factory", "PCAH8,SQ8", "--rescore", "SQ8", "--codebook", "informative")
    code, said, told = run("index", pictures, "--out", tmp_path / "index", "--ray", "--workers", 2, *codec)
    assert code == 0 and "PCAH8,SQ8, as requested." in said, told
    assert run("index", pictures, "--out", tmp_path / "here", *codec)[0] == 0
    for path in (tmp_path / "here").iterdir():
        assert (tmp_path / "index" / path.name).read_bytes() == path.read_bytes(), path.name


def test_index_with_ray_brings_descriptors_into_milvus(pictures, tmp_path, run, monkeypatch):
    pytest.importorskip("milvus_lite", reason="Milvus Lite is not installed: pip install -r requirements-milvus.txt")
    from patchify_core.index.milvus.store import MilvusStore

    monkeypatch.setattr("patchify_core.encoders.load_encoder", embedders.load)
    store = ("--store", "milvus", "--uri", tmp_path / "patches.db", "--regions", "pyramid:1+salient:3")
    arguments = ("index", pictures, "--out", tmp_path / "index", "--ray", "--workers", 2, *store)
    for codec, why in (("SQ8", "stores full vectors"), ("PCAH8,SQ8", "stores full vectors")):
        code, _, told = run(*arguments, "--factory", codec)
        assert code == 2 and why in told and not (tmp_path / "index.shards").exists()
    code, said, told = run(*arguments)
    assert code == 0 and "24 embedded" in told and "24 written, 0 already there" in said, told
    assert run("index", pictures, "--out", tmp_path / "here", "--regions", "pyramid:1+salient:3")[0] == 0
    index = PatchIndex.load(tmp_path / "here")
    with closing(MilvusStore.open(tmp_path / "index")) as found:
        assert found.root == pictures.resolve() and len(found.images) == 24
        for row in (0, 11, 23):
            query = index.descriptors_of(row)[1]
            assert found.search(query, 5).rows.tolist() == index.search(query, 5).rows.tolist()
            np.testing.assert_allclose(found.boxes_of(row), index.boxes_of(row), atol=1e-4)
    (pictures / "0005.png").unlink()  # as without Ray: what is new is embedded, what vanished leaves the collection
    code, said, _ = run(*arguments)
    assert code == 0 and "23 pictures" in said and "0 written, 23 already there" in said


def test_index_with_ray_takes_salient_regions_and_keeps_maps(pictures, tmp_path, run, monkeypatch):
    monkeypatch.setattr("patchify_core.encoders.load_encoder", embedders.load)
    how = ("--regions", "pyramid:1+salient:11", "--features", "pooled:64", "--keep-maps", "--workers", 2)
    for name, more in (("big", ()), ("fitting", ("--memory", 1))):
        code, _, told = run("index", pictures, "--out", tmp_path / name, "--ray", *how, *more)
        assert code == 0, told
        index = PatchIndex.load(tmp_path / name)
        assert index.boxes.shape == (24, 12, 4) and len(index.maps) == 24
        assert (index.plan is None) == (name == "fitting")


def test_a_cluster_by_its_address(pictures, tmp_path, monkeypatch):
    """A head that somebody else has started; in processes of their own, because one knows one Ray only."""
    program = (
        "import sys; from pathlib import Path; from tests import embedders, tiny;"
        "from patchify_core.index.shards import EmbedSettings, RaySettings, embed_gallery;"
        "from patchify_core.gallery import read_gallery;"
        "ray = RaySettings(sys.argv[3], 2, load=embedders.load);"
        "print(embed_gallery(read_gallery(sys.argv[1]), sys.argv[2], tiny.TinyEncoder(),"
        " settings=EmbedSettings(shard_images=4), ray=ray).embedded)"
    )
    head = (
        "import os; os.environ['RAY_USAGE_STATS_ENABLED'] = '0'; import ray, sys;"
        "ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100_000_000);"
        "print(ray.get_runtime_context().gcs_address, flush=True); sys.stdin.read()"
    )
    variables = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    variables.pop(embedders.VARIABLE)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen([sys.executable, "-c", head], env=variables, **pipes) as started:
        try:
            address = started.stdout.readline().strip()
            found = subprocess.run(
                [sys.executable, "-c", program, str(pictures), str(tmp_path / "ray"), address],
                env=variables,
                capture_output=True,
                text=True,
                timeout=120,
            )
        finally:
            started.stdin.close()
    assert found.stdout.strip() == "24", found.stderr
    embed_gallery(read_gallery(pictures), tmp_path / "here", TinyEncoder(), settings=FOUR)
    assert contents(tmp_path / "here") == contents(tmp_path / "ray")
