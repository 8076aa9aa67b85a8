"""A client of the page that sends the requests of Gradio's script, and floods of such clients.

A page's functions are called by number with the values of the components that they read; both are in the page's
configuration. Results arrive as a stream of events. Floods send requests as fast as they can, beside the visitors of
`bench serve`.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import sys
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from patchify_core.errors import PatchifyError

TIMEOUT_S = 120.0

ADDRESSES = 20
"""Number of addresses of the flood from many addresses: 127.0.0.2 and those after it."""

AT_ONCE = 4
"""Concurrent requests of the flood from one address."""


class Busy(PatchifyError):
    """The server is busy."""


class Browser:
    """One visit to the page. An async context manager.

    Args:
        url: Address of the page, without a slash at the end.
        address: Local address to connect from; any by default.
    """

    def __init__(self, url: str, address: str | None = None) -> None:
        import httpx

        limits = httpx.Limits(max_connections=None, keepalive_expiry=2.0)  # sooner than the server closes them
        transport = httpx.AsyncHTTPTransport(local_address=address, limits=limits)
        self._http = httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, transport=transport)
        self._session = secrets.token_hex(6)
        self._values: dict[int, Any] = {}
        self._ids: dict[str, int] = {}
        self._functions: list[dict[str, Any]] = []

    async def __aenter__(self) -> Browser:
        """Open the page."""
        (await self._http.get("/photos")).raise_for_status()
        config = (await self._http.get("/config")).raise_for_status().json()
        for component in config["components"]:
            props = component["props"]
            self._values[component["id"]] = props.get("value")
            if props.get("elem_id"):
                self._ids[props["elem_id"]] = component["id"]
        self._functions = config["dependencies"]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the page."""
        await self._http.aclose()

    def new_session(self) -> None:
        """Take a new session, as a visitor whom the server has never seen."""
        self._session = secrets.token_hex(6)

    def html(self, element: str) -> str:
        """Return the HTML that an element of the page shows."""
        return str(self._values[self._ids[element]])

    def picture(self) -> str:
        """Return the key of the query picture, which the page sends with a box."""
        match = re.search(r'data-picture="([^"]*)"', self.html("pf-query"))
        if match is None:
            raise PatchifyError("The page shows no query picture: its markup has changed.")
        return match[1]

    async def upload(self, data: bytes) -> str:
        """Upload a picture; return its path on the server."""
        answer = await self._http.post("/gradio_api/upload", files={"files": ("photo.jpg", data, "image/jpeg")})
        path: str = answer.raise_for_status().json()[0]
        return path

    async def send(self, element: str, event: str, data: Any) -> None:
        """Trigger an event of an element, and wait for the result.

        Raises:
            Busy: If the server is busy.
            PatchifyError: If it answers with a notice or an error.
        """
        function = self._function(element, event)
        self._take(function["outputs"], await self._result(await self.join(element, event, data)))

    async def _result(self, event_id: str) -> list[Any]:
        values: list[Any] = []
        async with self._http.stream("GET", "/gradio_api/queue/data", params={"session_hash": self._session}) as stream:
            stream.raise_for_status()
            async for line in stream.aiter_lines():
                message = json.loads(line[5:]) if line.startswith("data:") else {}
                if message.get("msg") == "log":
                    raise PatchifyError(f"The page said: {message['log']}")
                if message.get("event_id") == event_id and message.get("msg") == "process_completed":
                    if not message["success"]:
                        raise PatchifyError(f"The page said: {message['output'].get('error')}")
                    values = message["output"]["data"]
                if message.get("msg") == "close_stream":
                    break
        return values

    async def call(self, endpoint: str, values: list[Any]) -> list[Any]:
        """Call an endpoint of the page's API within this visit; errors as for `send`."""
        function = next((one for one in self._functions if one.get("api_name") == endpoint), None)
        if function is None:
            raise PatchifyError(f"The page's API has no {endpoint}: it has changed.")
        return await self._result(await self._join(function["id"], None, values, None))

    async def join(self, element: str, event: str, data: Any) -> str:
        """Trigger an event without waiting for the result; return the id of its event."""
        function = self._function(element, event)
        values = [self._values.get(one) for one in function["inputs"]]
        return await self._join(function["id"], self._ids[element], values, data)

    async def _join(self, function: int, trigger: int | None, values: list[Any], data: Any) -> str:
        answer = await self._http.post(
            "/gradio_api/queue/join",
            json={
                "data": values,
                "event_data": data,
                "fn_index": function,
                "trigger_id": trigger,
                "session_hash": self._session,
            },
        )
        if answer.status_code == 503:
            raise Busy(answer.json()["detail"])
        event_id: str = answer.raise_for_status().json()["event_id"]
        return event_id

    def _function(self, element: str, event: str) -> dict[str, Any]:
        wanted = [self._ids[element], event]
        function = next((one for one in self._functions if wanted in [list(target) for target in one["targets"]]), None)
        if function is None:
            raise PatchifyError(f"The page does nothing at {event} of {element}: its markup has changed.")
        return function

    def _take(self, outputs: list[int], values: list[Any]) -> None:
        for one, value in zip(outputs, values, strict=True):
            if isinstance(value, dict) and value.get("__type__") == "update":
                if "value" in value:
                    self._values[one] = value["value"]
            else:
                self._values[one] = value


