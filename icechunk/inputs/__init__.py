"""Datasets to be written: opened as they are stored, made writable, and joined."""
