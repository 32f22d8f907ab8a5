"""Run the blocks of one page in order; started by test_docs.py in a directory of its own.

usage: python run_page.py BLOCKS.json

Python blocks share one namespace, which is not ``__main__``: clusters start worker processes that
import the main module again, and must not find the page there.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def main() -> None:
    """Run every block; the first failure ends the process with its place in the page."""
    namespace: dict[str, object] = {"__name__": "__docs__"}
    for block in json.loads(Path(sys.argv[1]).read_text("utf-8")):
        place = f"{block['page']}:{block['line']}"
        print(f"--- {place}", flush=True)
        if block["language"] == "python":
            # The line numbers of tracebacks are those of the page.
            source = "\n" * block["line"] + block["code"]
            exec(compile(source, block["page"], "exec"), namespace)
            sys.stdout.flush()
        else:
            command = ["bash", "-euo", "pipefail", "-c", block["code"]]
            done = subprocess.run(command, check=False)
            if done.returncode:
                sys.exit(f"{place}: exit code {done.returncode}")


if __name__ == "__main__":
    main()
