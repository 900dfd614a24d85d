"""The cache: what does not change during training is computed once and read from disk."""

from musekit.cache.store import SHARD as SHARD
from musekit.cache.store import Shards as Shards
from musekit.cache.store import build_shards as build_shards
from musekit.cache.store import caption_id as caption_id
from musekit.cache.store import config_hash as config_hash
from musekit.cache.store import merge_manifest as merge_manifest
from musekit.cache.store import read_clips as read_clips
