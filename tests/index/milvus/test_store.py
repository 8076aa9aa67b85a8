"""MilvusStore against a real Milvus Lite: in a file, and as a server with and without TLS and a token."""

from __future__ import annotations

import io
import json
import socket
import subprocess
import sys
import time
from contextlib import closing

import numpy as np
import pytest

pytest.importorskip("pymilvus", reason="pymilvus is not installed: pip install -r requirements-milvus.txt")
pytest.importorskip("milvus_lite", reason="Milvus Lite is not installed: pip install -r requirements-milvus.txt")

import grpc

from patchify_core.files import sha256_of_json
from patchify_core.gallery import read_gallery
from patchify_core.index import open_store
from patchify_core.index.build import BuildSettings, build_index
from patchify_core.index.codec.codes import Codes
from patchify_core.index.integrity import Digests
from patchify_core.index.milvus.build import Target, stream_to_milvus
from patchify_core.index.milvus.connect import Address, MilvusConnection
from patchify_core.index.milvus.store import MilvusStore
from patchify_core.index.patch_index import PatchIndex
from patchify_core.index.pictures import Pictures, PictureTable
from patchify_core.index.recipe import Recipe
from patchify_core.index.shards import embed_gallery
from patchify_core.index.shards.folder import ShardFolder
from patchify_core.index.store import PatchStore, PictureStream
from patchify_core.regions import parse_regions
from tests.tiny import INFO, TinyEncoder, write_dataset, write_pictures


@pytest.fixture
def gallery(tmp_path):
    return read_gallery(write_pictures(tmp_path / "pictures", range(12)))


@pytest.fixture
def target(tmp_path):
    return Target(Address.of(str(tmp_path / "patches.db")), "patches")


@pytest.fixture
def serve(tmp_path):
    """serve(token=None, tls=None): the address of a Milvus Lite that listens on a port, as a server does."""
    from milvus_lite.adapter.grpc import server as lite
    from milvus_lite.db import MilvusLite

    running = []

    def start(token=None, tls=None):
        from base64 import b64encode

        db = MilvusLite(str(tmp_path / f"server{len(running)}"))
        wanted = b64encode(token.encode()) if token else None

        class Door(grpc.ServerInterceptor):
            def intercept_service(self, go_on, call):
                if wanted is None or dict(call.invocation_metadata).get("authorization") in (wanted, wanted.decode()):
                    return go_on(call)

                def refuse(request, context):
                    context.abort(grpc.StatusCode.UNAUTHENTICATED, "auth check failure, please check api key")

                return grpc.unary_unary_rpc_method_handler(refuse)

        from concurrent.futures import ThreadPoolExecutor

        from pymilvus.grpc_gen import milvus_pb2_grpc

        server = grpc.server(ThreadPoolExecutor(4), interceptors=[Door()])
        milvus_pb2_grpc.add_MilvusServiceServicer_to_server(lite.MilvusServicer(db), server)
        port = (
            server.add_insecure_port("127.0.0.1:0")
            if tls is None
            else server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([tls]))
        )
        server.start()
        running.append((server, db))
        return f"{'http' if tls is None else 'https'}://127.0.0.1:{port}", server

    yield start
    for server, db in running:
        server.stop(0).wait()
        db.close()


def same(store, index, tops=(1, 5, None)):
    """Asserts that both give the same pictures, cells and scores for queries near and far, at each level."""
    rng = np.random.default_rng(1)
    queries = [index.descriptors_of(row)[cell] for row, cell in ((0, 0), (3, 7), (len(index.images) - 1, 2))]
    queries += list(rng.standard_normal((2, index.dim)).astype(np.float32))
    for query in queries:
        query = query / np.linalg.norm(query)
        for top in tops:
            for level in (None, 1, 2):
                mine, theirs = store.search(query, top, level), index.search(query, top, level)
                assert store.image_ids[mine.rows].tolist() == index.image_ids[theirs.rows].tolist()
                assert mine.cells.tolist() == theirs.cells.tolist()
                np.testing.assert_allclose(mine.scores, theirs.scores, atol=1e-5)
    np.testing.assert_allclose(store.cell_scores(query, 1), index.cell_scores(query, 1), atol=1e-5)


