"""What a person may tune about the page, and the environment variables that do it.

Nothing heavy is imported here, so that `python app.py --help` can list the variables at once.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from patchify_core.errors import PatchifyError
from patchify_core.files import SAMPLE_DB

MEGABYTE = 1_000_000


Network = ipaddress.IPv4Network | ipaddress.IPv6Network

PRIVATE = ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "::1/128", "fc00::/7")
"""Networks from which the proxies of a Hugging Face Space reach it."""


def networks(text: str) -> tuple[Network, ...]:
    """Addresses and networks, separated by commas.

    Raises:
        ValueError: if one of them is neither.
    """
    return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())


@dataclass(frozen=True)
class PageSettings:
    """What a person may tune about the page.

    Attributes:
        results: result cards shown at first.
        result_choices: numbers of cards that may be asked for.
        upload_mb: largest picture in megabytes.
        archive_mb: largest file of any kind that may be sent, such as a zip of pictures, in megabytes.
        forget_s: seconds after which what a visitor sent is deleted.
        own_pictures: pictures that one visitor may have indexed.
        own_mb: megabytes that one visitor's pictures may take.
        own_total_mb: megabytes on the disk that all visitors may take together: pictures, indexes and uploads.
        memory_mb: megabytes of memory that all visitors' query pictures and indexes may take together.
    """

    results: int = 10
    result_choices: tuple[int, ...] = (5, 10, 20, 40)
    upload_mb: int = 30
    archive_mb: int = 200
    forget_s: int = 1800
    own_pictures: int = 1000
    own_mb: int = 500
    own_total_mb: int = 2000
    memory_mb: int = 600

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> PageSettings:
        """The settings with what the variables say.

        Raises:
            PatchifyError: one sentence that names the variable, if its value does not do.
        """
        return cls(**_read(cls, environ))


@dataclass(frozen=True)
class QueueSettings:
    """How many may ask at once. Whoever is turned away is told that the server is busy.

    Attributes:
        waiting: requests that may wait, of all visitors.
        of_one: requests of one visitor that may wait: enough for quick hands, too few to fill the queue.
        of_programs: requests of all programs that may wait, so that scripts leave room for people.
        at_once: searches of the page that are computed at once, of different visitors.
        visits: visits whose state is kept; the oldest is forgotten first.
    """

    waiting: int = 100
    of_one: int = 16
    of_programs: int = 32
    at_once: int = 2
    visits: int = 500

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> QueueSettings:
        """As `PageSettings.from_environment`."""
        return cls(**_read(cls, environ))


@dataclass(frozen=True)
class ServerSettings:
    """Where the page is served.

    Attributes:
        host: address to listen on.
        port: port to listen on.
        root_path: path below which a reverse proxy shows the page, such as /patchify; empty for the whole host.
        mcp: whether programs may use the page's API as tools over the Model Context Protocol.
        galleries: the datasets that are shown, each with its `index` folder; a visit begins with the first.
        hosts: names by which the page may be opened, besides addresses and localhost.
        proxies: addresses and networks of the proxies whose X-Forwarded-For counts.
        code: address of the source, which the page links to; empty for no link.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    root_path: str = ""
    mcp: bool = False
    galleries: tuple[Path, ...] = (SAMPLE_DB,)
    hosts: tuple[str, ...] = ()
    proxies: tuple[Network, ...] = ()
    code: str = ""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> ServerSettings:
        """As `PageSettings.from_environment`; Gradio's own variables count where ours are not set.

        On a Hugging Face Space, which sets SPACE_ID, every address is listened on, the Space's own name is answered to,
        and its proxies, which reach it from private networks, are trusted.
        """
        outer = {
            "PATCHIFY_HOST": environ.get("GRADIO_SERVER_NAME", "").strip() or ("0.0.0.0" if _on_space(environ) else ""),
            "PATCHIFY_PORT": environ.get("GRADIO_SERVER_PORT", ""),
            "PATCHIFY_ROOT_PATH": environ.get("GRADIO_ROOT_PATH", ""),
            "PATCHIFY_PROXIES": ",".join(PRIVATE) if _on_space(environ) else "",
            "PATCHIFY_CODE": _code_of_space(environ),
        }
        found = cls(**_read(cls, outer | {name: value for name, value in environ.items() if value.strip()}))
        space = ("*.hf.space", environ.get("SPACE_HOST", "").strip().lower()) if _on_space(environ) else ()
        return replace(found, hosts=(*found.hosts, *filter(None, space)))


