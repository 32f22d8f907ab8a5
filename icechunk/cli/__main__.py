"""Run the command line as ``python -m icechunk.cli``."""

from __future__ import annotations

from icechunk.cli.main import main

if __name__ == "__main__":
    main()