def build_in_milvus(gallery, out, encoder, target, regions=None, settings=None, progress=None):
    return build_index(gallery, out, encoder, regions, settings, progress, target=target)


def built(gallery, tmp_path, target, regions="pyramid:3", **settings):
    settings = BuildSettings(**settings)
    report = build_in_milvus(gallery, tmp_path / "index", TinyEncoder(), target, parse_regions(regions), settings)
    return report, MilvusStore.open(tmp_path / "index")


def test_it_finds_what_a_flat_index_finds_in_all_three_ways(gallery, tmp_path, target):
    _, store = built(gallery, tmp_path, target)
    build_index(gallery, tmp_path / "flat", TinyEncoder(), parse_regions("pyramid:3"))
    index = PatchIndex.load(tmp_path / "flat")
    same(store, index)
    store.finder.most = 30  # rows at a time: whole rankings are put together from runs of pictures
    same(store, index)
    store.finder.groups, store.finder.most = True, 16384
    same(store, index, tops=(1, 3))
    assert store.finder.groups
    assert store.meta()["store"]["kind"] == "milvus" and store.bytes_per_patch == 4 * INFO.dim
    assert isinstance(open_store(tmp_path / "index"), MilvusStore)
    store.close()


def test_it_finds_what_faiss_finds_in_the_bundled_gallery(sample_db, tmp_path):
    import faiss

    bundled = PatchIndex.load(sample_db / "index")
    vectors = np.stack([bundled.descriptors_of(row) for row in range(len(bundled.images))])
    codes = faiss.IndexFlatIP(bundled.dim)
    codes.add(vectors.reshape(-1, bundled.dim))
    recipe = Recipe(bundled.encoder, bundled.regions, bundled.features)
    index = PatchIndex(recipe, Pictures(bundled.images), Codes("Flat", codes))

    class Stream(PictureStream):
        recipe = index.recipe

        def __len__(self):
            return len(vectors)

        def batch(self, start, stop):
            return PictureTable.of(list(bundled.images)[start:stop]), vectors[start:stop]

    target = Target(Address.of(str(tmp_path / "patches.db")))
    report = stream_to_milvus(Stream(), sample_db, tmp_path / "index", target)
    assert report.images == len(vectors) and report.reused == 0
    store = MilvusStore.open(tmp_path / "index")
    same(store, index, tops=(10,))
    hits, expected = store.search(vectors[5, 3]), index.search(vectors[5, 3])
    assert hits.rows.tolist() == expected.rows.tolist() and hits.cells.tolist() == expected.cells.tolist()
    assert stream_to_milvus(Stream(), sample_db, tmp_path / "index", target).reused == len(vectors)
    store.close()


@pytest.mark.parametrize("kind", ["HNSW", "IVF_SQ8"])
def test_other_kinds_of_index_find_a_picture_itself(gallery, tmp_path, target, kind):
    _, store = built(gallery, tmp_path, Target(target.address, "patches", kind))
    for row in range(len(gallery.images)):
        hits = store.search(store.descriptors_of(row)[0], 1)
        assert hits.rows.tolist() == [row] and hits.scores[0] == pytest.approx(1, abs=1e-5)
    assert store.collection.kind == kind
    store.close()
    _, store = built(gallery, tmp_path, target)  # without a word it stays as it is
    assert store.collection.kind == kind
    store.close()


def test_a_second_build_embeds_what_is_new_and_deletes_what_vanished(tmp_path, target):
    folder = write_pictures(tmp_path / "pictures", range(6))
    first, store = built(read_gallery(folder), tmp_path, target)
    numbers = store.listing.numbers.tolist()
    store.close()
    (folder / "0000.png").unlink()
    (folder / "0001.png").rename(folder / "9999.png")
    write_pictures(folder, [20])
    (folder / "copy.png").write_bytes((folder / "0020.png").read_bytes())
    second, store = built(read_gallery(folder), tmp_path, target)
    assert (first.embedded, second.embedded, second.images) == (6, 1, 7)
    assert store.collection.count() == 6 * 14
    assert {*numbers} & {*store.listing.numbers.tolist()} == {*numbers[1:]}
    build_index(read_gallery(folder), tmp_path / "flat", TinyEncoder(), parse_regions("pyramid:3"))
    same(store, PatchIndex.load(tmp_path / "flat"))
    store.close()
    again, store = built(read_gallery(folder), tmp_path, target)
    assert again.embedded == 0 and store.collection.count() == 6 * 14
    store.close()


