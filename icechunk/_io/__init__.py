"""I/O thread, shared loads and limits: the only place with loops, threads and locks of its own."""
