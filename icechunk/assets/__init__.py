"""Decoded objects through storage: caches, compare-and-swap on the repo object, virtual reads."""
