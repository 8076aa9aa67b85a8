"""Who a request comes from, and which name of the server it was sent to.

An address counts as its caller's only where a configured proxy vouches for it: uvicorn 0.54 believes X-Forwarded-For
from the loopback interface without being asked to, and any program on the machine can send it from there.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

from patchify_core.demo.settings import Network

CALLER: ContextVar[str] = ContextVar("patchify_caller", default="")
"""Group (`group_of`) of the address whose request is being handled in this context."""

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::\d{1,5})?", re.ASCII | re.IGNORECASE)


def caller_of(peer: str, forwarded: Iterable[str], proxies: Collection[Network]) -> str:
    """The last address that is not a trusted proxy's, from the connection backwards.

    Args:
        peer: address of the other end of the connection; empty if it has none.
        forwarded: values of the X-Forwarded-For headers, in the order in which they came.
        proxies: whose word counts.
    """
    hops = [hop for value in forwarded for hop in value.split(",")]
    address = peer
    while hops and is_trusted(address, proxies):
        hop = _without_port(hops.pop().strip())
        if _parsed(hop) is None:  # what is no address says nothing about who it was
            break
        address = hop
    return address


def is_trusted(address: str, proxies: Collection[Network]) -> bool:
    """Whether an address is one of the proxies'."""
    found = _parsed(address)
    return found is not None and any(found in network for network in proxies)


@lru_cache(maxsize=4096)
def group_of(address: str) -> str:
    """What is counted as one: an IPv4 address, or the /64 network of an IPv6 address, which one machine has whole."""
    found = _parsed(address)
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(found) >> 64 << 64, 64)))
    return address if found is None else str(found)


def caller_group(request: Any) -> str:
    """Group (`group_of`) of the address that a request of Starlette's or Gradio's came from; empty if none is known."""
    client = getattr(request, "client", None)
    return "" if client is None else group_of(str(client.host))


def host_in(header: str) -> str | None:
    """The name in a Host header, in lower case and without its port; None if it is malformed."""
    found = _HOST.fullmatch(header.strip())
    return None if found is None else found[1].lower().rstrip(".")


def is_own_host(header: str, names: Collection[str]) -> bool:
    """Whether a Host header names this server, and not a name that a stranger made lead to it (DNS rebinding).

    Args:
        header: as it was sent.
        names: further names, in lower case; `*.example.org` means all below it, `*` any name at all.

    Returns:
        True for the names, for those of the loopback interface, and for addresses, which no stranger can redirect.
    """
    host = host_in(header)
    if host is None:
        return False
    if host == "localhost" or host.endswith(".localhost") or _parsed(host.strip("[]")) is not None:
        return True
    return any(name in ("*", host) or (name.startswith("*.") and host.endswith(name[1:])) for name in names)


def is_local_host(header: str) -> bool:
    """Whether a Host header names a machine that only its own network reaches."""
    host = host_in(header) or ""
    found = _parsed(host.strip("[]"))
    return host == "localhost" or host.endswith(".localhost") or (found is not None and not found.is_global)


@lru_cache(maxsize=4096)
def _parsed(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    return (found.ipv4_mapped or found) if isinstance(found, ipaddress.IPv6Address) else found


def _without_port(hop: str) -> str:
    """The address in one entry of X-Forwarded-For; some proxies write its port too."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