class Stop(Exception):
    pass


def stop_at(number, times=1):
    """A progress that stops a build when `number` pictures are done for the `times`-th time."""
    seen = []

    def stop(done, total):
        seen.append(done)
        if seen.count(number) == times:
            raise Stop

    return stop


def test_a_stopped_build_goes_on_and_pictures_there_in_part_are_written_again(gallery, tmp_path, target):
    for times in (1, 2):  # while they are embedded, and when all are in the collection
        with pytest.raises(Stop):
            three = parse_regions("pyramid:3")
            stop = stop_at((5, 12)[times - 1], times)
            build_in_milvus(gallery, tmp_path / "index", TinyEncoder(), target, three, progress=stop)
        assert not (tmp_path / "index").exists()
    with MilvusConnection(target.address) as connection:  # as a server leaves it that fails in the middle
        connection.call("delete", connection.client.delete, "patches", filter="id in [3]")
    report, store = built(gallery, tmp_path, target)
    assert report.embedded == 0  # what Milvus lost is in the shards of the build
    assert store.collection.count() == len(gallery.images) * 14
    store.close()
    with MilvusConnection(target.address) as connection:
        connection.call("delete", connection.client.delete, "patches", filter="id in [17]")
    report, store = built(gallery, tmp_path, target)
    assert report.embedded == 1 and store.collection.count() == len(gallery.images) * 14
    store.close()


def test_a_stopped_build_embeds_what_is_missing_alone(gallery, tmp_path, target):
    with pytest.raises(Stop):
        three = parse_regions("pyramid:3")
        build_in_milvus(gallery, tmp_path / "index", TinyEncoder(), target, three, progress=stop_at(5))
    report, store = built(gallery, tmp_path, target)
    assert (report.embedded, report.reused) == (len(gallery.images) - 5, 5)
    assert not (tmp_path / "index.partial").exists()
    store.close()


def test_a_projection_that_was_learned_is_kept_by_a_build_that_is_stopped(gallery, tmp_path, target):
    settings = BuildSettings("PCAH8,Flat")
    with pytest.raises(Stop):  # the projection is learned, the vectors are in the collection, and no folder names it
        stop = stop_at(len(gallery.images), 2)
        build_in_milvus(gallery, tmp_path / "index", TinyEncoder(), target, None, settings, stop)
    more = read_gallery(write_pictures(gallery.root, [40, 41]))
    report = build_in_milvus(more, tmp_path / "index", TinyEncoder(), target, None, settings)
    assert (report.images, report.embedded) == (14, 2)
    with closing(MilvusStore.open(tmp_path / "index")) as store:
        assert store.dim == 8 and len(store.search(store.descriptors_of(0)[0]).rows) == 14


def test_another_projection_is_refused_before_the_work(gallery, tmp_path, target, refused):
    built(gallery, tmp_path, target)[1].close()
    tiny = TinyEncoder()
    three, settings = parse_regions("pyramid:3"), BuildSettings("PCAH8,Flat")
    said = refused(build_in_milvus, gallery, tmp_path / "second", tiny, target, three, settings)
    assert "with no projection, not with a projection that is yet to be learned" in said and tiny.encoded == 0
    assert not (tmp_path / "second.partial").exists()


def test_a_projection_is_learned_once_and_kept(gallery, tmp_path, target):
    report, store = built(gallery, tmp_path, target, factory="PCAH8,Flat")
    assert report.embedded == len(gallery.images) and store.dim == 8 and store.factory == "PCAH8,Flat"
    learned = store.projection.to_bytes()
    own = store.project(TinyEncoder().encode(np.zeros((1, 8, 8, 3), np.uint8)))[0]
    assert len(store.search(own, 3).rows) == 3
    store.close()
    report, store = built(gallery, tmp_path, target, factory="PCAH8,Flat")
    assert report.embedded == 0 and store.projection.to_bytes() == learned
    store.close()


