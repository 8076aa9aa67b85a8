"""What Gradio knows of the request that is being answered: who sent it, and which queue gave it its turn."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from patchify_core.demo.decoding import RequestContext
from patchify_core.demo.queueing import Slots
from patchify_core.demo.storage import Owner
from patchify_core.web.callers import caller_group

BESIDE, BESIDE_OF_ONE = 16, 8
"""Requests that may be beside their queue at a time, in all and of one address; Gradio has threads for 40."""


class GradioHost(RequestContext):
    """The requests of one server of Gradio's."""

    def __init__(self) -> None:
        self._lock, self._slots = threading.Lock(), Slots(BESIDE, BESIDE_OF_ONE)

    def sender(self) -> Owner:
        """Whoever sent the request."""
        from gradio.context import LocalContext

        request = LocalContext.request.get(None)
        if request is None or getattr(request, "request", None) is None:
            return Owner()
        return Owner(str(request.session_hash or ""), caller_group(request))

    @contextmanager
    def outside_queue(self) -> Iterator[bool]:
        """As `RequestContext`'s, unless too many are beside their queues.

        Afterwards there may be one more at work than the queue allows, and no further one begins until that has ended.
        """
        from anyio import from_thread
        from gradio.context import LocalContext

        blocks, event_id = LocalContext.blocks.get(None), LocalContext.event_id.get(None)
        queue = None
        if blocks is not None and event_id is not None:
            running = [event for job in blocks._queue.active_jobs for event in job or ()]
            event = next((event for event in running if event._id == event_id), None)
            queue = None if event is None else blocks._queue.event_queue_per_concurrency_id.get(event.concurrency_id)
        if queue is None:
            yield True
            return
        address = self.sender().address
        with self._lock:
            taken = self._slots.acquire(address)
        if not taken:
            yield False
            return

        def step(by: int) -> None:
            queue.current_concurrency += by

        try:
            from_thread.run_sync(step, -1)  # in the event loop's thread, which counts too
            try:
                yield True
            finally:
                from_thread.run_sync(step, 1)
        finally:
            with self._lock:
                self._slots.release(address)
