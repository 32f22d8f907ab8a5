"""Format codecs: bytes to values and back, one module for each file kind; no I/O."""