def test_boxes_that_depend_on_pictures_are_kept_by_milvus_too(gallery, tmp_path, target):
    _, store = built(gallery, tmp_path, target, "salient:4")
    build_index(gallery, tmp_path / "flat", TinyEncoder(), parse_regions("salient:4"))
    index = PatchIndex.load(tmp_path / "flat")
    for row in range(len(gallery.images)):
        np.testing.assert_allclose(store.boxes_of(row), index.boxes_of(row), atol=1e-4)
    store.close()
    report, store = built(gallery, tmp_path, target, "salient:4")
    assert report.embedded == 0
    np.testing.assert_allclose(store.box_of(2, 3), index.box_of(2, 3), atol=1e-4)
    store.close()


def test_boxes_come_from_shards_too(gallery, tmp_path, target):
    regions = parse_regions("pyramid:1+salient:4")
    embed_gallery(gallery, tmp_path / "shards", TinyEncoder(), regions)
    build_index(gallery, tmp_path / "flat", TinyEncoder(), regions)
    stream, index = ShardFolder(tmp_path / "shards"), PatchIndex.load(tmp_path / "flat")
    for reused in (0, len(gallery.images)):
        assert stream_to_milvus(stream, gallery.root, tmp_path / "index", target).reused == reused
        with closing(MilvusStore.open(tmp_path / "index")) as store:
            assert isinstance(store, PatchStore) and store.maps is None
            for row in range(len(gallery.images)):
                np.testing.assert_allclose(store.boxes_of(row), index.boxes_of(row), atol=1e-4)
                np.testing.assert_allclose(store.descriptors_of(row), index.descriptors_of(row), atol=1e-6)
            query = index.descriptors_of(3)[2]
            assert store.search(query, 4).rows.tolist() == index.search(query, 4).rows.tolist()


def test_a_collection_of_another_maker_or_gallery_is_refused(gallery, tmp_path, target, refused):
    built(gallery, tmp_path, target)[1].close()
    other = read_gallery(write_pictures(tmp_path / "others", range(3)))
    out = tmp_path / "second"
    three = parse_regions("pyramid:3")
    assert "another gallery" in refused(build_in_milvus, other, out, TinyEncoder(), target, three)
    assert "regions pyramid:3" in refused(
        build_in_milvus, gallery, out, TinyEncoder(), target, parse_regions("pyramid:2")
    )
    from dataclasses import replace

    other_weights = TinyEncoder(replace(INFO, weights_sha256="1" * 64))
    assert "weights" in refused(build_in_milvus, gallery, out, other_weights, target, three)
    projected = BuildSettings("PCAH8,Flat")
    assert "projection" in refused(build_in_milvus, gallery, out, TinyEncoder(), target, three, projected)
    wider = TinyEncoder(replace(INFO, dim=12))
    assert "was made with" in refused(build_in_milvus, gallery, out, wider, target, three)
    with MilvusConnection(target.address) as connection:
        connection.client.drop_collection("patches")
    assert "is missing" in refused(MilvusStore.open, tmp_path / "index")


def test_settings_that_milvus_does_not_keep_are_refused(gallery, tmp_path, target, refused):
    for settings in (BuildSettings("PQ8"), BuildSettings(rescore="SQ8"), BuildSettings(keep_maps=True)):
        refused(build_in_milvus, gallery, tmp_path / "index", TinyEncoder(), target, None, settings)
    pq = Target(target.address, None, "IVF_PQ")
    assert "no index kind" in refused(build_in_milvus, gallery, tmp_path / "index", TinyEncoder(), pq)
    assert not (tmp_path / "index").exists() and not (tmp_path / "index.partial").exists()


