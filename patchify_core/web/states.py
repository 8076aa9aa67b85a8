"""What Gradio keeps of each visit; a flood of new visits ends those of its own address."""

from __future__ import annotations

import datetime
from collections import Counter

from gradio.state_holder import StateHolder

from patchify_core.web.callers import CALLER

SHARE = 20
"""An address may push out others' visits until it has one of this many parts of all; then its own go first."""


class FairStates(StateHolder):
    """Gradio's holder of sessions, which forgets the oldest whoever fills it (6.31.0), with owners.

    Args:
        idle_s: seconds without a request after which a visit is forgotten before any other.
    """

    def __init__(self, idle_s: float) -> None:
        """Keeps nothing yet."""
        super().__init__()
        self._idle = datetime.timedelta(seconds=idle_s)
        self._owners: dict[str, str] = {}

    def update(self, session_id: str) -> None:
        """Notes that a session is used; one that is too many is forgotten."""
        with self.lock:
            if session_id in self.session_data:
                self.session_data.move_to_end(session_id)
                self._owners.setdefault(session_id, CALLER.get())
            while len(self.session_data) > self.capacity:
                self._forget(self._surplus(self._owners.get(session_id, "")))

    def _surplus(self, newcomer: str) -> str:
        """The session to forget: the oldest of all if it was left, else of the newcomer's or of the largest owner's."""
        oldest = next(iter(self.session_data))
        used = self.time_last_used.get(oldest)
        if used is not None and datetime.datetime.now() - used > self._idle:
            return oldest
        counts = Counter(self._owners.get(session, "") for session in self.session_data)
        owner = newcomer
        if counts[newcomer] <= max(1, self.capacity // SHARE):
            owner = max(counts, key=lambda one: counts[one])
        return next(session for session in self.session_data if self._owners.get(session, "") == owner)

    def _forget(self, session_id: str) -> None:
        self.session_data.pop(session_id)
        self.time_last_used.pop(session_id, None)
        self._owners.pop(session_id, None)
        queue = self.blocks._queue
        if all(event.session_hash != session_id for event in queue.event_ids_to_events.values()):
            queue.pending_event_ids_session.pop(session_id, None)
            queue.pending_messages_per_session.pop(session_id, None)
