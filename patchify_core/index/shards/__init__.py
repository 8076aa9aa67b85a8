"""Embedding apart from indexing: pictures to a folder of shards, here or on many machines.

shard     one shard: pictures with descriptors, boxes and maps, whole on the disk or not there
folder    a folder of shards as a stream (`base.PictureStream`), and shards that grow while a build embeds
worker    what is made, cut into tasks, and what does one of them
ray       the same tasks on Ray Data's actors (`--ray`): the only module that knows Ray
embed     `embed_gallery`: hands the tasks out, here or to Ray, and makes the folder a stream at the end
"""

from __future__ import annotations

from patchify_core.index.shards.embed import EmbedReport, embed_gallery, pictures_of
from patchify_core.index.shards.worker import EmbedSettings, RaySettings

__all__ = ["EmbedReport", "EmbedSettings", "RaySettings", "embed_gallery", "pictures_of"]