def test_a_damaged_folder_and_a_wrong_query_are_refused(gallery, tmp_path, target, refused):
    _, store = built(gallery, tmp_path, target)
    for arguments in ((np.zeros(3, np.float32),), (np.zeros(24, np.float32), 0), (np.zeros(24, np.float32), 1, 9)):
        refused(store.search, *arguments)
    assert "in Milvus" in refused(PatchIndex.load, tmp_path / "index")
    store.close()
    refused(store.search, np.ones(24, np.float32))
    numbers = tmp_path / "index" / "numbers.npy"
    data = bytearray(numbers.read_bytes())
    data[-1] ^= 1
    numbers.write_bytes(bytes(data))
    assert "numbers.npy" in refused(MilvusStore.open, tmp_path / "index")


def test_an_array_that_claims_more_than_its_file_contains_is_refused(gallery, tmp_path, target, refused):
    """With digests that fit: whoever forges an array forges these too."""
    built(gallery, tmp_path, target)[1].close()
    folder = tmp_path / "index"
    numbers = io.BytesIO()
    head = {"descr": "<i8", "fortran_order": False, "shape": (10**13,)}
    np.lib.format.write_array_header_1_0(numbers, head)
    (folder / "numbers.npy").write_bytes(numbers.getvalue())
    meta = json.loads((folder / "meta.json").read_text())
    digests = Digests()
    digests.update(numbers.getvalue())
    meta["files"]["numbers.npy"] = digests.listed()
    meta["digest"] = sha256_of_json({key: value for key, value in meta.items() if key != "digest"})
    (folder / "meta.json").write_text(json.dumps(meta))
    assert "not the file that was written" in refused(MilvusStore.open, folder)


def test_a_server_needs_the_right_token(serve, gallery, tmp_path, refused, monkeypatch):
    uri, server = serve(token="root:right")
    assert "asks for a token" in refused(MilvusConnection, Address.of(uri))
    message = refused(MilvusConnection, Address.of(uri, "root:wrong"))
    assert "does not accept the token" in message and "wrong" not in message
    monkeypatch.setenv("MILVUS_TOKEN", "root:right")
    report, store = built(gallery, tmp_path, Target(Address.of(uri)))
    assert report.embedded == 12 and len(store.search(store.descriptors_of(0)[0], 3).rows) == 3
    assert "right" not in (tmp_path / "index" / "meta.json").read_text()
    server.stop(0).wait()
    monkeypatch.setattr("patchify_core.index.milvus.store.READ_S", 2.0)
    start = time.monotonic()
    assert "does not answer" in refused(store.search, np.ones(24, np.float32) / np.sqrt(24, dtype=np.float32))
    assert time.monotonic() - start < 25
    store.close()


def test_tls_with_an_authority_of_ones_own(serve, tmp_path, refused):
    key, certificate, path = _certificate(tmp_path)
    uri, _ = serve(tls=(key, certificate))
    with MilvusConnection(Address.of(uri, None, path, "milvus.test")) as connection:
        assert connection.is_lite
    assert uri in refused(MilvusConnection, Address.of(uri))  # signed by nobody that gRPC knows


def _certificate(tmp_path):
    crypto = pytest.importorskip("cryptography", reason="makes the certificate of this test")
    from datetime import datetime, timedelta, timezone

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    assert crypto
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "milvus.test")])
    now = datetime.now(timezone.utc)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName("milvus.test")]), critical=False)
    pem = made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "ca.pem").write_bytes(pem)
    return private, pem, str(tmp_path / "ca.pem")


def test_nobody_there(refused):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens on it
        start = time.monotonic()
        assert "does not answer" in refused(MilvusConnection, Address.of(f"http://127.0.0.1:{taken.getsockname()[1]}"))
        assert time.monotonic() - start < 15


def test_a_port_that_takes_connections_and_never_answers(refused):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        start = time.monotonic()
        assert "does not answer" in refused(MilvusConnection, Address.of(f"http://127.0.0.1:{silent.getsockname()[1]}"))
        assert time.monotonic() - start < 40


