"""web.guarded, routes and uploads: turns, refusals and health, without a server."""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections import Counter
from datetime import timedelta
from types import SimpleNamespace

import gradio as gr
import pytest
from gradio.exceptions import Error
from gradio.queueing import Queue
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from patchify_core.demo.compression import size_label
from patchify_core.demo.settings import QueueSettings
from patchify_core.web import uploads
from patchify_core.web.callers import CALLER
from patchify_core.web.fair_queue import BUSY, ENCODER, PROGRAMS, FairQueue, FairStates
from patchify_core.web.guarded import FAILED, UNFIT, GuardedBlocks
from patchify_core.web.logs import Plain
from patchify_core.web.routes import problem_of


def page(settings: QueueSettings | None = None) -> GuardedBlocks:
    """Three functions: of the page, in its queue of searches; of nobody's queue; of programs."""
    with GuardedBlocks() as demo:
        box = gr.Textbox()
        gr.on([box.change], lambda text: text, box, box, concurrency_id=ENCODER, concurrency_limit=1)
        gr.on([box.blur], lambda text: text, box, box)
        gr.api(echo, api_name="echo", concurrency_id=PROGRAMS, concurrency_limit=1)
    demo.guard(settings or QueueSettings())
    return demo


def echo(value: str) -> str:
    return value


def body(function: int, session: str | None) -> SimpleNamespace:
    return SimpleNamespace(fn_index=function, session_hash=session, event_id=None, request=None)


def push(
    queue: FairQueue, function: int, session: str | None, address: str | None = None, size: int = 0, tool: bool = False
) -> tuple[bool, str, str]:
    client = None if address is None else SimpleNamespace(host=address)
    request = SimpleNamespace(client=client, scope={"patchify_bytes": size, "patchify_tool": tool})
    return asyncio.run(queue.push(body(function, session), request, None))


def test_only_the_queue_leads_to_an_answer():
    assert page().api_open is False


def test_searches_at_once_are_as_the_settings_say():
    demo = page(QueueSettings(at_once=3))
    assert [fn.concurrency_limit for fn in demo.fns.values()] == [3, "default", 1]


def test_one_visitor_cannot_fill_the_queue_and_programs_leave_room():
    queue = page(QueueSettings(waiting=6, of_one=2, of_programs=3))._queue
    assert [push(queue, 0, "a")[2] for _ in range(3)] == ["success", "success", "queue_full"]
    assert push(queue, 0, "a")[1] == BUSY
    assert [push(queue, 2, None)[2] for _ in range(4)] == ["success"] * 3 + ["queue_full"]
    assert push(queue, 0, "b")[2] == "success"
    assert push(queue, 0, "c")[2] == "queue_full"  # Gradio's own limit, for all together


def test_it_is_quiet_once_nobody_asks_and_nobody_is_answered(monkeypatch):
    now = [100.0]
    for module in ("fair_queue", "guarded"):
        monkeypatch.setattr(f"patchify_core.web.{module}.time", SimpleNamespace(monotonic=lambda: now[0]))
    demo = page()
    assert demo.quiet_s() == math.inf
    push(demo._queue, 0, "a")
    now[0] += 2.5
    assert demo.quiet_s() == 2.5
    events, batch, _ = demo._queue.get_events()
    demo._queue.active_jobs = [events]
    assert demo.quiet_s() == 0
    demo._queue.active_jobs = []
    now[0] += 4

    async def answered(*arguments):
        now[0] += 1

    monkeypatch.setattr(Queue, "process_events", answered)  # Gradio's own, which wants a server
    asyncio.run(demo._queue.process_events(events, batch, 0.0, demo.fns[0]))
    assert demo.quiet_s() == 0
    now[0] += 1
    assert demo.quiet_s() == 1


def test_a_function_that_is_not_there_is_refused():
    assert push(page()._queue, 99, "a") == (
        False,
        "There is no such function: reload the page, or see its API.",
        "error",
    )


@pytest.fixture(scope="module")
def one_page() -> GuardedBlocks:
    return page()


