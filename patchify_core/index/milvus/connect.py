"""Connect to Milvus, a server or a local Milvus Lite file, and turn its errors into one sentence."""

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
"""Time limits in seconds: to connect, to answer a query, to accept a batch, and to build or load an index."""

_LOGGERS = ("pymilvus", "pymilvus.milvus_client", "milvus_lite")  # they print tracebacks of raised exceptions
_open_files: Counter[str] = Counter()
_lock = threading.Lock()


@dataclass(frozen=True)
class Address:
    """Address of a Milvus server or file, and credentials.

    Attributes:
        uri: `http://` or `https://` of a server, or the absolute path of a Milvus Lite file, which ends in `.db`.
        token: `user:password` or an API key; empty for none. Never written anywhere.
        ca: PEM file of the authority that signed the server's certificate; None for those that gRPC trusts.
        server_name: Name in the server's certificate if it differs from the host in the address, else None.
    """

    uri: str
    token: str = field(default="", repr=False)
    ca: str | None = None
    server_name: str | None = None

    @property
    def is_file(self) -> bool:
        """Whether it is a Milvus Lite file."""
        return "://" not in self.uri

    @classmethod
    def of(
        cls, uri: str | None, token: str | None = None, ca: str | None = None, server_name: str | None = None
    ) -> Address:
        """Validate user input; the token defaults to the environment variable `MILVUS_TOKEN`.

        Raises:
            StoreError: The address is missing or invalid, or it names a missing file.
        """
        example = "--uri ./patches.db (Milvus Lite) or --uri http://localhost:19530 (a server)"
        if not uri:
            raise StoreError(f"Say where Milvus is with --uri, for example {example}.")
        token = token or os.environ.get(TOKEN_VARIABLE, "")
        server = "://" in uri
        if (server and any(mark in uri for mark in "@?#")) or ("@" in uri and not uri.endswith(".db")):
            raise StoreError(
                "The address of a Milvus server must be only a scheme, a host and a port, because it is written into "
                "the index: give a password or an API key with --token user:password, or in the environment variable "
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
            raise StoreError(f"'{uri}' is not the address of a Milvus server: write {example}.")
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
        raise StoreError(f"'{uri}' is neither an address nor a file name that ends in .db: write {example}.")
    path = Path(uri).resolve()
    if not path.parent.is_dir():
        raise StoreError(f"There is no folder {path.parent} for {path.name}: make it first.")
    if path.exists() and not path.is_dir():
        raise StoreError(
            f"{path} is a file, but Milvus Lite needs a folder of that name: choose another name, or build it again if "
            "an old version of Milvus Lite wrote it."
        )
    return str(path)


class MilvusConnection:
    """An open connection; a context manager.

    Raises:
        StoreError: It cannot be opened within about `CONNECT_S`.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._client = _connected(address)
        # Closed with its last reference too, because an open Milvus Lite file is locked.
        self._end = weakref.finalize(self, _closed, self._client, address)
        version = str(self.call("report its version", self._client.get_server_version))
        self.is_lite = "lite" in version.lower()

    def __enter__(self) -> MilvusConnection:
        """Return the connection."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the connection."""
        self.close()

    @property
    def client(self) -> Any:
        """The `pymilvus.MilvusClient`; call its methods through `call`."""
        return self._client

    def call(self, doing: str, method: Any, *arguments: Any, timeout: float = READ_S, **named: Any) -> Any:
        """Call a method of the client.

        Args:
            doing: The action, as words after "could not".
            method: Of `client`.
            arguments: Of the method.
            timeout: In seconds.
            named: Of the method.

        Raises:
            StoreError: It fails or times out.
        """
        from grpc import FutureTimeoutError, RpcError
        from pymilvus.exceptions import MilvusException

        try:
            return method(*arguments, timeout=timeout, **named)
        except (MilvusException, RpcError, FutureTimeoutError, OSError) as error:
            raise store_error(error, self.address, doing) from error
        except ValueError as error:  # raised by gRPC for a closed channel
            if not self._end.alive:
                raise StoreError(f"The connection to {self.address.uri} is closed: open it again.") from error
            raise

    def close(self) -> None:
        """Close and release the file; may be called again."""
        self._end()


def _connected(address: Address) -> Any:
    from importlib.util import find_spec

    try:
        from pymilvus import MilvusClient
        from pymilvus.exceptions import MilvusException
    except ImportError as error:
        raise StoreError(f"pymilvus is not installed: {INSTALL}.") from error
    if address.is_file and find_spec("milvus_lite") is None:
        raise StoreError(f"Milvus Lite, which stores {address.uri}, is not installed: {INSTALL}.")
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    tls = {"server_pem_path": address.ca or "", "server_name": address.server_name or ""}
    try:
        if not address.is_file:
            return MilvusClient(address.uri, token=address.token, timeout=CONNECT_S, dedicated=True, **tls)
        with _lock, _logged_errors("milvus_lite.server_manager") as causes:
            try:
                client = MilvusClient(address.uri, timeout=CONNECT_S, dedicated=True)
            except MilvusException as error:
                raise (
                    _file_error(address, causes[0]) if causes else store_error(error, address, "be opened")
                ) from error
            _open_files[address.uri] += 1
            return client
    except MilvusException as error:
        raise store_error(error, address, "be reached") from error
    except OSError as error:
        raise StoreError(f"{address.uri} cannot be opened ({error.strerror or error}): check it and --ca.") from error


def _closed(client: Any, address: Address) -> None:
    with suppress(Exception):  # nothing is lost
        client.close()
    if address.is_file:
        _release(address.uri)


def _release(path: str) -> None:
    """Release a Milvus Lite file after the last connection to it is closed."""
    from milvus_lite.server_manager import server_manager_instance

    with _lock:
        _open_files[path] -= 1
        if _open_files[path] <= 0:
            del _open_files[path]
            server_manager_instance.release_server(path)


@contextmanager
def _logged_errors(name: str) -> Iterator[list[BaseException]]:
    """Collect exceptions that a logger receives; only there does Milvus Lite say why a file cannot be opened."""
    errors: list[BaseException] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info and record.exc_info[1] is not None:
                errors.append(record.exc_info[1])

    logger, listener = logging.getLogger(name), Listener()
    before = logger.level, logger.propagate
    logger.addHandler(listener)
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    try:
        yield errors
    finally:
        logger.removeHandler(listener)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def _file_error(address: Address, cause: BaseException) -> StoreError:
    """Error for a Milvus Lite file that cannot be opened."""
    if type(cause).__name__ == "DataDirLockedError":
        return StoreError(
            f"{address.uri} is in use by another process, and Milvus Lite admits one at a time: wait until it has "
            "ended, or run a Milvus server for several."
        )
    if isinstance(cause, OSError):
        return StoreError(
            f"{address.uri} cannot be opened ({cause.strerror or cause}): check its permissions and the disk."
        )
    return StoreError(
        f"{address.uri} is not a Milvus Lite file, or is damaged ({_one_line(str(cause))}): build it again."
    )


def store_error(error: BaseException, address: Address, doing: str) -> StoreError:
    """Turn an exception of pymilvus or gRPC into one sentence that says what to do."""
    code, details = _grpc_cause(error)
    message = _one_line(getattr(error, "message", "") or details or str(error))
    where, everything = address.uri, f"{message} {details}".lower()
    if code == "UNAUTHENTICATED" or "auth check failure" in everything or "unauthenticated" in everything:
        had = "does not accept the token" if address.token else "asks for a token"
        return StoreError(
            f"{where} {had}: give user:password or an API key with --token, or in the environment variable "
            f"{TOKEN_VARIABLE}."
        )
    if code == "PERMISSION_DENIED" or "permission deny" in everything:
        return StoreError(
            f"{where} does not allow this token to {doing} ({message}): ask its administrator for permission."
        )
    if code == "UNIMPLEMENTED":
        return StoreError(f"The server at {where} is not Milvus, or a much older version: check address and port.")
    if any(word in everything for word in ("no space left", "disk quota", "quota exceeded", "disk full")):
        return StoreError(
            f"{where} has no room left to {doing}: free some space, then run the same command again; what was "
            "written is kept."
        )
    if any(word in everything for word in ("read-only file system", "permission denied")):
        return StoreError(f"{where} cannot be written ({message}): change its permissions, or choose another place.")
    if any(word in everything for word in ("handshake", "certificate", "ssl_error", "ssl routines")):
        return StoreError(
            f"No TLS connection to {where} ({_one_line(details)}): check https://, --ca and --server-name against the "
            "server's certificate."
        )
    if code in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED") or any(
        words in everything for words in ("retry timeout", "fail connecting")
    ):
        return StoreError(f"{where} does not answer: check the address, that Milvus runs there, and the network.")
    return StoreError(f"{where} could not {doing}: it says '{message}'.")


def _grpc_cause(error: BaseException | None) -> tuple[str, str]:
    """Return status code and details of the gRPC failure behind an exception; empty if there is none."""
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


def _one_line(text: str) -> str:
    """Shorten a server message to one line without Python's angle brackets, for use within a sentence."""
    line = " ".join(text.replace("<", "").replace(">", "").split()).rstrip(".")
    return line if len(line) <= 200 else f"{line[:200]}..."