def test_a_server_that_refuses_another_kind_of_index_keeps_the_one_it_has(gallery, tmp_path, target, refused):
    _, store = built(gallery, tmp_path, target)
    make, asked = store.connection.client.create_index, []

    def create_index(name, params, **named):
        from pymilvus.exceptions import MilvusException

        kind = next(iter(params)).to_dict()["index_type"]
        asked.append(kind)
        if kind == "DISKANN":
            raise MilvusException(code=1100, message="invalid parameter: index type DISKANN is not built in")
        return make(name, params, **named)

    store.connection.client.create_index = create_index
    assert "DISKANN is not built in" in (said := refused(store.collection.use_index, "DISKANN"))
    assert "--milvus-index" in said and asked == ["DISKANN", "FLAT"]
    assert store.collection.index_kind() == "FLAT"
    query = store.descriptors_of(3)[0]
    assert store.search(query, 1).rows.tolist() == [3]
    store.close()


def test_what_vanished_is_deleted_only_after_the_new_folder_stands(tmp_path, target, monkeypatch):
    folder = write_pictures(tmp_path / "pictures", range(6))
    _, store = built(read_gallery(folder), tmp_path, target)
    first = store.descriptors_of(0)
    store.close()
    (folder / "0000.png").unlink()
    write_pictures(folder, [20])
    with monkeypatch.context() as patched:
        patched.setattr("patchify_core.index.swap.BuildFolder.swap_in", cut_short)
        with pytest.raises(KeyboardInterrupt):
            built(read_gallery(folder), tmp_path, target)
    old = MilvusStore.open(tmp_path / "index")
    assert len(old.images) == 6 and old.search(first[0], 1).rows.tolist() == [0]
    assert len(old.search(first[0]).rows) == 6  # the new picture is there, and not in this folder
    old.close()
    report, store = built(read_gallery(folder), tmp_path, target)
    assert report.embedded == 0 and store.collection.count() == 6 * 14
    store.close()


def cut_short(*arguments):
    raise KeyboardInterrupt