@settings(max_examples=40, deadline=None)
@given(sessions=st.lists(st.sampled_from("abc"), min_size=1, max_size=14), seed=st.integers(0, 1000))
def test_answers_come_in_the_order_of_a_visitors_questions_and_never_two_at_once(one_page, sessions, seed):
    chance = random.Random(seed)
    queue = FairQueue(one_page, QueueSettings(of_one=100))
    queue.active_jobs = [None] * 8
    asked = [(session, push(queue, 0, session)[1]) for session in sessions]
    begun, running = [], []
    while len(begun) < len(asked):
        taken = queue.get_events()
        if taken is not None:
            (event,), batch, name = taken
            assert not batch and name == ENCODER
            assert event.session_hash not in [other.session_hash for other in running]
            begun.append((event.session_hash, event._id))
            running.append(event)
            queue.event_queue_per_concurrency_id[name].current_concurrency += 1
            queue.active_jobs[queue.active_jobs.index(None)] = [event]
            assert len(running) <= QueueSettings().at_once
        if taken is None or chance.random() < 0.5:
            assert running  # otherwise nobody would ever be served
            done = running.pop(chance.randrange(len(running)))
            queue.event_queue_per_concurrency_id[ENCODER].current_concurrency -= 1
            queue.active_jobs[queue.active_jobs.index([done])] = None
    for session in "abc":
        assert [one for one in begun if one[0] == session] == [one for one in asked if one[0] == session]


def test_elsewhere_a_newer_request_of_a_visitor_may_overtake_an_older_one():
    queue = page()._queue
    queue.active_jobs = [None] * 8
    push(queue, 1, "a")
    push(queue, 1, "a")
    first = queue.get_events()
    queue.active_jobs[0] = first[0]
    assert queue.get_events() is not None


# Addresses ----------------------------------------------------------------------------------------------------


def waiting_of(queue: FairQueue) -> Counter[str]:
    return Counter(event.request.client.host for event in queue._waiting())


def test_a_flood_of_fresh_sessions_from_one_address_keeps_nobody_else_out():
    queue = page(QueueSettings(waiting=20))._queue
    told = [push(queue, 0, f"flood{number}", "203.0.113.9") for number in range(60)]
    assert [said[2] for said in told] == ["success"] * 20 + ["queue_full"] * 40
    for number in range(8):
        assert push(queue, 0, f"visitor{number}", f"198.51.100.{number}")[2] == "success"
    assert waiting_of(queue)["203.0.113.9"] == 12 and len(queue) == 20
    assert push(queue, 0, "more", "203.0.113.9")[2] == "queue_full"


def test_who_loses_their_place_is_told_so_and_it_is_the_newest():
    queue = page(QueueSettings(waiting=4))._queue
    asked = [push(queue, 0, f"flood{number}", "203.0.113.9")[1] for number in range(4)]
    assert push(queue, 0, "visitor", "198.51.100.1")[2] == "success"
    assert asked[3] not in queue.event_ids_to_events and asked[2] in queue.event_ids_to_events
    messages = queue.pending_messages_per_session["flood3"]
    last = [messages.get_nowait() for _ in range(messages.qsize())][-1]
    assert last.success is False and last.output["error"] == BUSY and last.event_id == asked[3]


def test_programs_share_their_places_by_address_too_and_push_no_visitor_out():
    queue = page(QueueSettings(waiting=20, of_programs=4))._queue
    assert push(queue, 0, "visitor", "203.0.113.9")[2] == "success"
    assert [push(queue, 2, None, "203.0.113.9")[2] for _ in range(5)] == ["success"] * 4 + ["queue_full"]
    assert push(queue, 2, None, "198.51.100.1")[2] == "success"
    assert waiting_of(queue) == {"203.0.113.9": 4, "198.51.100.1": 1}
    assert [event.session_hash for event in queue._waiting() if event.concurrency_id == ENCODER] == ["visitor"]


def test_a_class_behind_one_address_has_all_places_while_nobody_else_asks():
    queue = page(QueueSettings(waiting=60))._queue
    assert {push(queue, 0, f"pupil{number}", "203.0.113.9")[2] for number in range(60)} == {"success"}
    queue.active_jobs = [None] * 2
    taken = [queue.get_events()[0][0].session_hash for _ in range(60)]
    assert taken == [f"pupil{number}" for number in range(60)]


def test_pictures_sent_as_text_may_not_fill_the_memory_while_they_wait(monkeypatch):
    monkeypatch.setattr("patchify_core.web.fair_queue.WAITING_MB", 100)
    queue = page()._queue
    assert [push(queue, 2, None, None, 40_000_000)[2] for _ in range(3)] == ["success", "success", "queue_full"]
    assert push(queue, 0, "visitor")[2] == "success"


