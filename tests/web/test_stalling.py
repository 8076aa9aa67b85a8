"""Visitors who stop in the middle, hang up or send what is slow, on the loopback interface."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
import time
import weakref
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pytest
import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from patchify_core.demo import decoding
from patchify_core.demo.decoding import DecoderPool, DecodingSettings, decode
from patchify_core.demo.example_gallery import ExampleGallery
from patchify_core.demo.own import registry
from patchify_core.demo.own.registry import Registry
from patchify_core.demo.queueing import FairQueue, Slots
from patchify_core.demo.server_folders import PREFIX
from patchify_core.demo.settings import PageSettings, QueueSettings, ServerSettings
from patchify_core.demo.storage import CLOSED_S, Owner, VisitorStorage
from patchify_core.errors import PictureError
from patchify_core.gallery import read_coco
from patchify_core.imaging.pictures import read_picture
from patchify_core.index.build import build_index
from patchify_core.regions import parse_regions
from patchify_core.web import bodies, serving, uploads
from patchify_core.web import own_pictures as addresses
from patchify_core.web.fair_queue import ENCODER
from patchify_core.web.gate import Gate
from patchify_core.web.guarded import GuardedBlocks
from patchify_core.web.own_pictures import own_routes
from patchify_core.web.page import build
from patchify_core.web.serving import Gates, configured
from tests.tiny import TinyEncoder, picture, write_dataset, zipped

SETTINGS = PageSettings(own_total_mb=40, own_mb=10, upload_mb=4, archive_mb=8, forget_s=600)


def png(seed: int, size: tuple[int, int] = (24, 18)) -> bytes:
    stream = BytesIO()
    picture(seed, size).save(stream, "PNG")
    return stream.getvalue()


def until(true: Callable[[], Any], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def serving_routes(routes: list[Route], settings: PageSettings = SETTINGS) -> Iterator[int]:
    """The server of the page with these routes alone, on a free port of the loopback interface; gives the port."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    gate = Gate(ServerSettings(), settings)
    gate.open(Starlette(routes=routes), routes)
    server = uvicorn.Server(configured(Gates(gate, {}), "", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    until(lambda: server.started)
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        thread.join(60)
        listening.close()


def begun(port: int, path: str, body: bytes = b"", length: int = 0, kind: str = "application/octet-stream") -> Any:
    """A connection that has sent the head of a request and some of its body."""
    connection = socket.create_connection(("127.0.0.1", port), 10)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def answer_of(connection: Any) -> str:
    connection.settimeout(60)
    text = b""
    with suppress(OSError):
        while piece := connection.recv(65536):
            text += piece
            if b"}" in text or text.endswith(b"."):
                break
    connection.close()
    return text.decode()


# Uploads to own pictures ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def showcase(tmp_path_factory) -> ExampleGallery:
    gallery = read_coco(write_dataset(tmp_path_factory.mktemp("kept") / "set"))
    build_index(gallery, gallery.root / "index", TinyEncoder(), parse_regions("pyramid:3"))
    return ExampleGallery(gallery.root, TinyEncoder())


@pytest.fixture
def own(showcase, tmp_path) -> Iterator[Registry]:
    made = Registry(showcase, SETTINGS, tmp_path / f"{PREFIX}test")
    yield made
    made.close()


@pytest.fixture
def port(own) -> Iterator[int]:
    with serving_routes(own_routes(own)) as port:
        yield port


def test_two_hundred_stalled_uploads_keep_nobody_out(own, port, monkeypatch) -> None:
    monkeypatch.setattr(bodies, "STALL_S", 60)  # they are still there when somebody comes
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as http:
        tokens = [http.post("/own").json()["token"] for _ in range(registry.MOST_VISITORS)]
        stalled = [begun(port, f"/own/{token}/files?name=a.png", b"x" * 5000, 100_000) for token in tokens]
        until(lambda: sum(own.visitor(token).uploads for token in tokens) == len(tokens))
        token = http.post("/own").json()["token"]
        assert http.post(f"/own/{token}/files?name=b.png", content=png(1)).json()["added"] == 1
        for connection in stalled:
            connection.close()
    until(lambda: not list(own.folder.rglob("incoming-*")))
    assert sum(one.incoming for one in own._visitors.values()) == 0


def test_a_stalled_upload_ends_and_leaves_nothing(own, port, monkeypatch) -> None:
    monkeypatch.setattr(bodies, "STALL_S", 2)  # time to be seen before it ends
    token = own.create()
    stalled = begun(port, f"/own/{token}/files?name=a.png", b"x" * 5000, 100_000)
    until(lambda: own.visitor(token).incoming == 5000)
    assert "stopped or is too slow" in answer_of(stalled)
    assert list(own.visitor(token).collection.folder.rglob("incoming-*")) == [] and own.visitor(token).uploads == 0
    assert own.bytes == 0


def test_an_upload_in_drops_ends_too(own, port, monkeypatch) -> None:
    monkeypatch.setattr(bodies, "PACE_S", 0.5)
    token = own.create()
    slow = begun(port, f"/own/{token}/files?name=a.png", b"x", 100_000)
    until(lambda: own.visitor(token).uploads)
    began = time.monotonic()
    with suppress(OSError):
        while own.visitor(token).uploads:
            slow.sendall(b"x")
            time.sleep(0.1)
            assert time.monotonic() < began + 30
    assert "too slow" in answer_of(slow) and own.bytes == 0


def test_an_upload_that_is_cut_leaves_nothing(own, port) -> None:
    token = own.create()
    cut = begun(port, f"/own/{token}/files?name=a.png", b"x" * 50_000, 100_000)
    until(lambda: own.visitor(token).incoming)
    cut.close()
    until(lambda: own.visitor(token).uploads == 0)
    assert list(own.visitor(token).collection.folder.rglob("incoming-*")) == [] and own.bytes == 0


def test_an_archive_is_counted_until_it_is_deleted(own, port, monkeypatch) -> None:
    seen: list[int] = []
    token = own.create()
    collection = own.visitor(token).collection
    plain = collection.add_archive

    def add(path: Path) -> int:
        seen.append(own.bytes - path.stat().st_size)
        return plain(path)

    monkeypatch.setattr(collection, "add_archive", add)
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.png", png(1))
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
        assert http.post(f"/own/{token}/files?name=a.zip", content=stream.getvalue()).json() == {"added": 1}
    assert seen == [0] and own.bytes == collection.bytes


# Uploads that Gradio takes ----------------------------------------------------------------------------------


@pytest.fixture
def gradio_upload(tmp_path, monkeypatch) -> Iterator[tuple[int, VisitorStorage]]:
    """Gradio's route for uploads, as far as it matters here."""
    import gradio.routes

    storage = VisitorStorage(SETTINGS, tmp_path / "uploads")
    monkeypatch.setattr(gradio.routes, "upload_fn", gradio.routes.upload_fn)
    uploads.keep_uploads_apart(storage)

    async def take(request: Request) -> Any:
        try:
            files, _, _ = await gradio.routes.upload_fn(
                request, str(storage.uploads), 4_000_000, None, force_move=False
            )
        except MultiPartException as error:
            return PlainTextResponse(error.message, 400)
        return JSONResponse([str(path) for path in files])

    route = Route("/gradio_api/upload", take, methods=["POST"])
    with serving_routes([route], replace(SETTINGS, upload_mb=20)) as port:
        yield port, storage
    uploads.keep_uploads_apart(None)


PART = b'--b\r\nContent-Disposition: form-data; name="files"; filename="%d.png"\r\n\r\n'
FORM = "multipart/form-data; boundary=b"


def files_in(storage: VisitorStorage) -> list[Path]:
    assert storage.uploads is not None
    return [Path(folder, name) for folder, dirs, files in os.walk(storage.uploads) for name in (*dirs, *files)]


def test_what_is_cut_or_stalled_on_its_way_to_gradio_leaves_nothing(gradio_upload, monkeypatch) -> None:
    port, storage = gradio_upload
    monkeypatch.setattr(bodies, "STALL_S", 0.4)
    cut = begun(port, "/gradio_api/upload", PART % 0 + b"x" * 50_000, 1_000_000, FORM)
    until(lambda: storage.disk.bytes > 50_000)
    cut.close()
    until(lambda: not files_in(storage))
    stalled = begun(port, "/gradio_api/upload", PART % 0 + b"x" * 50_000, 1_000_000, FORM)
    until(lambda: storage.disk.bytes > 50_000)
    assert "stopped or is too slow" in answer_of(stalled)
    assert files_in(storage) == [] and storage.disk.bytes == 0


def test_a_whole_upload_is_counted_until_it_is_read(gradio_upload) -> None:
    port, storage = gradio_upload
    answer = httpx.post(f"http://127.0.0.1:{port}/gradio_api/upload", files={"files": ("a.png", bytes(300_000))})
    path = Path(answer.json()[0])
    assert path.stat().st_size == 300_000 and 300_000 < storage.disk.bytes < 301_000
    path.unlink()
    uploads.forget_folders(path, storage.uploads)
    assert storage.disk.bytes == 0
    storage.sweep()
    assert storage._uploads == set()


def test_many_files_in_one_form_are_counted_too(gradio_upload) -> None:
    port, storage = gradio_upload
    storage.disk.share = 5_000_000
    files = [("files", (f"{n}.png", bytes(2_000_000))) for n in range(5)]
    answer = httpx.post(f"http://127.0.0.1:{port}/gradio_api/upload", files=files)
    assert answer.status_code == 400 and answer.text.endswith(".") and files_in(storage) == []


# Turns by address -------------------------------------------------------------------------------------------


def test_addresses_take_turns_however_much_one_asks_for() -> None:
    turns = FairQueue(lambda one, begun: not begun)
    tickets = [turns.enqueue("greedy") for _ in range(5)] + [
        turns.enqueue("second"),
        turns.enqueue("third"),
        turns.enqueue("second"),
    ]
    order = []
    while left := [one for one in tickets if one.begun.done()]:
        order.append(left[0].address)
        tickets.remove(left[0])
        turns.end(left[0])
    assert order == ["greedy", "second", "third", "greedy", "second", "greedy", "greedy", "greedy"]
    assert not turns._order and not turns._begun and not turns._waiting


def test_whoever_gives_up_waiting_takes_no_turn() -> None:
    turns, done = FairQueue(lambda one, begun: not begun), []

    async def act(name: str) -> None:
        async with turns.turn(name):
            done.append(name)
            await asyncio.sleep(0.05)

    async def all_of_them() -> None:
        first, left, last = (asyncio.create_task(act(name)) for name in ("first", "left", "last"))
        await asyncio.sleep(0.01)
        left.cancel()
        await asyncio.wait_for(asyncio.gather(first, last), 60)

    asyncio.run(all_of_them())
    assert done == ["first", "last"] and not turns._begun and not turns._waiting


def test_archives_of_a_stranger_keep_neither_pictures_nor_others_archives_waiting(own, port, monkeypatch) -> None:
    monkeypatch.setattr(addresses, "caller_group", lambda request: request.headers.get("x-from", ""))
    unpacked, taken = threading.Event(), addresses._add
    begun_ones = []

    def slowly(visitor: Any, path: Path, name: str, head: bytes) -> Any:
        if name == "bomb.zip":
            begun_ones.append(name)
            assert unpacked.wait(60)
        return taken(visitor, path, name, head)

    monkeypatch.setattr(addresses, "_add", slowly)

    def sent(who: str, name: str, data: bytes) -> Any:
        url, sender = f"http://127.0.0.1:{port}/own/{own.create(who)}/files", {"x-from": who}
        return httpx.post(url, params={"name": name}, content=data, headers=sender, timeout=25).json()

    bombs = [threading.Thread(target=sent, args=("stranger", "bomb.zip", zipped({"a.png": png(1)}))) for _ in range(8)]
    try:
        for bomb in bombs:
            bomb.start()
        until(lambda: begun_ones and own._own_bytes() >= 0 and len(own) == len(bombs))
        assert sent("visitor", "b.png", png(2))["added"] == 1  # before the change these waited for the archives
        assert sent("stranger", "b.png", png(3))["added"] == 1
        assert sent("visitor", "c.zip", zipped({"c.png": png(4)})) == {"added": 1}
        assert len(begun_ones) == 1
    finally:
        unpacked.set()
        for bomb in bombs:
            bomb.join(60)


def test_what_a_visitor_packs_does_not_swell(own, tmp_path) -> None:
    stream = BytesIO()
    Image.new("RGB", (1200, 1200)).save(stream, "BMP")  # 4.3 MB of nothing
    collection = own.visitor(own.create()).collection
    collection.settings = replace(SETTINGS, upload_mb=10)
    (tmp_path / "a.zip").write_bytes(zipped({"bomb.bmp": stream.getvalue(), "a.png": png(1)}, zipfile.ZIP_LZMA))
    assert collection.add_archive(tmp_path / "a.zip") == 1
    ((name, why),) = collection.skipped
    assert name == "bomb.bmp" and "send it by itself" in why and collection.add("bomb.bmp", stream.getvalue())


# Downloads ----------------------------------------------------------------------------------------------------


@pytest.fixture
def indexed(own) -> str:
    token = own.create()
    visitor = own.visitor(token)
    for seed in range(30):
        visitor.collection.add(f"{seed}.png", png(seed, (200, 200)))
    visitor.indexer.start()
    visitor.indexer.join(60)
    return token


def test_an_index_that_is_sent_is_whole_and_lies_nowhere(own, port, indexed, monkeypatch) -> None:
    folder = own.visitor(indexed).collection.folder
    before = {path for path in folder.rglob("*") if path.is_file()}
    now = time.localtime()
    monkeypatch.setattr(time, "localtime", lambda *seconds: now)  # which an archive has of each file
    length, pieces = own.visitor(indexed).archive()
    data = b"".join(pieces)
    assert len(data) == length
    answer = httpx.get(f"http://127.0.0.1:{port}/own/{indexed}/index.zip")
    assert answer.content == data and int(answer.headers["content-length"]) == length
    with zipfile.ZipFile(BytesIO(data)) as archive:
        assert archive.testzip() is None and "meta.json" in archive.namelist()
        version = folder / f"index-{own.visitor(indexed).indexer.version}"
        assert all(archive.read(path.name) == path.read_bytes() for path in version.iterdir())
    assert {path for path in folder.rglob("*") if path.is_file()} == before


def test_hung_up_downloads_leave_no_copy_and_keep_no_slot(own, port, indexed, monkeypatch) -> None:
    monkeypatch.setattr(serving, "UNREAD_S", 0.4)
    large = own.visitor(indexed).collection.folder / f"index-{own.visitor(indexed).indexer.version}" / "maps.bin"
    large.write_bytes(bytes(30_000_000))  # more than fits into the buffers of a connection that nobody reads
    before = sum(path.stat().st_size for path in own.folder.rglob("*") if path.is_file())
    waiting = []
    for _ in range(addresses.DOWNLOADS_OF_ONE):
        connection = socket.create_connection(("127.0.0.1", port), 10)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(f"GET /own/{indexed}/index.zip HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert b"200" in connection.recv(20)
        waiting.append(connection)
    url = f"http://127.0.0.1:{port}/own/{indexed}/index.zip"
    assert "on its way already" in httpx.get(url).json()["error"]
    for _ in range(30):  # these hang up at once
        connection = socket.create_connection(("127.0.0.1", port), 10)
        connection.sendall(f"GET /own/{indexed}/index.zip HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        connection.close()
    assert sum(path.stat().st_size for path in own.folder.rglob("*") if path.is_file()) == before
    until(lambda: httpx.get(url, timeout=30).status_code == 200)  # the ones that nobody reads were ended
    for connection in waiting:
        connection.close()


def test_slots_are_of_everybody() -> None:
    slots = Slots(3, 2)
    assert [slots.acquire(one) for one in "aaabb"] == [True, True, False, True, False]
    slots.release("a")
    assert slots.acquire("b") and not slots.acquire("c")


# Small copies ---------------------------------------------------------------------------------------------------


def test_small_copies_are_drawn_once_for_all_who_ask_and_never_seen_in_part(own, port, monkeypatch) -> None:
    token = own.create()
    own.visitor(token).collection.add("a.png", png(1, (300, 200)))
    drawn, plain = [], addresses._jpeg

    def slowly(path: Path, side: int) -> bytes:
        drawn.append(path)
        time.sleep(0.3)
        return plain(path, side)

    monkeypatch.setattr(addresses, "_jpeg", slowly)
    found: list[bytes] = []

    def ask() -> None:
        found.append(httpx.get(f"http://127.0.0.1:{port}/own/{token}/picture/a.png?side=160", timeout=20).content)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(drawn) == 1 and len(found) == 6 and len(set(found)) == 1
    assert Image.open(BytesIO(found[0])).size[0] == 160


# Slow pictures --------------------------------------------------------------------------------------------------


def test_what_decodes_too_slowly_is_one_sentence_and_others_go_on(refused) -> None:
    decoders = DecoderPool(DecodingSettings(at_once=2, of_one=1, wait_s=0.2, limit_s=0.2))
    slow = threading.Event()
    assert "too long to read" in refused(decoders.run, lambda: slow.wait(60), "stranger")
    assert "as many pictures as it can" in refused(decoders.run, lambda: 1, "stranger")  # theirs goes on
    decoders.settings = DecodingSettings(at_once=2, of_one=1, wait_s=0.2)  # a thread may take long to begin
    assert decoders.run(lambda: 2, "visitor") == 2
    slow.set()
    decoders.settings = DecodingSettings(at_once=2, of_one=1, wait_s=60)
    assert decoders.run(lambda: 3, "stranger") == 3
    with pytest.raises(PictureError, match="as it is"):
        decoders.run(lambda: (_ for _ in ()).throw(PictureError("as it is.")), "stranger")
    assert decoders.run(lambda: 4, "stranger") == 4


def test_large_pictures_are_decoded_one_at_a_time_and_small_ones_wait_behind_none(refused) -> None:
    decoders = DecoderPool(DecodingSettings(most_bytes=100, large_bytes=20, wait_s=0.2))
    with decoders.result(lambda: "large", "stranger", needs=80) as first:
        assert first == "large"
        for address in ("stranger", "other"):
            assert "as many pictures as it can" in refused(decoders.run, lambda: 1, address, needs=30)
        assert decoders.run(lambda: 2, "other", needs=20) == 2
        with decoders.result(lambda: 3, "other", needs=15):
            assert "as many pictures as it can" in refused(decoders.run, lambda: 4, "third", needs=10)  # 105 of 100
    assert decoders.run(lambda: 5, "other", needs=30) == 5
    assert decoders.run(lambda: 6, "other", needs=1000) == 6  # what is read at all is read alone


def test_a_large_picture_that_takes_too_long_keeps_its_place_until_it_has_ended(refused) -> None:
    decoders, slow = DecoderPool(DecodingSettings(large_bytes=20, wait_s=0.2, limit_s=0.2)), threading.Event()
    assert "too long to read" in refused(decoders.run, lambda: slow.wait(60), "stranger", needs=30)
    assert "as many pictures as it can" in refused(decoders.run, lambda: 1, "other", needs=30)
    slow.set()
    until(lambda: not decoders._queue._begun)
    decoders.settings = DecodingSettings(large_bytes=20)
    assert decoders.run(lambda: 2, "other", needs=30) == 2


def test_one_strangers_large_picture_is_in_memory_at_a_time(showcase, monkeypatch) -> None:
    """Uploads, boxes and re-ranking alike: what is asked at once is decoded, used and gone one after the other."""
    monkeypatch.setattr(decoding, "predicted_memory", lambda source: 400_000_000)
    there: list[int] = []
    most: list[int] = []

    def read(source: bytes) -> Image.Image:
        made = read_picture(source)
        there.append(1)
        most.append(len(there))
        weakref.finalize(made, there.pop)
        time.sleep(0.01)
        return made

    describe = showcase.engine.describe_query
    plain = [describe(png(seed)) for seed in range(6)], [describe(png(seed), (2, 2, 20, 12)) for seed in range(6)]
    monkeypatch.setattr(decoding, "read_picture", read)
    found: dict[int, Any] = {}

    def ask(seed: int) -> None:
        whole = showcase.upload(png(seed))
        found[seed] = whole, showcase.with_box(whole, (2, 2, 20, 12))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == [1] * 12 and not there
    for seed in range(6):
        for query, expected in zip(found[seed], (plain[0][seed], plain[1][seed]), strict=True):
            assert query.descriptor.tobytes() == expected.tobytes()
        assert found[seed][0].preview and (found[seed][0].width, found[seed][0].height) == (24, 18)


def test_what_reading_takes_is_predicted_and_bytes_that_are_no_picture_take_nothing() -> None:
    stream = BytesIO()
    Image.new("RGB", (640, 480)).save(stream, "JPEG", progressive=True)
    assert decoding.predicted_memory(stream.getvalue()) == 640 * 480 * 10  # four bytes a pixel, and all coefficients
    assert decoding.predicted_memory(b"no picture") == 0


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has a priority for each thread")
def test_decoding_leaves_the_processor_to_searches() -> None:
    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    assert DecoderPool().run(priority) == min(19, priority() + decoding.NICE)


def test_a_bundled_picture_is_no_strangers(tmp_path) -> None:
    bundled, theirs = tmp_path / "gallery" / "a.png", tmp_path / f"{PREFIX}x" / "token" / "pictures" / "a.png"
    for path in (bundled, theirs):
        path.parent.mkdir(parents=True)
        path.write_bytes(png(1))
    assert decoding.decode_untrusted(bundled) == bundled and isinstance(decoding.decode_untrusted(theirs), Image.Image)
    assert decoding.decode_untrusted(png(1)).tobytes() == decode(bundled).tobytes()


def test_searches_of_others_go_on_while_a_strangers_picture_is_decoded(monkeypatch) -> None:
    """One turn at a time, and a picture that takes until the other visitor has been answered."""
    from gradio.context import LocalContext

    answered, reading = threading.Event(), threading.Event()
    seen: list[str] = []

    def read(source: bytes) -> Image.Image:
        reading.set()
        assert answered.wait(60)
        return Image.new("RGB", (4, 4))

    monkeypatch.setattr(decoding, "read_picture", read)

    def search(text: str) -> str:
        if text == "slow":
            decode(b"picture")
            queue = LocalContext.blocks.get()._queue.event_queue_per_concurrency_id[ENCODER]
            seen.append(f"back in turn: {queue.current_concurrency}")
        return text.upper()

    with GuardedBlocks() as demo:
        box = gr.Textbox()
        gr.on([box.change], search, box, box, concurrency_id=ENCODER, concurrency_limit=1)
    demo.guard(QueueSettings(at_once=1))
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", ssr_mode=False)
    try:

        def ask(text: str, session: str) -> str:
            http = httpx.Client(base_url=url, timeout=30)
            body = {"data": [text], "fn_index": 0, "session_hash": session}
            http.post("gradio_api/queue/join", json=body).raise_for_status()
            with http.stream("GET", "gradio_api/queue/data", params={"session_hash": session}) as stream:
                deadline = time.monotonic() + 60
                for line in stream.iter_lines():
                    assert time.monotonic() < deadline
                    if "process_completed" in line:
                        return line
            raise AssertionError("the stream ended without an answer")

        found: dict[str, str] = {}
        stranger = threading.Thread(target=lambda: found.update(slow=ask("slow", "stranger")))
        stranger.start()
        assert reading.wait(60)
        found["quick"] = ask("quick", "visitor")  # before the change this waited for the stranger's picture
        answered.set()
        stranger.join(60)
        assert "QUICK" in found["quick"] and "SLOW" in found["slow"] and seen == ["back in turn: 1"]
        queue = demo._queue.event_queue_per_concurrency_id[ENCODER]
        until(lambda: queue.current_concurrency == 0)
    finally:
        answered.set()
        demo.close()


def test_a_page_that_is_closed_lets_its_query_go(showcase) -> None:
    demo = build(showcase, SETTINGS, more=())
    demo.guard(QueueSettings())
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", ssr_mode=False)
    try:
        storage = demo.storage
        assert storage is not None
        mine, other = (storage.store(png(1), Owner(session)) for session in ("mine", "other"))
        with httpx.Client(base_url=url, timeout=20) as http, http.stream("GET", "gradio_api/heartbeat/mine") as stream:
            assert "ALIVE" in next(stream.iter_lines())
        until(lambda: mine.closed is not None)
        storage.sweep(time.monotonic() + CLOSED_S + 1)
        assert mine.size == 0 and other.size
    finally:
        demo.close()
