"""What the tests of the page share: a server as a person starts it, and visits to it in a real Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browsing import PHONE, served, visit


@pytest.fixture(scope="session")
def uploads(tmp_path_factory) -> Path:
    """Where the server puts what visitors send."""
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="session")
def server(uploads: Path, tmp_path_factory) -> Iterator[str]:
    """The demo on a free port: the address of the lane for own photos.

    Started once: each visit is a new visitor, who leaves nothing to the next. Files whose tests change the server, its
    settings or its gallery have one of their own, of the same name.
    """
    with served(["app.py"], tmp_path_factory.mktemp("server"), uploads) as (url, _):
        yield f"{url}photos"


@pytest.fixture
def page(server: Any, browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A fresh visit, with the options that a file of tests has as `VISIT`."""
    address = server if isinstance(server, str) else server[0]
    with visit(browser, address, **getattr(request.module, "VISIT", {})) as page:
        yield page


@pytest.fixture
def phone(server: Any, browser: Any) -> Iterator[Any]:
    """A fresh visit on a phone."""
    with visit(browser, server if isinstance(server, str) else server[0], **PHONE) as page:
        yield page