def test_callers_of_tools_share_one_session_and_have_turns_and_places_by_address():
    queue = page(QueueSettings(of_one=2, of_programs=6))._queue
    queue.active_jobs = [None] * 8
    said = [push(queue, 2, "shared", "203.0.113.9", tool=True)[2] for _ in range(7)]
    assert said == ["success"] * 6 + ["queue_full"]
    assert push(queue, 2, "shared", "198.51.100.1", tool=True)[2] == "success"
    assert waiting_of(queue) == {"203.0.113.9": 5, "198.51.100.1": 1}
    assert [queue.get_events()[0][0].request.client.host for _ in range(2)] == ["203.0.113.9", "198.51.100.1"]


def test_whoever_fills_the_bytes_makes_way_and_small_requests_are_never_refused_for_them():
    queue = page()._queue
    said = [push(queue, 2, f"flood{number}", "203.0.113.9", 40_000_000)[2] for number in range(8)]
    assert said == ["success"] * 6 + ["queue_full"] * 2
    assert push(queue, 0, "visitor", "198.51.100.1", 63_000)[2] == "success"
    assert push(queue, 0, "pupil", "203.0.113.9", 200)[2] == "success"
    assert waiting_of(queue) == {"203.0.113.9": 7, "198.51.100.1": 1}  # nobody had to go for them
    assert push(queue, 2, "program", "198.51.100.1", 40_000_000)[2] == "success"
    assert "flood5" not in {event.session_hash for event in queue._waiting()}


@settings(max_examples=60, deadline=None)
@given(arrivals=st.lists(st.tuples(st.sampled_from("aaabbc"), st.integers(0, 43)), min_size=9, max_size=30))
def test_bytes_are_shared_by_address(one_page, arrivals):
    queue = FairQueue(one_page, QueueSettings(waiting=100, of_one=100, of_programs=100))
    for number, (address, size) in enumerate(arrivals):
        before = {event._id for event in queue._waiting()}
        accepted = push(queue, 2, str(number), address, size * 1_000_000)[2] == "success"
        held: Counter[str] = Counter()
        for event in queue._waiting():
            held[event.request.client.host] += event.request.scope["patchify_bytes"] / 1_000_000
        assert held.total() <= 256
        if not accepted:  # nobody lost a place for nothing, and nobody has much more than whoever was turned away
            assert before == {event._id for event in queue._waiting()}
            assert size > 0 and held[address] + size >= max(held.values()) - 43


@settings(max_examples=60, deadline=None)
@given(
    arrivals=st.lists(st.sampled_from("aaaaaabbc"), min_size=1, max_size=60),
    most=st.integers(2, 12),
    seed=st.integers(0, 1000),
)
def test_addresses_share_places_and_turns(one_page, arrivals, most, seed):
    chance = random.Random(seed)
    queue = FairQueue(one_page, QueueSettings(waiting=most, of_one=100))
    queue.active_jobs = [None] * 8
    turns: list[str] = []
    for number, address in enumerate(arrivals):
        accepted = push(queue, 1, str(number), address)[2] == "success"
        counts = waiting_of(queue)
        assert sum(counts.values()) <= most
        if not accepted:  # nobody who waits has more than one place more than whoever was turned away
            assert counts[address] >= max(counts.values()) - 1
        if chance.random() < 0.2:
            before = set(waiting_of(queue))
            (event,), _, _ = queue.get_events()
            if turns and len(before) > 1:
                assert event.request.client.host != turns[-1]
            turns.append(event.request.client.host)
        if chance.random() < 0.1:
            turns.clear()
            queue._turns.clear()


def test_what_a_visitor_asked_first_is_answered_first_from_wherever_they_ask():
    queue = page()._queue
    queue.active_jobs = [None] * 8
    for address in ("10.0.0.1", "10.0.0.2", "10.0.0.1"):
        push(queue, 0, "moving", address)
    queue._turns = {"10.0.0.1": 5}
    assert queue.get_events()[0][0].request.client.host == "10.0.0.1"


# Visits -----------------------------------------------------------------------------------------------------


def visits_of(states: FairStates) -> list[str]:
    return list(states.session_data)


def visit(states: FairStates, session: str, address: str) -> None:
    token = CALLER.set(address)
    states[session]
    CALLER.reset(token)


@pytest.fixture
def states(one_page, monkeypatch) -> FairStates:
    found = FairStates(idle_s=1800)
    monkeypatch.setattr(one_page, "state_session_capacity", 40)
    monkeypatch.setattr(one_page, "state_holder", None, raising=False)
    found.set_blocks(one_page)
    return found


def test_a_flood_of_visits_from_one_address_ends_only_visits_of_that_address(states):
    for number in range(30):
        visit(states, f"visitor{number}", f"198.51.100.{number}")
    for number in range(505):
        visit(states, f"flood{number}", "203.0.113.9")
    assert visits_of(states)[:30] == [f"visitor{number}" for number in range(30)]
    assert len(visits_of(states)) == 40 and len(states._owners) == 40 and len(states.time_last_used) == 40


