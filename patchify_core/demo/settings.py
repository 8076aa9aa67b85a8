"""Settings of the page, each of which an environment variable may set.

Nothing heavy is imported here, so that `python app.py --help` can list the variables at once.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from patchify_core.errors import PatchifyError
from patchify_core.files import SAMPLE_DB

MEGABYTE = 1_000_000

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

PRIVATE = ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "::1/128", "fc00::/7")
"""Networks from which the proxies of a Hugging Face Space reach it."""

HOST_NAME = re.compile(r"\*|(\*\.)?[a-z][a-z0-9-]*(\.[a-z0-9-]+)*", re.ASCII)

S = TypeVar("S", bound="_Settings")


def networks(text: str) -> tuple[Network, ...]:
    """Parse addresses and networks that are separated by commas.

    Raises:
        ValueError: If one of them is neither.
    """
    return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())


def checked_address(text: str) -> str:
    """Return a web address unchanged.

    Raises:
        ValueError: What is expected instead, if it is not one.
    """
    if not re.fullmatch(r"https?://[^\s\"'<>]{1,500}", text):
        raise ValueError("an address that begins with https://")
    return text


# Parsers of variables. Each raises ValueError with what it takes, for example `a whole number from 1 to 40`.


def _integer(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or len(text) > 9 or not least <= int(text) <= most:
            raise ValueError(f"a whole number from {least:,} to {most:,}")
        return int(text)

    return parse


def _one_of(choices: tuple[int, ...]) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if text not in map(str, choices):
            raise ValueError(f"one of {', '.join(map(str, choices))}")
        return int(text)

    return parse


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


def _host_names(text: str) -> tuple[str, ...]:
    names = tuple(part.strip().lower() for part in text.split(",") if part.strip())
    if not names or not all(HOST_NAME.fullmatch(name) for name in names):
        raise ValueError("names such as patchify.example.org or *.example.org, separated by commas")
    return names


def _proxies(text: str) -> tuple[Network, ...]:
    try:
        return networks(text)
    except ValueError:
        raise ValueError("addresses or networks such as 127.0.0.1 or 10.0.0.0/8, separated by commas") from None


def _galleries(text: str) -> tuple[Path, ...]:
    paths = tuple(Path(part.strip()) for part in text.split(os.pathsep) if part.strip())
    for path in paths:
        if not (path / "annotations.json").is_file():
            which = f"; {path} is none" if len(paths) > 1 else ""
            raise ValueError(f"folders with annotations.json and an index folder, separated by {os.pathsep!r}{which}")
    if len({path.resolve() for path in paths}) < len(paths) or not paths:
        raise ValueError("each folder once")
    return paths


def _variable(default: Any, name: str, description: str, parse: Callable[[str], Any]) -> Any:
    """Declare a field that the environment variable `name` sets."""
    return field(default=default, metadata={"name": name, "description": description, "parse": parse})


class _Settings:
    @classmethod
    def from_environment(cls: type[S], environ: Mapping[str, str] = os.environ) -> S:
        """Return the defaults, overridden by the variables that are set; an empty variable counts as unset.

        Raises:
            PatchifyError: One sentence that names the variable, if its value is invalid.
        """
        values = {}
        for variable in _variables_of(cls):
            text = environ.get(variable.name, "").strip()
            if text:
                try:
                    values[variable.field] = variable.parse(text)
                except ValueError as error:
                    raise PatchifyError(f"{variable.name} is {text[:80]!r}, but it takes {error}.") from None
        return cls(**values)


@dataclass(frozen=True)
class ServerSettings(_Settings):
    """Where and what the page is served; `galleries` are the datasets shown, the first one when a visit begins."""

    host: str = _variable("127.0.0.1", "PATCHIFY_HOST", "address to listen on; 0.0.0.0 on a Space", _host)
    port: int = _variable(7860, "PATCHIFY_PORT", "port to listen on", _integer(1, 65535))
    root_path: str = _variable("", "PATCHIFY_ROOT_PATH", "path of the page behind a reverse proxy", _root_path)
    mcp: bool = _variable(False, "PATCHIFY_MCP", "1: an MCP server too", _switch)
    galleries: tuple[Path, ...] = _variable(
        (SAMPLE_DB,),
        "PATCHIFY_GALLERY",
        "datasets to show, each with its index folder; several are separated as in PATH",
        _galleries,
    )
    hosts: tuple[str, ...] = _variable((), "PATCHIFY_HOSTS", "names by which the page may be opened", _host_names)
    proxies: tuple[Network, ...] = _variable((), "PATCHIFY_PROXIES", "proxies whose X-Forwarded-For counts", _proxies)
    code: str = _variable("", "PATCHIFY_CODE", "address of the source, which the page links to", checked_address)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> ServerSettings:
        """As `_Settings.from_environment`; Gradio's own variables count where ours are not set.

        On a Hugging Face Space, which sets SPACE_ID, the server listens on every address, answers to the Space's own
        name, and trusts the Space's proxies, which reach it from private networks.
        """
        space = environ.get("SPACE_ID", "").strip()
        has_files = re.fullmatch(r"[\w.-]+/[\w.-]+", space)
        fallback = {
            "PATCHIFY_HOST": environ.get("GRADIO_SERVER_NAME", "").strip() or ("0.0.0.0" if space else ""),
            "PATCHIFY_PORT": environ.get("GRADIO_SERVER_PORT", ""),
            "PATCHIFY_ROOT_PATH": environ.get("GRADIO_ROOT_PATH", ""),
            "PATCHIFY_PROXIES": ",".join(PRIVATE) if space else "",
            "PATCHIFY_CODE": f"https://huggingface.co/spaces/{space}/tree/main" if has_files else "",
        }
        given = {name: value for name, value in environ.items() if value.strip()}
        settings = super().from_environment(fallback | given)
        space_names = ("*.hf.space", environ.get("SPACE_HOST", "").strip().lower()) if space else ()
        return replace(settings, hosts=(*settings.hosts, *filter(None, space_names)))


@dataclass(frozen=True)
class PageSettings(_Settings):
    """What the page shows, and how much visitors may leave on the server; `result_choices` are numbers of results."""

    result_choices: tuple[int, ...] = (5, 10, 20, 40)
    results: int = _variable(10, "PATCHIFY_RESULTS", "results at first", _one_of(result_choices))
    upload_mb: int = _variable(30, "PATCHIFY_UPLOAD_MB", "largest picture, in megabytes", _integer(1, 1000))
    archive_mb: int = _variable(200, "PATCHIFY_ARCHIVE_MB", "largest file sent, in megabytes", _integer(1, 10_000))
    forget_s: int = _variable(1800, "PATCHIFY_FORGET_S", "seconds until what was sent is deleted", _integer(60, 86400))
    own_pictures: int = _variable(1000, "PATCHIFY_OWN_PICTURES", "pictures a visitor may index", _integer(1, 1_000_000))
    own_mb: int = _variable(500, "PATCHIFY_OWN_MB", "megabytes of a visitor's pictures", _integer(1, 1_000_000))
    own_total_mb: int = _variable(
        2000, "PATCHIFY_OWN_TOTAL_MB", "megabytes on the disk, of all visitors", _integer(1, 1_000_000)
    )
    memory_mb: int = _variable(
        600, "PATCHIFY_MEMORY_MB", "megabytes of memory for what all visitors sent", _integer(1, 1_000_000)
    )


@dataclass(frozen=True)
class QueueSettings(_Settings):
    """How many requests may wait and be computed at once; the server tells others that it is busy.

    `of_one` is enough for quick hands and too few to fill the queue; `of_programs` leaves room for people. `at_once`
    counts searches of different visitors. Of more than `visits` visits, the state of the oldest is dropped.
    """

    waiting: int = _variable(100, "PATCHIFY_QUEUE", "requests that may wait", _integer(1, 10_000))
    of_one: int = _variable(16, "PATCHIFY_QUEUE_OF_ONE", "of them of one visitor", _integer(1, 10_000))
    of_programs: int = _variable(32, "PATCHIFY_QUEUE_OF_PROGRAMS", "of them of programs", _integer(1, 10_000))
    at_once: int = _variable(2, "PATCHIFY_AT_ONCE", "searches computed at once", _integer(1, 64))
    visits: int = _variable(500, "PATCHIFY_VISITS", "visits that are remembered", _integer(20, 100_000))


@dataclass(frozen=True)
class Variable:
    """An environment variable, and the field of a settings dataclass that it sets."""

    name: str
    settings: type[_Settings]
    field: str
    default_value: Any
    description: str
    parse: Callable[[str], Any]

    @property
    def default(self) -> str:
        """The default as a person would write it."""
        value = self.default_value
        if isinstance(value, tuple):
            return ",".join(part.name if isinstance(part, Path) else str(part) for part in value)
        return str(int(value)) if isinstance(value, bool) else str(value)


def _variables_of(settings: type[Any]) -> tuple[Variable, ...]:
    return tuple(
        Variable(settings=settings, field=one.name, default_value=one.default, **one.metadata)
        for one in fields(settings)
        if one.metadata
    )


VARIABLES = tuple(
    variable for settings in (ServerSettings, PageSettings, QueueSettings) for variable in _variables_of(settings)
)
"""All variables of the page, in the order in which `--help` lists them."""

LIBRARY_VARIABLES: tuple[tuple[str, str, str], ...] = (
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
"""(name, default, description) of the variables that the library itself reads (`encoders.base`, `rerank.learned`)."""


def variables_help() -> str:
    """List all variables with their defaults, one per line, for `--help`."""
    rows = [(variable.name, variable.default, variable.description) for variable in VARIABLES] + [*LIBRARY_VARIABLES]
    width = max(len(name) for name, _, _ in rows)
    return "\n".join(
        f"  {name:<{width}}  {description}" + (f" (default {default})" if default else "")
        for name, default, description in rows
    )