@dataclass(frozen=True)
class Variable:
    """One environment variable.

    Attributes:
        name: of the variable.
        settings: the dataclass that it sets a field of.
        field: the field.
        what: what it says, in a few words for `--help` and HOSTING.md.
        read: its value from text; raises ValueError with what it takes, for example `a whole number from 1 to 40`.
    """

    name: str
    settings: type
    field: str
    what: str
    read: Callable[[str], Any]

    @property
    def default(self) -> str:
        """The default as a person would write it."""
        value = getattr(self.settings, self.field)
        if isinstance(value, tuple):
            return ",".join(part.name if isinstance(part, Path) else str(part) for part in value)
        return str(int(value)) if isinstance(value, bool) else str(value)


_HOST = re.compile(r"\*|(\*\.)?[a-z][a-z0-9-]*(\.[a-z0-9-]+)*", re.ASCII)


def _whole(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isascii() or not text.isdigit() or len(text) > 9 or not least <= int(text) <= most:
            raise ValueError(f"a whole number from {least:,} to {most:,}")
        return int(text)

    return read


def _one_of(choices: tuple[int, ...]) -> Callable[[str], int]:
    def read(text: str) -> int:
        if text not in map(str, choices):
            raise ValueError(f"one of {', '.join(map(str, choices))}")
        return int(text)

    return read


def _switch(text: str) -> bool:
    if text.lower() not in ("0", "1", "true", "false", "on", "off", "yes", "no"):
        raise ValueError("1 or 0")
    return text.lower() in ("1", "true", "on", "yes")


def _host(text: str) -> str:
    if any(letter.isspace() or letter in "/@?#" for letter in text):
        raise ValueError("an address of this machine, for example 127.0.0.1, or 0.0.0.0 for all of them")
    return text


def _root_path(text: str) -> str:
    if not text.startswith("/") or any(letter.isspace() or letter in "?#" for letter in text):
        raise ValueError("a path that begins with a slash, for example /patchify")
    return text.rstrip("/")


def _hosts(text: str) -> tuple[str, ...]:
    names = tuple(part.strip().lower() for part in text.split(",") if part.strip())
    if not names or not all(_HOST.fullmatch(name) for name in names):
        raise ValueError("names such as patchify.example.org or *.example.org, separated by commas")
    return names


def _proxies(text: str) -> tuple[Network, ...]:
    try:
        return networks(text)
    except ValueError:
        raise ValueError("addresses or networks such as 127.0.0.1 or 10.0.0.0/8, separated by commas") from None


def checked_address(text: str) -> str:
    """A web address.

    Raises:
        ValueError: what it takes, if it is none.
    """
    if not re.fullmatch(r"https?://[^\s\"'<>]{1,500}", text):
        raise ValueError("an address that begins with https://")
    return text


def _galleries(text: str) -> tuple[Path, ...]:
    paths = tuple(Path(part.strip()) for part in text.split(os.pathsep) if part.strip())
    for path in paths:
        if not (path / "annotations.json").is_file():
            many = f"; {path} is none" if len(paths) > 1 else ""
            raise ValueError(f"folders with annotations.json and an index folder, separated by {os.pathsep!r}{many}")
    if len({path.resolve() for path in paths}) < len(paths) or not paths:
        raise ValueError("each folder once")
    return paths


VARIABLES: tuple[Variable, ...] = (
    Variable("PATCHIFY_HOST", ServerSettings, "host", "address to listen on; 0.0.0.0 on a Space", _host),
    Variable("PATCHIFY_PORT", ServerSettings, "port", "port to listen on", _whole(1, 65535)),
    Variable("PATCHIFY_ROOT_PATH", ServerSettings, "root_path", "path of the page behind a reverse proxy", _root_path),
    Variable("PATCHIFY_HOSTS", ServerSettings, "hosts", "names by which the page may be opened", _hosts),
    Variable("PATCHIFY_PROXIES", ServerSettings, "proxies", "proxies whose X-Forwarded-For counts", _proxies),
    Variable("PATCHIFY_MCP", ServerSettings, "mcp", "1: an MCP server too", _switch),
    Variable(
        "PATCHIFY_GALLERY",
        ServerSettings,
        "galleries",
        "datasets to show, each with its index folder; several are separated as in PATH",
        _galleries,
    ),
    Variable(
        "PATCHIFY_CODE", ServerSettings, "code", "address of the source, which the page links to", checked_address
    ),
    Variable("PATCHIFY_RESULTS", PageSettings, "results", "results at first", _one_of(PageSettings.result_choices)),
    Variable("PATCHIFY_UPLOAD_MB", PageSettings, "upload_mb", "largest picture, in megabytes", _whole(1, 1000)),
    Variable("PATCHIFY_ARCHIVE_MB", PageSettings, "archive_mb", "largest file sent, in megabytes", _whole(1, 10_000)),
    Variable(
        "PATCHIFY_FORGET_S", PageSettings, "forget_s", "seconds until what was sent is deleted", _whole(60, 86400)
    ),
    Variable(
        "PATCHIFY_OWN_PICTURES", PageSettings, "own_pictures", "pictures a visitor may index", _whole(1, 1_000_000)
    ),
    Variable("PATCHIFY_OWN_MB", PageSettings, "own_mb", "megabytes of a visitor's pictures", _whole(1, 1_000_000)),
    Variable(
        "PATCHIFY_OWN_TOTAL_MB",
        PageSettings,
        "own_total_mb",
        "megabytes on the disk, of all visitors",
        _whole(1, 1_000_000),
    ),
    Variable(
        "PATCHIFY_MEMORY_MB",
        PageSettings,
        "memory_mb",
        "megabytes of memory for what all visitors sent",
        _whole(1, 1_000_000),
    ),
    Variable("PATCHIFY_QUEUE", QueueSettings, "waiting", "requests that may wait", _whole(1, 10_000)),
    Variable("PATCHIFY_QUEUE_OF_ONE", QueueSettings, "of_one", "of them of one visitor", _whole(1, 10_000)),
    Variable("PATCHIFY_QUEUE_OF_PROGRAMS", QueueSettings, "of_programs", "of them of programs", _whole(1, 10_000)),
    Variable("PATCHIFY_AT_ONCE", QueueSettings, "at_once", "searches computed at once", _whole(1, 64)),
    Variable("PATCHIFY_VISITS", QueueSettings, "visits", "visits that are remembered", _whole(20, 100_000)),
)
"""All of the page's variables, in the order in which they are told."""

ELSEWHERE: tuple[tuple[str, str, str], ...] = (
    ("PATCHIFY_DEVICE", "auto", "what encoders run on: auto, cpu, cuda, cuda:1 or mps"),
    ("PATCHIFY_ENGINE", "torch", "what computes on the processor: torch or openvino"),
    (
        "PATCHIFY_THREADS",
        "0",
        "threads of an encoder on the command line, 0: as many as cores; the page uses one per search",
    ),
    ("PATCHIFY_PRECISION", "auto", "half precision on CUDA where it is safe; or float32, bfloat16 or float16"),
    ("PATCHIFY_COMPILE", "0", "1: torch.compile compiles encoders when they are loaded"),
    ("PATCHIFY_READERS", "-1", "threads that read and cut pictures, -1: up to 8 with CUDA, else none"),
    ("PATCHIFY_AMES", "", "file of the weights of AMES, which offers that re-ranker on the page"),
    ("PATCHIFY_ELVIS", "", "file of the weights of ELViS, likewise"),
    ("PATCHIFY_RERANK_DETECTOR", "", "file of the detector that both need"),
    ("PATCHIFY_RERANK_ENCODER", "", "encoder whose cells both compare, if it is not the index's own"),
)
"""(name, default, what) of the variables that others read themselves (`encoders.base`, `rerank.learned`)."""


def variables_in_words() -> str:
    """All variables with their defaults, one a line, for `--help`."""
    rows = [(variable.name, variable.default, variable.what) for variable in VARIABLES] + [*ELSEWHERE]
    width = max(len(name) for name, _, _ in rows)
    return "\n".join(
        f"  {name:<{width}}  {what}" + (f" (default {default})" if default else "") for name, default, what in rows
    )


def _on_space(environ: Mapping[str, str]) -> bool:
    return bool(environ.get("SPACE_ID", "").strip())


def _code_of_space(environ: Mapping[str, str]) -> str:
    space = environ.get("SPACE_ID", "").strip()
    return f"https://huggingface.co/spaces/{space}/tree/main" if re.fullmatch(r"[\w.-]+/[\w.-]+", space) else ""


def _read(settings: type, environ: Mapping[str, str]) -> dict[str, Any]:
    """The fields of one dataclass that variables set; an empty variable is as good as none."""
    found = {}
    for variable in VARIABLES:
        text = environ.get(variable.name, "").strip()
        if variable.settings is settings and text:
            try:
                found[variable.field] = variable.read(text)
            except ValueError as error:
                raise PatchifyError(f"{variable.name} is {text[:80]!r}, but it takes {error}.") from None
    return found
