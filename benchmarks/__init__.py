"""Benchmarks: this package beside the official one, and beside what the machine can do.

``python -m benchmarks --help`` from the root of a checkout; see README.md in this folder.
"""
