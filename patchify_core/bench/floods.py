"""Clients that ask as fast as they can, beside the visitors of `bench serve`."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass

from patchify_core.bench.browser import Browser, Busy
from patchify_core.errors import PatchifyError

ADDRESSES = 20
"""Addresses of the flood from many: 127.0.0.2 and those after it."""

AT_ONCE = 4
"""Requests that the flood from one address has on their way at once."""


@dataclass(frozen=True)
class Floods:
    """How many requests there are of each kind, from the middle of the time on.

    Attributes:
        at_once: of one client with one session, all at the same time.
        sessions: of one address, each with a session of its own.
        addresses: of twenty addresses together, each with a session of its own.
    """

    at_once: int = 0
    sessions: int = 0
    addresses: int = 0

    def checked(self) -> Floods:
        """Itself.

        Raises:
            PatchifyError: if a number is negative, or this system has no further addresses on its loopback.
        """
        if min(self.at_once, self.sessions, self.addresses) < 0:
            raise PatchifyError("A flood has no negative number of requests: --flood 500.")
        if self.by_address and sys.platform != "linux":
            raise PatchifyError("Floods from other addresses need Linux, which has all of 127.0.0.0/8: leave them out.")
        return self

    @property
    def by_address(self) -> bool:
        """Whether addresses matter, so that visitors need their own too."""
        return self.sessions > 0 or self.addresses > 0

    async def run(self, url: str, after_s: float) -> dict[str, int]:
        """All of them, at the same time; of each kind, how many requests were told to wait.

        Args:
            url: address of the page.
            after_s: seconds until they begin.
        """
        await asyncio.sleep(after_s)
        one, many = ["127.0.0.2"] * AT_ONCE, [f"127.0.0.{number + 2}" for number in range(ADDRESSES)]
        told = await asyncio.gather(
            _at_once(url, self.at_once), _fresh(url, self.sessions, one), _fresh(url, self.addresses, many)
        )
        return dict(zip(("at_once", "sessions", "addresses"), told, strict=True))


def address_of_visitor(number: int) -> str:
    """An address of the loopback range for one visitor, away from those of floods."""
    return f"127.0.{1 + number // 250}.{1 + number % 250}"


async def _at_once(url: str, requests: int) -> int:
    if not requests:
        return 0
    async with Browser(url) as browser:
        asked = (browser.join("pf-results", "look", {"id": 1}) for _ in range(requests))
        answers = await asyncio.gather(*asked, return_exceptions=True)
        return sum(isinstance(answer, Busy) for answer in answers)


async def _fresh(url: str, requests: int, addresses: list[str]) -> int:
    """Requests of as many sessions, shared by clients at these addresses; each waits for no answer."""

    async def client(address: str, count: int) -> int:
        busy = 0
        async with Browser(url, address) as browser:
            for _ in range(count):
                browser.begin_anew()
                try:
                    await browser.join("pf-results", "look", {"id": 1})
                except Busy:
                    busy += 1
        return busy

    if not requests:
        return 0
    share = -(-requests // len(addresses))
    counts = [min(share, max(0, requests - number * share)) for number in range(len(addresses))]
    told = await asyncio.gather(*(client(*one) for one in zip(addresses, counts, strict=True)), return_exceptions=True)
    return sum(one for one in told if isinstance(one, int))