@dataclass(frozen=True)
class Floods:
    """Number of requests of each kind of flood, which begin halfway through the benchmark.

    Attributes:
        at_once: Concurrent requests of one session.
        sessions: Requests of one address, each with its own session.
        addresses: Requests of twenty addresses together, each with its own session.
    """

    at_once: int = 0
    sessions: int = 0
    addresses: int = 0

    def checked(self) -> Floods:
        """Return the floods themselves.

        Raises:
            PatchifyError: If a number is negative, or this system's loopback has a single address.
        """
        if min(self.at_once, self.sessions, self.addresses) < 0:
            raise PatchifyError("A flood has no negative number of requests: --flood 500.")
        if self.by_address and sys.platform != "linux":
            raise PatchifyError("Floods from other addresses need Linux, which has all of 127.0.0.0/8: leave them out.")
        return self

    @property
    def by_address(self) -> bool:
        """Whether the floods differ in their addresses, so that visitors need their own."""
        return self.sessions > 0 or self.addresses > 0

    async def run(self, url: str, after_s: float) -> dict[str, int]:
        """Run all floods at the same time; return for each kind the number of refused requests.

        Args:
            url: Address of the page.
            after_s: Delay in seconds.
        """
        await asyncio.sleep(after_s)
        one, many = ["127.0.0.2"] * AT_ONCE, [f"127.0.0.{number + 2}" for number in range(ADDRESSES)]
        refused = await asyncio.gather(
            _at_once(url, self.at_once), _fresh(url, self.sessions, one), _fresh(url, self.addresses, many)
        )
        return dict(zip(("at_once", "sessions", "addresses"), refused, strict=True))


def address_of_visitor(number: int) -> str:
    """Return a loopback address for one visitor, different from those of floods."""
    return f"127.0.{1 + number // 250}.{1 + number % 250}"


async def _at_once(url: str, requests: int) -> int:
    if not requests:
        return 0
    async with Browser(url) as browser:
        requests_at_once = (browser.join("pf-results", "look", {"id": 1}) for _ in range(requests))
        answers = await asyncio.gather(*requests_at_once, return_exceptions=True)
        return sum(isinstance(answer, Busy) for answer in answers)


async def _fresh(url: str, requests: int, addresses: list[str]) -> int:
    """Send requests, each with a new session, from clients at these addresses; return the number of refused ones."""

    async def client(address: str, count: int) -> int:
        busy = 0
        async with Browser(url, address) as browser:
            for _ in range(count):
                browser.new_session()
                try:
                    await browser.join("pf-results", "look", {"id": 1})
                except Busy:
                    busy += 1
        return busy

    if not requests:
        return 0
    share = -(-requests // len(addresses))
    counts = [min(share, max(0, requests - number * share)) for number in range(len(addresses))]
    refused = await asyncio.gather(
        *(client(*one) for one in zip(addresses, counts, strict=True)), return_exceptions=True
    )
    return sum(one for one in refused if isinstance(one, int))
