"""What a person may tune about the page."""

from __future__ import annotations

from dataclasses import dataclass


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
        own_total_mb: megabytes that all visitors' pictures may take together.
    """

    results: int = 10
    result_choices: tuple[int, ...] = (5, 10, 20, 40)
    upload_mb: int = 30
    archive_mb: int = 200
    forget_s: int = 1800
    own_pictures: int = 1000
    own_mb: int = 500
    own_total_mb: int = 2000
