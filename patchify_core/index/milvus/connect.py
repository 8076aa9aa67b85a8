"""One connection to Milvus: a server by its address, or a local file through Milvus Lite; errors are one sentence."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from patchify_core.errors import StoreError

TOKEN_VARIABLE = "MILVUS_TOKEN"
INSTALL = "pip install -r requirements-milvus.txt"
CONNECT_S, READ_S, WRITE_S, WAIT_S = 10.0, 30.0, 120.0, 3600.0
"""How long the server may take to answer at all, to answer a question, to take a batch, and to build or load an index;
seconds."""

_LOGGERS = ("pymilvus", "pymilvus.milvus_client", "milvus_lite")  # they print tracebacks of what is raised as well
_open_files: Counter[str] = Counter()
_lock = threading.Lock()


@dataclass(frozen=True)
class Address:
    """Where a Milvus is and how to be let in.

    Attributes:
        uri: `http://` or `https://` of a server, or the absolute path of a Milvus Lite file, which ends in `.db`.
        token: `user:password` or an API key; empty for none. Never written anywhere.
        ca: PEM file of the authority that signed the server's certificate; None for those that gRPC trusts.
        server_name: the name in the server's certificate, where it is not that of the address; None otherwise.
    """

    uri: str
    token: str = field(default="", repr=False)
    ca: str | None = None
    server_name: str | None = None

    @property
    def is_file(self) -> bool:
        """Whether it is a file of Milvus Lite."""
        return "://" not in self.uri

    @classmethod
    def of(
        cls, uri: str | None, token: str | None = None, ca: str | None = None, server_name: str | None = None
    ) -> Address:
        """Check what a person gave; without a token that of the environment variable `MILVUS_TOKEN` counts.

        Raises:
            StoreError: if the address is missing or none, or a file that it names is not there.
        """
        example = "--uri ./patches.db (Milvus Lite) or --uri http://localhost:19530 (a server)"
        if not uri:
            raise StoreError(f"Say where Milvus is with --uri, for example {example}.")
        token = token or os.environ.get(TOKEN_VARIABLE, "")
        server = "://" in uri
        if (server and any(mark in uri for mark in "@?#")) or ("@" in uri and not uri.endswith(".db")):
            raise StoreError(
                "The address of a Milvus server is a scheme, a host and a port alone, because it is written into the "
                "index: give a password or an API key with --token user:password, or in the environment variable "
                f"{TOKEN_VARIABLE}."
            )
        if not server:
            return cls(_checked_file(uri, example))
        try:
            parts = urlsplit(uri)
            fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # of the port
            fits = False
        if not fits:
            raise StoreError(f"'{uri}' is no address of a Milvus server: write {example}.")
        if (ca or server_name) and parts.scheme != "https":
            raise StoreError(f"--ca and --server-name are for TLS: write https:// instead of {parts.scheme}://.")
        if ca is not None:
            ca = str(Path(ca).resolve())
            try:
                Path(ca).read_bytes()
            except OSError as error:
                raise StoreError(f"The certificate {ca} cannot be read ({error.strerror}): check --ca.") from error
        return cls(uri, token, ca, server_name)


def _checked_file(uri: str, example: str) -> str:
    if not uri.endswith(".db"):
        raise StoreError(f"'{uri}' is neither an address nor a file that ends in .db: write {example}.")
    path = Path(uri).resolve()
    if not path.parent.is_dir():
        raise StoreError(f"There is no folder {path.parent} for {path.name}: make it first.")
    if path.exists() and not path.is_dir():
        raise StoreError(
            f"{path} is a file, and Milvus Lite keeps a folder of that name: choose another name, or make it anew if "
            "an old version of Milvus Lite wrote it."
        )
    return str(path)


class MilvusConnection:
    """An open connection; a context manager. `call` is how everything is asked."""

    def __init__(self, address: Address) -> None:
        """Connect.

        Raises:
            StoreError: one sentence within `CONNECT_S` or so, if that does not succeed.
        """
        self.address = address
        self._client = _connected(address)
        # The last reference to a connection closes it too: a file of Milvus Lite is locked as long as it is open.
        self._end = weakref.finalize(self, _closed, self._client, address)
        version = str(self.call("say its version", self._client.get_server_version))
        self.is_lite = "lite" in version.lower()

    def __enter__(self) -> MilvusConnection:
        """The connection itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close it."""
        self.close()

    @property
    def client(self) -> Any:
        """The `pymilvus.MilvusClient`, whose methods `call` takes."""
        return self._client

    def call(self, doing: str, method: Any, *arguments: Any, timeout: float = READ_S, **named: Any) -> Any:
        """Call a method of the client.

        Args:
            doing: what the server is asked to do, as words after "could not".
            method: of `client`.
            arguments: of the method.
            timeout: seconds that it may take.
            named: of the method.

        Raises:
            StoreError: one sentence, if it fails or takes longer.
        """
        from grpc import FutureTimeoutError, RpcError
        from pymilvus.exceptions import MilvusException

        try:
            return method(*arguments, timeout=timeout, **named)
        except (MilvusException, RpcError, FutureTimeoutError, OSError) as error:
            raise explained(error, self.address, doing) from error
        except ValueError as error:  # gRPC's word for a channel that was closed
            if not self._end.alive:
                raise StoreError(f"The connection to {self.address.uri} is closed: open it again.") from error
            raise

    def close(self) -> None:
        """End it, and lets others have the file; may be called again."""
        self._end()


def _connected(address: Address) -> Any:
    from importlib.util import find_spec

    try:
        from pymilvus import MilvusClient
        from pymilvus.exceptions import MilvusException
    except ImportError as error:
        raise StoreError(f"pymilvus, which speaks to Milvus, is not installed: {INSTALL}.") from error
    if address.is_file and find_spec("milvus_lite") is None:
        raise StoreError(f"Milvus Lite, which keeps {address.uri}, is not installed: {INSTALL}.")
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    tls = {"server_pem_path": address.ca or "", "server_name": address.server_name or ""}
    try:
        if not address.is_file:
            return MilvusClient(address.uri, token=address.token, timeout=CONNECT_S, dedicated=True, **tls)
        with _lock, _heard("milvus_lite.server_manager") as causes:
            try:
                client = MilvusClient(address.uri, timeout=CONNECT_S, dedicated=True)
            except MilvusException as error:
                raise (_of_file(address, causes[0]) if causes else explained(error, address, "be opened")) from error
            _open_files[address.uri] += 1
            return client
    except MilvusException as error:
        raise explained(error, address, "be reached") from error
    except OSError as error:
        raise StoreError(f"{address.uri} cannot be opened ({error.strerror or error}): check it and --ca.") from error


def _closed(client: Any, address: Address) -> None:
    with suppress(Exception):  # nothing can be done about it, and nothing is lost
        client.close()
    if address.is_file:
        _release(address.uri)


def _release(path: str) -> None:
    """End Milvus Lite's hold on a file with the last connection to it."""
    from milvus_lite.server_manager import server_manager_instance

    with _lock:
        _open_files[path] -= 1
        if _open_files[path] <= 0:
            del _open_files[path]
            server_manager_instance.release_server(path)


