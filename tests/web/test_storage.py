"""What visitors leave: budgets, ages, folders of killed servers, stalled connections and slow pictures."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from types import SimpleNamespace

import gradio as gr
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchify_core.demo import server_folders
from patchify_core.demo.example_gallery import ExampleGallery
from patchify_core.demo.own import registry
from patchify_core.demo.own.registry import Registry
from patchify_core.demo.server_folders import (
    GRADIO,
    LOCK_PREFIX,
    PREFIX,
    UPLOADS_PREFIX,
    ServerFolders,
    delete_abandoned,
)
from patchify_core.demo.settings import MEGABYTE, PageSettings, QueueSettings
from patchify_core.demo.storage import (
    CLOSED_S,
    IDLE_S,
    UNFETCHED_S,
    UNREAD_S,
    Budget,
    Owner,
    StoredItem,
    StoredPicture,
    VisitorStorage,
)
from patchify_core.errors import PatchifyError
from patchify_core.files import ROOT
from patchify_core.gallery import read_coco
from patchify_core.index.build import build_index
from patchify_core.regions import parse_regions
from patchify_core.web import visits
from patchify_core.web.events import SearchRequest
from patchify_core.web.fair_queue import ENCODER
from patchify_core.web.guarded import GuardedBlocks
from tests.tiny import TinyEncoder, picture, write_dataset

SETTINGS = PageSettings(memory_mb=1, own_total_mb=8, own_mb=2, upload_mb=1, archive_mb=2, forget_s=600)


def png(seed: int, size: tuple[int, int] = (24, 18)) -> bytes:
    stream = BytesIO()
    picture(seed, size).save(stream, "PNG")
    return stream.getvalue()


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


# Memory ---------------------------------------------------------------------------------------------------


def test_queries_of_sixty_visitors_fit_the_budget_and_the_pushed_out_are_told(refused):
    storage = VisitorStorage(SETTINGS)
    held = [storage.store(bytes(30_000), Owner(f"visit {n}", "class")) for n in range(60)]
    assert storage.memory.bytes <= MEGABYTE
    there = [one for one in held if one.size]
    assert there == held[-33:]  # the oldest made way
    assert there[0].read() == bytes(30_000)
    assert "send it again" in refused(held[0].read)


def test_what_is_larger_than_the_budget_is_refused_and_pushes_nobody_out(refused):
    storage = VisitorStorage(SETTINGS)
    held = storage.store(bytes(500_000), Owner("a", "a"))
    assert "no room" in refused(storage.store, bytes(1_000_001), Owner("b", "b"))
    assert held.size == 500_000


def test_a_stranger_who_sends_much_makes_way_for_themselves():
    storage = VisitorStorage(SETTINGS)
    quiet = [storage.store(bytes(30_000), Owner(f"pupil {n}", f"10.0.0.{n}")) for n in range(10)]
    for n in range(500):
        storage.store(bytes(100_000), Owner(f"session {n}", "10.9.9.9"))
    assert all(one.size for one in quiet)


class Weight(StoredItem):
    def __init__(self, size: int, owner: Owner) -> None:
        super().__init__(owner)
        self._size = size

    @property
    def size(self) -> int:
        return self._size

    def drop(self) -> None:
        self._size = 0


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 60),
    st.integers(0, 40),
    st.lists(st.tuples(st.integers(0, 30), st.sampled_from("abc"), st.booleans()), max_size=40),
)
def test_room_is_never_exceeded_and_who_takes_less_is_not_pushed_out(most, others, takes):
    room: Budget[Weight] = Budget(most, most, lambda: others if others <= most else most)
    all_of_them: list[Weight] = []
    for size, address, pushes in takes:
        before = {one: one.size for one in all_of_them}
        taken = Counter({address: size if pushes else 0})
        for one, weight in before.items():
            taken[one.owner.address] += weight
        new = Weight(size, Owner("", address))
        done = room.add(new) if pushes else room.make_room(new.owner, size)
        gone = [one for one, weight in before.items() if weight and not one.size]
        assert room.bytes <= most and (done or not gone)
        for one in gone if pushes else ():
            assert one.owner.address == address or taken[one.owner.address] >= size  # their own went first
        if done and pushes:
            all_of_them.append(new)


def test_what_was_idle_for_long_makes_way_for_whoever_takes_more():
    room: Budget[Weight] = Budget(3)
    small = Weight(2, Owner("", "a"))
    assert room.add(small) and not room.add(Weight(3, Owner("", "b"))) and small.size
    small.used -= IDLE_S + 1
    assert room.add(Weight(3, Owner("", "b"))) and not small.size


def test_a_question_that_is_gone_takes_no_room():
    storage = VisitorStorage(SETTINGS)
    held = storage.store(bytes(900_000), Owner("a"))
    assert copy.deepcopy(held) is held
    del held
    gc.collect()
    assert storage.memory.bytes == 0


def test_queries_end_with_the_page_and_when_they_are_idle():
    storage, now = VisitorStorage(SETTINGS), time.monotonic()
    closed, back, idle = (storage.store(b"x", Owner(name)) for name in ("closed", "back", "idle"))
    storage.close_visit("closed")
    storage.close_visit("back")
    back.touch()
    storage.sweep(now + CLOSED_S + 1)
    assert (closed.size, back.size, idle.size) == (0, 1, 1)
    storage.sweep(now + SETTINGS.forget_s + 5)
    assert (back.size, idle.size) == (0, 0)


def test_a_query_is_counted_with_its_copy_and_told_apart_when_it_is_gone(showcase, refused):
    storage = VisitorStorage(SETTINGS)
    page = visits.Visits(showcase, SETTINGS)
    held = storage.store(png(1, (200, 150)), Owner("a"))
    query = showcase.upload(held)
    assert query.is_private and query.preview and held.size > len(held.read()) and query.data is held
    key = query.key
    boxed = showcase.with_box(query, (5, 5, 90, 80))
    assert boxed.data is held and boxed.key == key
    held.drop()
    assert query.key == key and query.preview == b"" and storage.memory.bytes == 0
    assert "send it again" in refused(showcase.with_box, query, (1, 1, 20, 20))
    answer = page.answer(SearchRequest(query, 3, 5, None, "patch"))  # what was described is searched all the same
    assert len(answer.results) == 5


def test_an_upload_at_the_page_is_held_and_the_page_that_closes_lets_it_go(showcase, tmp_path, monkeypatch):
    monkeypatch.setenv(GRADIO, str(tmp_path))
    page = visits.Visits(showcase, SETTINGS)
    (tmp_path / "a.png").write_bytes(png(3))
    asked = SearchRequest(showcase.first(), 3, 5, None, "patch")
    query = page.take_upload(asked, SimpleNamespace(_data={"path": str(tmp_path / "a.png")}))["question"]
    assert isinstance(query.data, StoredPicture) and page.storage.memory.bytes == query.data.size > 0
    page.leave(SimpleNamespace(session_hash=""))
    page.storage.sweep(time.monotonic() + CLOSED_S + 1)
    assert page.storage.memory.bytes == 0


def test_answers_that_nobody_fetches_are_counted_and_end():
    from gradio.server_messages import ProcessCompletedMessage

    with GuardedBlocks() as demo:
        box = gr.Textbox()
        gr.on([box.change], lambda text: text, box, box, concurrency_id=ENCODER, concurrency_limit=1)
    demo.storage = VisitorStorage(SETTINGS)
    demo.guard(QueueSettings(of_one=100))
    queue = demo._queue

    def answer(session: str, size: int) -> None:
        body = SimpleNamespace(fn_index=0, session_hash=session, event_id=None, request=None)
        event = queue.event_ids_to_events[asyncio.run(queue.push(body, None, None))[1]]
        queue.send_message(event, ProcessCompletedMessage(output={"data": ["x" * size]}, success=True))

    for _ in range(30):  # a flood that never fetches
        answer("stranger", 100_000)
    assert demo.storage.memory.bytes <= MEGABYTE
    answer("visitor", 1000)
    messages = queue.pending_messages_per_session["visitor"]
    assert messages.qsize() and demo.storage.memory.bytes > 1000
    demo.storage.sweep(time.monotonic() + UNFETCHED_S + 1)
    assert demo.storage.memory.bytes == 0 and messages.qsize() == 0
    answer("visitor", 1000)  # and what is fetched is counted no more
    messages.get_nowait()
    while messages.qsize():
        messages.get_nowait()
    assert demo.storage.memory.bytes == 0


def test_a_session_keeps_no_copy_of_what_was_sent_and_shown():
    from gradio.state_holder import SessionState

    with GuardedBlocks() as demo:
        box = gr.Textbox()
        kept = gr.State(None)
        gr.on([box.change], lambda text: (text, text), box, [box, kept])
    demo.guard(QueueSettings())
    state = SessionState(demo)
    assert asyncio.run(demo.preprocess_data(demo.fns[0], ["what was sent"], state)) == ["what was sent"]
    assert asyncio.run(demo.postprocess_data(demo.fns[0], ["what is shown", "asked"], state))[0] == "what is shown"
    assert "what" not in str(state.config_values) and state[kept._id] == "asked"


def test_indexes_of_own_pictures_are_counted_in_memory_and_on_the_disk(own, refused):
    visitor = own.visitor(own.create())
    for seed in range(6):
        visitor.collection.add(f"{seed}.png", png(seed))
    pictures = visitor.collection.bytes
    visitor.indexer.start()
    visitor.indexer.join(60)
    assert own.storage.memory.bytes == visitor.memory == int(6 * visitor.indexer.index.bytes_per_image)
    visitor.measure_disk()
    on_disk = sum(p.stat().st_size for p in visitor.collection.folder.rglob("*") if p.is_file())
    assert own.bytes == on_disk > pictures
    own.storage.memory.most = visitor.memory + 10
    other = own.visitor(own.create())
    other.collection.add("a.png", png(9))
    other.indexer.start()
    other.indexer.join(60)
    assert "no room" in other.status()["error"]
    own.delete(visitor.collection.token)
    assert own.storage.memory.bytes == 0


# The disk -------------------------------------------------------------------------------------------------


def test_uploads_that_nobody_reads_end_and_make_way(tmp_path, refused):
    storage = VisitorStorage(SETTINGS, tmp_path)
    parcels = []
    for n in range(12):
        folder = tmp_path / str(n)
        folder.mkdir()
        (folder / "file").write_bytes(bytes(500_000))
        parcel = storage.begin_upload(folder, Owner(address="a"))
        storage.grow(parcel, 500_000)
        parcel.arriving = False
        parcels.append(parcel)
    assert storage.disk.bytes == 2_000_000 and [p.folder.exists() for p in parcels] == [False] * 8 + [True] * 4
    assert "fill the server" in refused(storage.grow, parcels[0], 1)
    (tmp_path / "cut").mkdir()  # what lies there and is nobody's
    (tmp_path / "loose").write_bytes(b"x")
    storage.sweep(time.monotonic() + UNREAD_S - 5)
    assert (tmp_path / "cut").exists() and parcels[-1].folder.exists()
    storage.sweep(time.monotonic() + UNREAD_S + 5)
    assert list(tmp_path.iterdir()) == [] and storage.disk.bytes == 0


def test_what_is_read_is_counted_no_more_and_what_arrives_is_not_swept(tmp_path):
    storage = VisitorStorage(SETTINGS, tmp_path)
    folder = tmp_path / "slow"
    folder.mkdir()
    parcel = storage.begin_upload(folder, Owner())
    storage.grow(parcel, 1000)
    storage.sweep(time.monotonic() + UNREAD_S + 5)
    assert folder.exists() and storage.disk.bytes == 1000
    parcel.arriving = False
    folder.rmdir()
    assert storage.disk.bytes == 0


def test_uploads_make_way_for_own_pictures_and_not_the_other_way_round(own, refused):
    token = own.create()
    visitor = own.visitor(token)
    folder = own.folders.uploads / "unread"
    folder.mkdir()
    parcel = own.storage.begin_upload(folder, Owner(address="a"))
    own.storage.grow(parcel, 1_900_000)
    parcel.arriving = False
    visitor.incoming = 7_000_000
    own.check_upload(visitor)
    assert not folder.exists() and own.bytes == 7_000_000
    late = own.storage.begin_upload(own.folders.uploads / "late", Owner(address="b"))
    assert "fill the server" in refused(own.storage.grow, late, 1_100_000)
    visitor.incoming = 0


def test_one_address_leaves_room_for_others(own):
    hoarders = [own.visitor(own.create("10.0.0.1")) for _ in range(4)]
    for one in hoarders[:3]:
        one.incoming = 2_000_000
    assert not own._has_room(hoarders[3].owner, 1) and own._has_room(Owner("x", "10.0.0.2"), 1_000_000)
    for one in hoarders:
        one.incoming = 0


def test_collections_of_one_address_keep_no_other_out(own, monkeypatch):
    monkeypatch.setattr(registry, "MOST_VISITORS", 4)
    tokens = [own.create("10.0.0.1") for _ in range(4)]
    for number, token in enumerate(tokens):
        own.visitor(token).collection.add("a.png", png(number))
    with pytest.raises(PatchifyError, match="Too many"):
        own.create("10.0.0.1")
    kept = own.create("10.0.0.2")
    assert kept in own.tokens and tokens[0] not in own.tokens and len(own) == 4


def test_a_full_table_lets_newcomers_in_until_all_addresses_have_alike(own, monkeypatch):
    monkeypatch.setattr(registry, "MOST_VISITORS", 6)
    tokens = [own.create(f"10.0.0.{1 + number % 2}") for number in range(6)]
    for number, token in enumerate(tokens):
        own.visitor(token).collection.add("a.png", png(number))
    own.visitor(tokens[0])  # seen just now
    newcomers = []
    for number in range(3):
        newcomers.append(own.create(f"10.0.1.{number}"))
        own.visitor(newcomers[-1]).collection.add("a.png", png(10 + number))
        assert len(own) == 6
    there = Counter(one.owner.address for one in own._visitors.values())
    assert there == {"10.0.0.1": 1, "10.0.0.2": 2, "10.0.1.0": 1, "10.0.1.1": 1, "10.0.1.2": 1}
    assert tokens[0] in own.tokens and set(newcomers) <= set(own.tokens)
    with pytest.raises(PatchifyError, match="Too many"):  # who has one takes none from who has two
        own.create("10.0.1.0")


# Servers that were killed ------------------------------------------------------------------------------------


def test_a_killed_servers_folders_go_with_the_next_start_and_a_living_ones_stay(tmp_path, monkeypatch):
    parent, named = tmp_path / "tmp", tmp_path / "named"
    parent.mkdir()
    code = (
        "import sys, time; from patchify_core.demo.server_folders import ServerFolders; made = ServerFolders.create();"
        "(made.folder / 'token').mkdir(); (made.uploads / 'x').mkdir(); print(made.folder.name, flush=True);"
        "time.sleep(100)"
    )
    variables = os.environ | {"TMPDIR": str(parent), "TEMP": str(parent), "TMP": str(parent), GRADIO: str(named)}
    started = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, env=variables)
        for _ in range(2)
    ]
    try:
        dead, living = (process.stdout.readline().strip() for process in started)
        started[0].kill()
        started[0].wait(60)
        assert {p.name for p in parent.iterdir() if p.is_dir()} == {dead, living} and len(list(named.iterdir())) == 2
        monkeypatch.setattr(tempfile, "tempdir", str(parent))
        environ = {GRADIO: str(named)}
        made = ServerFolders.create(environ)
        assert {p.name for p in parent.iterdir() if p.is_dir()} == {living, made.folder.name}
        locks = {LOCK_PREFIX + name.removeprefix(PREFIX) for name in (living, made.folder.name)}
        assert {p.name for p in parent.iterdir() if p.is_file()} == locks
        assert {p.name.removeprefix(UPLOADS_PREFIX) for p in named.iterdir()} == {
            name.removeprefix(PREFIX) for name in (living, made.folder.name)
        }
        assert environ[GRADIO] == str(made.uploads) and oct(made.uploads.stat().st_mode)[-3:] in ("700", "777")
        made.close()
        made.close()
        assert {p.name for p in parent.iterdir() if p.is_dir()} == {living}
    finally:
        for process in started:
            process.kill()
            process.wait(60)
            process.stdout.close()


def test_uploads_of_a_dead_server_go_though_its_other_folder_has_gone(tmp_path):
    dead, living = ServerFolders(tmp_path / f"{PREFIX}dead"), ServerFolders(tmp_path / f"{PREFIX}living")
    dead._lock.close()  # as the system does when it is killed
    for one in (dead, living):
        one.folder.rmdir()
    delete_abandoned(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {f"{UPLOADS_PREFIX}living", f"{LOCK_PREFIX}living"}
    living.close()
    dead._lock = None


def test_uploads_of_a_server_whose_other_folder_is_gone_go_by_age(tmp_path):
    for name, age in (("old", server_folders.STALE_S + 10), ("new", 0)):
        folder = tmp_path / f"{UPLOADS_PREFIX}{name}"
        folder.mkdir()
        os.utime(folder, (time.time() - age,) * 2)
    delete_abandoned(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [f"{UPLOADS_PREFIX}new"]
