"""web.bodies: how much, how deep and how slowly strangers may send."""

from __future__ import annotations

import asyncio
import json
import time
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchify_core.web import bodies
from patchify_core.web.bodies import DEEPEST, Body, Reader, Refused, checked_json
from patchify_core.web.callers import CALLER
from tests.asgi import JOIN, JSON, Inner, asked, gate, sentence


@pytest.fixture
def inner() -> Inner:
    return Inner()


def call(**named: Any) -> bytes:
    return json.dumps({"data": [], "fn_index": 1, "session_hash": "abc"} | named).encode()


def test_a_body_is_passed_on_as_it_was_sent(inner):
    data = call(data=["ü", 1.5, None, {"a": [True]}, "data:image/png;base64," + "A" * 300_000])
    assert asked(gate(inner), "POST", JOIN, data, JSON)[0] == 200
    assert inner.bodies == [data] and inner.seen[0]["patchify_bytes"] == len(data)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff\xfe{}", 400),
        (b'{"data": ["\\ud800"]}', 400),
        (b'{"data": [' + b"9" * 6000 + b"]}", 400),
        (b"[" * 40 + b"]" * 40, 413),
        (b"[" * 50_000, 413),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, 413),
        (b"[" + b"[]," * 60_000 + b"1]", 413),
        (b'{"data":["' + b"x" * 2_500_000 + b'"]}', 413),
        (call(event_data={"path": "x" * 64_000}), 413),
        (call(session_hash="a b"), 400),
        (call(session_hash="x" * 65), 400),
        (call(session_hash=""), 400),
        (call(event_id="../x"), 400),
    ],
    ids=lambda value: value if isinstance(value, int) else value[:12].decode("latin-1"),
)
def test_what_is_no_json_or_too_much_of_it_is_refused_before_it_is_parsed(inner, data, status):
    for path in (JOIN, "/gradio_api/call/search_by_picture", "/gradio_api/call/v2/search_by_picture"):
        code, said, headers = asked(gate(inner), "POST", path, data, JSON)
        assert code == status and sentence(said) and headers["connection"] == "close"
    assert inner.seen == []


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text() | st.floats(allow_nan=False),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=30,
    )
)
def test_whatever_json_a_page_can_send_is_accepted(value):
    try:
        sent = json.dumps({"data": [value]}, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half a character, which no JSON can be written with
        return
    checked_json(sent)
    checked_json(json.dumps({"data": [value]}).encode())


def test_nesting_is_counted_in_what_is_said_and_not_in_brackets():
    checked_json(json.dumps({"data": ["[" * 5000]}).encode())
    checked_json(b"[" * DEEPEST + b"]" * DEEPEST)
    with pytest.raises(Refused):
        checked_json(b"[" * (DEEPEST + 1) + b"]" * (DEEPEST + 1))


def test_each_kind_of_body_has_its_own_bound(inner):
    opened = gate(inner)
    for path, most in (("/gradio_api/cancel", 64_000), (JOIN, 2_398_101), ("/gradio_api/upload", 1_112_576)):
        pieces = [b" " * (most // 2)] * 3
        status, said, _ = asked(opened, "POST", path, pieces, JSON)
        assert status == 413 and "larger than this server takes" in sentence(said)


def test_a_length_that_is_claimed_is_not_believed(inner):
    headers = [*JSON, (b"content-length", b"2")]
    assert asked(gate(inner), "POST", "/gradio_api/cancel", b"[" + b" " * 70_000 + b"]", headers)[0] == 413


def test_compressed_bodies_are_refused(inner):
    status, said, _ = asked(gate(inner), "POST", JOIN, b"{}", [*JSON, (b"content-encoding", b"gzip")])
    assert status == 415 and sentence(said) and inner.seen == []


def test_long_addresses_and_many_headers_are_refused(inner):
    assert asked(gate(inner), "GET", "/", query=b"q=" + b"x" * 20_000)[0] == 414
    assert asked(gate(inner), "GET", "/", headers=[(b"x-%d" % n, b"1") for n in range(120)])[0] == 431
    assert asked(gate(inner), "GET", "/", headers=[(b"x", b"y" * 40_000)])[0] == 431
    assert asked(gate(inner), "GET", "/", query=b"q=" + b"x" * 1000)[0] == 200


@pytest.mark.parametrize("path", [JOIN, "/gradio_api/upload"])
def test_a_body_that_stops_on_its_way_ends(inner, monkeypatch, path):
    monkeypatch.setattr(bodies, "STALL_S", 0.05)
    status, said, _ = asked(gate(inner), "POST", path, [b"{"], JSON)
    assert status == 408 and "stopped or is too slow" in sentence(said)
    assert inner.bodies == []


def test_a_body_that_trickles_ends_too(monkeypatch):
    monkeypatch.setattr(bodies, "PACE_S", 0.2)
    monkeypatch.setattr(bodies, "SLOWEST", 100)

    async def trickle() -> Any:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def read() -> None:
        await Reader(10**6).read(Body(trickle, 10**6))

    start = time.monotonic()
    with pytest.raises(Refused) as caught:
        asyncio.run(read())
    assert caught.value.status == 408 and time.monotonic() - start < 10


def test_a_call_ends_in_time_however_much_of_it_came(monkeypatch):
    async def trickle() -> Any:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x" * 100_000, "more_body": True}

    async def read() -> None:
        await Reader(10**9).read(Body(trickle, 10**9, 0.2))

    with pytest.raises(Refused) as caught:
        asyncio.run(read())
    assert caught.value.status == 408


async def arriving(reader: Reader, caller: str, sizes: list[int], then: bool = False) -> str:
    """What becomes of a body of pieces of these sizes; unless it ends `then`, no more comes after them."""
    CALLER.set(caller)
    pieces = [{"type": "http.request", "body": b"x" * size, "more_body": True} for size in sizes]
    pieces[-1]["more_body"] = not then

    async def some() -> Any:
        return pieces.pop(0) if pieces else await asyncio.sleep(3600)

    try:
        await reader.read(Body(some, 10**9))
    except Refused as refused:
        return str(refused.status)
    return "read"


def test_bodies_on_their_way_share_one_budget_and_who_holds_most_makes_way(monkeypatch):
    monkeypatch.setattr(bodies, "SMALL", 5)
    reader = Reader(100)

    async def several() -> None:
        async def stays(caller: str, size: int) -> asyncio.Task[str]:
            task = asyncio.create_task(arriving(reader, caller, [size]))
            await asyncio.sleep(0.02)
            return task

        assert await asyncio.create_task(arriving(reader, "a", [100] * 4 + [21])) == "503"  # four of one, no more
        flood = [await stays(caller, 100) for caller in "aaaabbbb"]
        assert not any(task.done() for task in flood)
        assert [await asyncio.create_task(arriving(reader, one, [3, 2], True)) for one in "abc"] == ["read"] * 3
        assert not any(task.done() for task in flood)  # what is small takes nobody's room
        assert await asyncio.create_task(arriving(reader, "c", [60, 30], True)) == "read"
        await asyncio.sleep(0.02)
        assert sum(task.done() for task in flood) == 1 and {await task for task in flood if task.done()} == {"503"}
        for task in flood:
            task.cancel()
        await asyncio.gather(*flood, return_exceptions=True)

    asyncio.run(several())
    assert not reader._callers


def test_a_body_that_has_almost_come_may_not_stay_by_a_trickle(monkeypatch):
    monkeypatch.setattr(bodies, "PACE_S", 0.3)
    pieces = [b"x" * 1_000_000]

    async def trickle() -> Any:
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": pieces.pop() if pieces else b"x" * 50, "more_body": True}

    async def read() -> None:
        await Reader(10**9).read(Body(trickle, 10**9, 30.0))

    with pytest.raises(Refused) as caught:  # 5 kB a second, of a megabyte in thirty seconds
        asyncio.run(asyncio.wait_for(read(), 20))
    assert caught.value.status == 408


@settings(max_examples=50, deadline=None)
@given(total=st.integers(1, 40_000_000), took=st.integers(1, 290))
def test_a_steady_pace_that_brings_all_in_time_never_ends(total, took):
    now, left = [0.0], [total]
    rate = max(total // took + 1, 2 * bodies.SLOWEST)

    async def steady() -> Any:
        now[0] += 1
        piece = min(rate, left[0])
        left[0] -= piece
        return {"type": "http.request", "body": bytes(piece), "more_body": left[0] > 0}

    async def read() -> None:
        body, more = Body(steady, 10**9, bodies.CALL_S), True
        while more:
            more = (await body())["more_body"]
            assert now[0] <= body._due

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bodies, "time", SimpleNamespace(monotonic=lambda: now[0]))
        asyncio.run(read())


def test_who_leaves_in_the_middle_gets_no_answer_and_reaches_nobody(inner):
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": JOIN,
        "query_string": b"",
        "scheme": "http",
        "client": ("::1", 1),
    }
    asyncio.run(gate(inner)(scope | {"headers": [(b"host", b"[::1]")]}, receive, send))
    assert sent == [] and inner.seen == []
