"""Gradio's Blocks for strangers: whatever does not fit is refused in one sentence, and no address is fetched."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Sequence
from typing import Any

import gradio as gr
from gradio.block_function import BlockFunction
from gradio.exceptions import Error, InvalidPathError
from gradio.state_holder import SessionState
from gradio_client.utils import is_file_obj_with_meta, is_http_url_like

from patchify_core.demo import decoding
from patchify_core.demo.settings import QueueSettings
from patchify_core.demo.storage import VisitorStorage
from patchify_core.web.events import refusal
from patchify_core.web.fair_queue import AT_ONCE, ENCODER, FairQueue, GradioContext
from patchify_core.web.gate import FAILED
from patchify_core.web.logs import log_unforeseen

UNFIT = "The request does not fit this page: reload it, or see its API."

log = logging.getLogger(__name__)


class GuardedBlocks(gr.Blocks):
    """Blocks whose requests come from strangers.

    Gradio answers a request that does not fit its function (too few values, a file that nobody uploaded) with a
    traceback in the log and no message to the sender; here it is one sentence to the sender. Addresses of other hosts,
    which Gradio would fetch on a stranger's behalf, are refused.

    Attributes:
        storage: Counts what visitors store; None counts nothing.
    """

    storage: VisitorStorage | None = None

    async def process_api(self, block_fn: BlockFunction | int, *arguments: Any, **named: Any) -> dict[str, Any]:
        """Answer as Gradio (6.31.0) does, which would log refusals with the request and a traceback, and quote it."""
        try:
            answer: dict[str, Any] = await super().process_api(block_fn, *arguments, **named)
        except Error as error:
            if not error.print_exception:  # one of ours
                raise
            raise refusal(UNFIT) from None
        except Exception as error:
            name = block_fn if isinstance(block_fn, int) else block_fn.api_name or block_fn.name
            if _is_ours(error):
                log_unforeseen(log, f"The function {name}", error)
                raise refusal(FAILED) from None
            raise unfit(name, error) from None
        return answer

    async def preprocess_data(
        self,
        block_fn: BlockFunction,
        inputs: list[Any],
        state: SessionState | None,
        explicit_call: bool = False,
    ) -> list[Any]:
        """Preprocess as Gradio does, without a copy of the inputs in the session."""
        try:
            if _names_an_address(inputs):
                raise refusal("This server fetches nothing from addresses: send the picture itself.")
            values: list[Any] = await super().preprocess_data(block_fn, inputs, state, explicit_call)
        except Error:
            raise
        except InvalidPathError:
            raise refusal("The upload did not arrive: send the picture again.") from None
        except Exception as error:  # Gradio's own code fails on some values
            raise unfit(block_fn.api_name or block_fn.name, error) from None
        _forget_values(state, block_fn.inputs)
        return values

    async def postprocess_data(
        self, block_fn: BlockFunction, predictions: list[Any] | dict[Any, Any], state: SessionState | None
    ) -> list[Any]:
        """Postprocess as Gradio does, without a copy of the outputs in the session."""
        values: list[Any] = await super().postprocess_data(block_fn, predictions, state)
        _forget_values(state, block_fn.outputs)
        return values

    def guard(self, settings: QueueSettings) -> None:
        """Open the queue; all requests must go through it."""
        decoding.request_context = GradioContext()
        self.queue(max_size=settings.waiting, default_concurrency_limit=AT_ONCE, api_open=False)
        self._queue = self._fair = FairQueue(self, settings)
        for fn in self.fns.values():
            if fn.concurrency_id == ENCODER:
                fn.concurrency_limit = settings.at_once

    def quiet_s(self) -> float:
        """Return the seconds since the last request came or ended; 0 while one is being answered."""
        return 0.0 if self._fair.get_active_worker_count() else time.monotonic() - self._fair.last_used


def unfit(function: object, error: Exception) -> Error:
    """Return a refusal of values on which Gradio's own code failed; its error may quote them."""
    log.info("A request did not fit %s: %s", function, type(error).__name__)
    return refusal(UNFIT)


def _is_ours(error: Exception) -> bool:
    """Return whether an error passed through our own code, not only through Gradio's."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)][1:]
    return any(str(frame.f_globals.get("__name__")).startswith("patchify_core.") for frame in frames)


def _forget_values(state: SessionState | None, blocks: Sequence[Any]) -> None:
    """Drop the copies of values that Gradio 6.31 keeps in each session, for a kind of link that this page lacks."""
    if state is None:
        return
    for block in blocks:
        if not block.stateful and block._id in state.config_values:
            state._update_value_in_config(block._id, None)


def _names_an_address(value: Any) -> bool:
    """Return whether a value contains a file that is given by address."""
    if is_file_obj_with_meta(value):
        return is_http_url_like(value["path"])
    if isinstance(value, dict):
        return any(map(_names_an_address, value.values()))
    return isinstance(value, list) and any(map(_names_an_address, value))