def test_the_oldest_visit_of_the_largest_address_makes_room_for_a_newcomer(states):
    for number in range(10):
        visit(states, f"visitor{number}", f"198.51.100.{number}")
    for number in range(30):
        visit(states, f"pupil{number}", "203.0.113.9")
    visit(states, "new", "198.51.100.99")
    assert "pupil0" not in visits_of(states) and {"new", "visitor0", "pupil1"} <= set(visits_of(states))


def test_visits_that_were_left_long_ago_make_room_first(states):
    for number in range(40):
        visit(states, f"visitor{number}", f"198.51.100.{number}")
    states.time_last_used["visitor0"] -= timedelta(hours=1)
    for number in range(3):
        visit(states, f"pupil{number}", "203.0.113.9")
    assert "visitor0" not in visits_of(states) and "pupil2" in visits_of(states)


def test_what_was_kept_for_a_forgotten_visit_goes_with_it(states, one_page):
    queue = one_page._queue
    for number in range(60):
        queue.pending_event_ids_session[f"flood{number}"] = set()
        queue.pending_messages_per_session[f"flood{number}"] = asyncio.Queue()
        visit(states, f"flood{number}", "203.0.113.9")
    assert len(queue.pending_messages_per_session) == len(queue.pending_event_ids_session) == 40


def test_a_class_behind_one_address_is_remembered(states):
    for number in range(40):
        visit(states, f"pupil{number}", "203.0.113.9")
    assert visits_of(states) == [f"pupil{number}" for number in range(40)]


FILE = {"meta": {"_type": "gradio.FileData"}}


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ([{"path": "http://example.org/x.jpg", **FILE}], "fetches nothing"),
        ([{"a": [{"path": "https://example.org/x.jpg", **FILE}]}], "fetches nothing"),
        ([], "does not fit"),
        ([{"path": "x", "meta": 5}], "does not fit"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence_and_leaves_no_traceback(values, word):
    demo = page()
    with pytest.raises(Error) as caught:
        asyncio.run(demo.preprocess_data(demo.fns[2], values, None))
    assert word in caught.value.message and not caught.value.print_exception


def test_gradios_own_refusals_do_not_quote_what_was_sent_in_the_log():
    with GuardedBlocks() as demo:
        gr.on([gr.Radio([1, 2]).change], lambda level: level, gr.Radio([1, 2]), gr.Radio([1, 2]))
    with pytest.raises(Error) as caught:
        asyncio.run(demo.process_api(demo.fns[0], ["a stranger's bytes"], demo_state(demo)))
    assert caught.value.message == UNFIT and not caught.value.print_exception


@pytest.mark.parametrize(
    "value",
    [
        {"path": "a stranger's bytes" * 1000},
        {"path": "\0"},
        {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}},
        {"a": [{"path": "http://a stranger's bytes", "meta": {"_type": "gradio.FileData"}}]},
        {"path": "", "meta": {"_type": "gradio.FileData"}},
        [["a stranger's bytes"]],
        5,
        None,
    ],
)
def test_what_an_event_comes_with_is_refused_in_a_sentence_or_taken(value, caplog, capfd):
    def told(event: gr.EventData) -> str:
        return "told"

    caplog.set_level("DEBUG")
    with GuardedBlocks() as demo:
        box = gr.Textbox()
        gr.on([box.change], told, None, box)
    event = gr.EventData(box, value)
    try:
        found = asyncio.run(demo.process_api(demo.fns[0], [], demo_state(demo), event_data=event))
        assert found["data"] == ["told"]
    except Error as error:
        assert error.message == UNFIT and not error.print_exception
    written = caplog.text + "".join(capfd.readouterr())
    assert "stranger" not in written and "Traceback" not in written
    assert all(len(record.getMessage()) < 200 for record in caplog.records if record.name.startswith("patchify"))


def test_our_own_unexpected_errors_keep_their_traceback_and_not_the_values(caplog):
    def in_words(value: str) -> str:
        return size_label(value)

    with GuardedBlocks() as demo:
        gr.api(in_words, api_name="words")
    with pytest.raises(Error) as caught:
        asyncio.run(demo.process_api(demo.fns[0], ["a stranger's bytes"], demo_state(demo)))
    assert caught.value.message == FAILED and not caught.value.print_exception
    text = Plain().format(caplog.records[-1])
    assert "in size_label" in text and "Unforeseen: TypeError" in text and "stranger's" not in text


