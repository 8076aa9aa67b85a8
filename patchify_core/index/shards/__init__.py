"""Embed pictures into a folder of shards, here or on many machines.

describe  read pictures, cut them into patches, describe those
shard     one shard on disk: pictures with descriptors, boxes and maps
folder    a folder of shards as a `PictureStream`, and the growing shards of a build
worker    settings, tasks, and the worker that embeds one shard per task
ray       the same tasks on Ray Data actors (`--ray`); the only module that imports Ray
embed     `embed_gallery`: distribute the tasks and seal the folder
"""

from __future__ import annotations

from patchify_core.index.shards.embed import EmbedReport, embed_gallery, pictures_of
from patchify_core.index.shards.worker import EmbedSettings, RaySettings

__all__ = ["EmbedReport", "EmbedSettings", "RaySettings", "embed_gallery", "pictures_of"]
