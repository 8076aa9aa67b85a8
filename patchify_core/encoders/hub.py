"""Weights from the Hugging Face hub: out of its cache at once, else downloaded with its progress bar, else a sentence.

The libraries can download too, but without a network they retry for most of a minute and then fail with a traceback.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path

from patchify_core.encoders.checkpoints import WAY_OUT
from patchify_core.errors import EncoderError

PROBE_S = 5.0
"""Seconds that the hub gets to answer at all before a download is tried."""


def hub_file(repository: str, names: Sequence[str], spec: str) -> Path:
    """One file of a repository on the hub, from the cache if it is there.

    Args:
        repository: e.g. `timm/vit_small_patch14_dinov2.lvd142m`, or with `@revision`.
        names: file names that will do, the preferred one first.
        spec: the encoder, for the message.

    Raises:
        EncoderError: if it is neither in the cache nor to be had.
        KeyboardInterrupt: if the person gives up; what has arrived is kept by the hub's cache.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, LocalEntryNotFoundError

    repo, _, revision = repository.partition("@")
    for name in names:
        try:
            return Path(hf_hub_download(repo, name, revision=revision or None, local_files_only=True))
        except LocalEntryNotFoundError:
            continue
    wanted = f"The weights of {spec}"
    require_hub(wanted)
    for name in names:
        try:
            return Path(hf_hub_download(repo, name, revision=revision or None))
        except GatedRepoError as error:
            raise EncoderError(
                f"The weights of {spec} are given only to people who accept their terms: do that on the page of "
                f"{repo} on the hub and set HF_TOKEN, {WAY_OUT}."
            ) from error
        except LocalEntryNotFoundError as error:  # the network went away since the probe
            raise _unreachable(wanted) from error
        except EntryNotFoundError:
            continue
        except Exception as error:  # whatever HTTP, TLS or the hub say: the person can only try again
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise EncoderError(f"The disk is too full for the weights of {spec}: free some space.") from error
            raise _unreachable(wanted) from error
    raise EncoderError(f"The hub's repository {repo} holds no weights that fit {spec}: choose another one, {WAY_OUT}.")


def require_hub(wanted: str) -> None:
    """Asks the hub once, without retries, whether it is there; any answer will do.

    Args:
        wanted: what is to be downloaded, for the message, e.g. `The weights of ...`.

    Raises:
        EncoderError: if it does not answer within `PROBE_S` seconds, or the environment says HF_HUB_OFFLINE.
    """
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        raise _unreachable(wanted)
    try:
        get_session().head(constants.ENDPOINT, timeout=PROBE_S)
    except Exception as error:  # the HTTP library below the hub's differs between its versions
        raise _unreachable(wanted) from error


def _unreachable(wanted: str) -> EncoderError:
    return EncoderError(
        f"{wanted} cannot be downloaded now, and there is no copy on this machine: connect it to the network, "
        f"name a local checkpoint, {WAY_OUT}."
    )