KILLED = """
import os, signal, sys
from pathlib import Path
from patchify_core.gallery import read_gallery
from patchify_core.regions import parse_regions
from patchify_core.index.milvus.build import Target
from patchify_core.index.build import build_index
from patchify_core.index.milvus.connect import Address
from tests.tiny import TinyEncoder
folder, stop = Path(sys.argv[1]), int(sys.argv[2])
def killed(done, total):
    if done == stop:
        os.kill(os.getpid(), signal.SIGKILL)
build_index(read_gallery(folder / "pictures"), folder / "index", TinyEncoder(), parse_regions("pyramid:3"),
    progress=killed, target=Target(Address.of(str(folder / "patches.db")), "patches"))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_build_that_is_killed_goes_on(gallery, tmp_path, target):
    for stop in (3, 12):
        done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(stop)], capture_output=True, text=True)
        assert done.returncode == -9, done.stderr
        assert not (tmp_path / "index").exists()
    _, store = built(gallery, tmp_path, target)
    build_index(gallery, tmp_path / "flat", TinyEncoder(), parse_regions("pyramid:3"))
    same(store, PatchIndex.load(tmp_path / "flat"))
    assert store.collection.count() == len(gallery.images) * 14
    store.close()


def test_a_file_of_milvus_lite_in_the_index_folder_is_refused(gallery, tmp_path, target, refused):
    build_in_milvus(gallery, tmp_path / "idx", TinyEncoder(), target)
    inside = Target(Address.of(str(tmp_path / "idx" / "patches.db")), "patches")
    assert "would be deleted" in refused(build_in_milvus, gallery, tmp_path / "idx", TinyEncoder(), inside)
    assert not (tmp_path / "idx" / "patches.db").exists() and open_store(tmp_path / "idx").images


def test_names_of_any_alphabet(tmp_path, target):
    folder = write_pictures(tmp_path / "Bildergalerie übung 图", range(3))
    (folder / "0001.png").rename(folder / "Äpfel und 苹果.png")
    _, store = built(read_gallery(folder), tmp_path, target)
    assert store.images[2].file_name == "Äpfel und 苹果.png"
    store.close()


def test_a_file_that_another_process_has_open_is_said_to_be(tmp_path, refused):
    path = tmp_path / "patches.db"
    script = (
        f"from milvus_lite.db import MilvusLite; db = MilvusLite({str(path)!r}); print('open', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "open\n"
        assert "in use by another process" in refused(MilvusConnection, Address.of(str(path)))
        other.communicate("\n")
    MilvusConnection(Address.of(str(path))).close()


@pytest.mark.parametrize("module", ["pymilvus", "milvus_lite"])
def test_what_is_not_installed_is_said(module, tmp_path, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    if module == "milvus_lite":
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "requirements-milvus.txt" in refused(MilvusConnection, Address.of(str(tmp_path / "patches.db")))


def test_the_command_line(tmp_path, run, tiny_everywhere):
    dataset = tmp_path / "dataset"
    dataset.mkdir()
    write_dataset(dataset)
    store = ["--store", "milvus", "--uri", tmp_path / "patches.db"]
    code, _, error = run("index", dataset, "--out", tmp_path / "index", *store)
    assert code == 0, error
    code, out, _ = run("search", tmp_path / "index", dataset / "gallery" / "2.png", "--top", "2")
    assert code == 0 and "1.000" in out.splitlines()[1] and out.splitlines()[1].endswith("2.png")
    scores = []
    for options in (store, []):
        code, out, _ = run("evaluate", dataset, "--regions", "pyramid:2", *options)
        assert code == 0
        scores.append([line.split()[:6] for line in out.splitlines() if line.startswith("pyramid:")])
    assert scores[0] == scores[1]
    assert run("index", dataset, "--out", tmp_path / "x", "--uri", "http://host:1")[0] == 2


def test_a_folder_that_names_its_milvus_is_evaluated_and_verified_by_itself(tmp_path, run, tiny_everywhere):
    dataset = tmp_path / "dataset"
    dataset.mkdir()
    write_dataset(dataset)
    out, where = tmp_path / "index", ["--store", "milvus", "--uri", tmp_path / "patches.db"]
    assert run("index", dataset, "--out", out, *where, "--regions", "pyramid:2", "--factory", "PCAH8,Flat")[0] == 0
    code, said, error = run("evaluate", dataset, "--index", out)
    assert code == 0 and "indexed before" in said and "pyramid:2" in said, error
    code, said, _ = run("verify", out)
    assert code == 0 and "every patch is in ../patches.db); all of its pictures (7)" in said
    with MilvusConnection(Address.of(str(tmp_path / "patches.db"))) as connection:
        name = connection.client.list_collections()[0]
        connection.client.delete(name, ids=[7])  # a patch of the second picture
        connection.client.delete(name, filter="picture == 3")
    code, said, _ = run("verify", out)
    assert code == 2 and "has lost patches of 2 of 7 pictures" in said and "damaged" in said
    code, said, error = run("evaluate", dataset, "--index", out)
    assert code == 0 and "pictures/s indexed" in said, error  # the lost ones are embedded again
    assert run("verify", out)[0] == 0
    for command in (
        ["tune", out],
        ["index", dataset, "--out", tmp_path / "x", "--like", out],
        ["index", dataset, "--out", out],
    ):
        code, _, error = run(*command)
        assert code == 2 and "Milvus" in error and "delete" not in error
    with MilvusConnection(Address.of(str(tmp_path / "patches.db"))) as connection:
        connection.client.drop_collection(name)
    code, _, error = run("verify", out)
    assert code == 2 and "is missing: run the index command again" in error


def test_the_command_line_takes_embedded_shards(tmp_path, run, tiny_everywhere):
    folder = write_pictures(tmp_path / "pictures", range(5))
    assert run("embed", folder, "--out", tmp_path / "shards", "--shard-images", 2)[0] == 0
    out, store = tmp_path / "index", ["--store", "milvus", "--uri", tmp_path / "patches.db"]
    command = ["index", "--from-shards", tmp_path / "shards", "--out", out]
    code, said, error = run(*command, *store)
    assert code == 0 and "5 pictures" in said and "5 written, 0 already there" in said, error
    assert "0 written, 5 already there" in run(*command, *store)[1]
    code, said, _ = run("search", out, folder / "0002.png", "--top", "1")
    assert code == 0 and said.splitlines()[1].endswith("0002.png")
    code, _, error = run(*command, *store, "--memory", "4")
    assert code == 2 and "leave it out with --store milvus" in error
    code, _, error = run(*command, "--uri", "http://host:1")
    assert code == 2 and "add --store milvus" in error
