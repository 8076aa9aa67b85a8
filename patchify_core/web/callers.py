"""Finds the sender of a request behind proxies, and checks which host name it was sent to.

X-Forwarded-For counts only from a configured proxy: uvicorn 0.54 trusts it from the loopback interface by default,
where any program on the machine can send it.
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
"""Group (`group_of`) of the sender of the request that is handled in this context."""

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::\d{1,5})?", re.ASCII | re.IGNORECASE)


def caller_of(peer: str, forwarded: Iterable[str], proxies: Collection[Network]) -> str:
    """Return the nearest address that is not a trusted proxy, going back from the connection.

    Args:
        peer: Address of the other end of the connection; empty if it has none.
        forwarded: Values of the X-Forwarded-For headers, in their order.
        proxies: Trusted networks.
    """
    hops = [hop for value in forwarded for hop in value.split(",")]
    address = peer
    while hops and is_trusted(address, proxies):
        hop = _without_port(hops.pop().strip())
        if _parsed(hop) is None:
            break
        address = hop
    return address


def is_trusted(address: str, proxies: Collection[Network]) -> bool:
    """Return whether an address is that of a trusted proxy."""
    found = _parsed(address)
    return found is not None and any(found in network for network in proxies)


@lru_cache(maxsize=4096)
def group_of(address: str) -> str:
    """Return what counts as one caller: an IPv4 address, or the /64 network of an IPv6 address, which has one owner."""
    found = _parsed(address)
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(found) >> 64 << 64, 64)))
    return address if found is None else str(found)


def caller_group(request: Any) -> str:
    """Return the group (`group_of`) of the sender of a Starlette or Gradio request; empty if it is unknown."""
    client = getattr(request, "client", None)
    return "" if client is None else group_of(str(client.host))


def host_in(header: str) -> str | None:
    """Return the name in a Host header, in lower case and without port; None if it is malformed."""
    found = _HOST.fullmatch(header.strip())
    return None if found is None else found[1].lower().rstrip(".")


def is_own_host(header: str, names: Collection[str]) -> bool:
    """Return whether a Host header names this server, and not a name that a stranger points to it (DNS rebinding).

    Args:
        header: The Host header.
        names: Further names, in lower case; `*.example.org` means all below it, `*` any name.

    Returns:
        True for these names, those of the loopback interface, and IP addresses, which nobody can redirect.
    """
    host = host_in(header)
    if host is None:
        return False
    if host == "localhost" or host.endswith(".localhost") or _parsed(host.strip("[]")) is not None:
        return True
    return any(name in ("*", host) or (name.startswith("*.") and host.endswith(name[1:])) for name in names)


def is_local_host(header: str) -> bool:
    """Return whether a Host header names a machine that only its own network reaches."""
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
    """Return the address in an entry of X-Forwarded-For; some proxies add a port."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