@contextmanager
def _heard(name: str) -> Iterator[list[BaseException]]:
    """Exceptions that a logger receives: Milvus Lite says there why a file cannot be opened, and nowhere else."""
    found: list[BaseException] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info and record.exc_info[1] is not None:
                found.append(record.exc_info[1])

    logger, listener = logging.getLogger(name), Listener()
    before = logger.level, logger.propagate
    logger.addHandler(listener)
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    try:
        yield found
    finally:
        logger.removeHandler(listener)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def _of_file(address: Address, cause: BaseException) -> StoreError:
    """Why a file of Milvus Lite cannot be opened."""
    if type(cause).__name__ == "DataDirLockedError":
        return StoreError(
            f"{address.uri} is in use by another process, and Milvus Lite lets one in at a time: wait until it has "
            "ended, or run a Milvus server for several."
        )
    if isinstance(cause, OSError):
        return StoreError(
            f"{address.uri} cannot be opened ({cause.strerror or cause}): check its permissions and the disk."
        )
    return StoreError(f"{address.uri} is no file of Milvus Lite or is damaged ({_words(str(cause))}): make it anew.")


def explained(error: BaseException, address: Address, doing: str) -> StoreError:
    """What pymilvus and gRPC raise, as one sentence that says what to do."""
    code, details = _grpc_cause(error)
    message = _words(getattr(error, "message", "") or details or str(error))
    where, everything = address.uri, f"{message} {details}".lower()
    if code == "UNAUTHENTICATED" or "auth check failure" in everything or "unauthenticated" in everything:
        had = "does not accept the token" if address.token else "asks for a token"
        return StoreError(
            f"{where} {had}: give user:password or an API key with --token, or in the environment variable "
            f"{TOKEN_VARIABLE}."
        )
    if code == "PERMISSION_DENIED" or "permission deny" in everything:
        return StoreError(f"{where} does not let this token {doing} ({message}): ask who runs it for the right to.")
    if code == "UNIMPLEMENTED":
        return StoreError(f"What answers at {where} is not Milvus, or a much older one: check address and port.")
    if any(word in everything for word in ("no space left", "disk quota", "quota exceeded", "disk full")):
        return StoreError(
            f"{where} has no room left to {doing}: free some space; what was written is kept, run the same command "
            "again."
        )
    if any(word in everything for word in ("read-only file system", "permission denied")):
        return StoreError(f"{where} may not be written ({message}): change its permissions, or choose another place.")
    if any(word in everything for word in ("handshake", "certificate", "ssl_error", "ssl routines")):
        return StoreError(
            f"No TLS connection to {where} ({_words(details)}): check https://, --ca and --server-name against the "
            "server's certificate."
        )
    if code in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED") or any(
        words in everything for words in ("retry timeout", "fail connecting")
    ):
        return StoreError(f"{where} does not answer: check the address, that Milvus runs there, and the network.")
    return StoreError(f"{where} could not {doing}: it says '{message}'.")


def _grpc_cause(error: BaseException | None) -> tuple[str, str]:
    """Status code and details of the gRPC failure behind an exception; empty where there is none."""
    from grpc import FutureTimeoutError, RpcError

    for _ in range(8):
        if error is None:
            break
        if isinstance(error, FutureTimeoutError):
            return "DEADLINE_EXCEEDED", ""
        if isinstance(error, RpcError) and hasattr(error, "code"):
            return error.code().name, str(error.details() or "")
        error = error.__cause__ or error.__context__
    return "", ""


def _words(text: str) -> str:
    """What a server said as part of a sentence: one line, not too long, without brackets that look like Python's."""
    line = " ".join(text.replace("<", "").replace(">", "").split()).rstrip(".")
    return line if len(line) <= 200 else f"{line[:200]}..."
