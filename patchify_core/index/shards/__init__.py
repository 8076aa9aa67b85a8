"""Embedding apart from indexing: pictures to a folder of shards, here or on many machines.

stream    what every large store is built from: pictures with descriptors, boxes and maps, a batch at a time
folder    a folder of shards as such a stream
plan      what is made, and cut into which tasks: plain values that travel to any machine
worker    does one task: reads, cuts and embeds the pictures of one shard and writes it, whole or not at all
ray       the same tasks on Ray Data's actors (`--ray`): the only module that knows Ray
embed     `embed_gallery`: hands the tasks out, here or to Ray, and makes the folder a stream at the end
"""

from __future__ import annotations

from patchify_core.index.shards.embed import EmbedReport, embed_gallery, pictures_of
from patchify_core.index.shards.plan import EmbedSettings, RaySettings

__all__ = ["EmbedReport", "EmbedSettings", "RaySettings", "embed_gallery", "pictures_of"]
