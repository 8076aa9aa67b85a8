"""Whose pictures are embedded next: one visitor's at a time, a few pictures each, in the order in which they came."""

from __future__ import annotations

import threading
from collections import deque


class Turns:
    """A lock that goes to whoever has waited longest; `threading.Lock` may go to the same one again and again."""

    def __init__(self) -> None:
        """Nobody has it."""
        self._guard = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._taken = False

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def take(self) -> None:
        """Waits for one's turn."""
        with self._guard:
            if not self._taken:
                self._taken = True
                return
            mine = threading.Event()
            self._waiting.append(mine)
        mine.wait()

    def give(self) -> None:
        """Ends one's turn."""
        with self._guard:
            if self._waiting:
                self._waiting.popleft().set()  # it stays taken: by the next one
            else:
                self._taken = False

    def __enter__(self) -> Turns:
        """Takes a turn."""
        self.take()
        return self

    def __exit__(self, *error: object) -> None:
        """Ends it."""
        self.give()
