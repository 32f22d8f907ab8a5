"""Chunks that live outside the repository: containers and references."""

from icechunk.virtual_containers import VirtualChunkContainer, VirtualChunkSpec

__all__ = ["VirtualChunkContainer", "VirtualChunkSpec"]