def demo_state(demo: gr.Blocks):
    from gradio.state_holder import SessionState

    return SessionState(demo)


def test_what_programs_send_is_not_kept_with_their_session():
    from gradio.state_holder import SessionState

    demo = page()
    state = SessionState(demo)
    assert asyncio.run(demo.preprocess_data(demo.fns[2], ["a secret"], state)) == ["a secret"]
    assert "a secret" not in json.dumps(state.config_values, default=str)


def test_each_upload_has_a_folder_of_its_own_that_goes_with_it(tmp_path, monkeypatch):
    import gradio.routes

    async def plain(request, folder, limit, force_move):
        assert force_move
        if limit == 0:
            raise ValueError
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "photo.jpg").write_bytes(b"x")
        return [f"{folder}/photo.jpg"], [], []

    monkeypatch.setattr(gradio.routes, "upload_fn", plain)
    uploads.keep_uploads_apart()
    uploads.keep_uploads_apart()  # once is enough
    first, second = (asyncio.run(gradio.routes.upload_fn(None, str(tmp_path), 1))[0][0] for _ in range(2))
    assert first != second
    for path in (first, second):
        file = tmp_path / path
        assert len(file.relative_to(tmp_path).parts) == 2
        file.unlink()
        uploads.forget_folders(file, tmp_path)
    with pytest.raises(ValueError):
        asyncio.run(gradio.routes.upload_fn(None, str(tmp_path), 0))
    assert not any(tmp_path.iterdir()) and tmp_path.exists()


def test_an_upload_that_breaks_off_leaves_nothing_and_a_form_without_files_is_refused(tmp_path, monkeypatch):
    import gradio.routes
    from starlette.exceptions import HTTPException
    from starlette.formparsers import MultiPartException
    from starlette.requests import ClientDisconnect

    faults = [ClientDisconnect(), TypeError("a field"), asyncio.CancelledError()]

    async def plain(request, folder, limit, force_move):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "tmp1234").write_bytes(b"half of it")
        raise faults[limit]

    monkeypatch.setattr(gradio.routes, "upload_fn", plain)
    uploads.keep_uploads_apart()
    for number, expected in enumerate((MultiPartException, HTTPException, asyncio.CancelledError)):
        with pytest.raises(expected):
            asyncio.run(gradio.routes.upload_fn(None, str(tmp_path), number))
        assert not any(tmp_path.iterdir())


def test_folders_that_are_not_empty_or_elsewhere_stay(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "other").write_text("")
    uploads.forget_folders(tmp_path / "a" / "b" / "photo.jpg", tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "other"]
    (tmp_path / "c").mkdir()
    uploads.forget_folders(tmp_path / "c" / "photo.jpg", tmp_path / "a")
    assert (tmp_path / "c").exists()


# Health -----------------------------------------------------------------------------------------------------


class Case:
    """A showcase, as far as health looks at it."""

    def __init__(self, path, loaded=True) -> None:
        self.folder = path
        self.examples, self.prepared = [0, 1, 2], {1}
        self.gallery = SimpleNamespace(images=[SimpleNamespace(path=path / "0.png")])
        self.indexes = SimpleNamespace(first="index", choices={"index": None}, is_loaded=lambda name: loaded)


def answered(demo, case):
    from starlette.applications import Starlette

    from patchify_core.web.routes import routes

    return TestClient(Starlette(routes=routes(case, demo))).get("/health")


def test_health_is_ok_and_says_how_busy_it_is(tmp_path):
    (tmp_path / "0.png").write_bytes(b"")
    demo = page()
    push(demo._queue, 0, "a")
    said = answered(demo, Case(tmp_path))
    assert said.status_code == 200
    numbers = said.json()
    assert numbers.pop("uptime_s") >= 0 and numbers.pop("longest_wait_s") >= 0 and numbers.pop("version")
    queue = {"running": 0, "waiting": 1}
    examples = {"examples": 3, "prepared": 1}
    assert numbers == {"status": "ok", "pictures": 1, "indexes": ["index"]} | examples | queue


def test_health_says_why_no_search_can_be_answered(tmp_path):
    demo = page()
    said = answered(demo, Case(tmp_path))
    assert said.status_code == 503 and said.json()["status"] == "unavailable" and "gone" in said.json()["reason"]
    (tmp_path / "0.png").write_bytes(b"")
    assert problem_of(Case(tmp_path), False) is None
    assert "not loaded" in problem_of(Case(tmp_path, loaded=False), False)
    demo._queue.close()
    assert answered(demo, Case(tmp_path)).status_code == 503
