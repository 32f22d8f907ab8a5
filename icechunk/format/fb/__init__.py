"""FlatBuffers, read and written in columns."""
