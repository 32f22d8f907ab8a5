"""Blocking twins of the async methods: generated files, and their generator."""
