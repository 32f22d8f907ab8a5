"""Keep the most telling inputs of a fuzzing run: ``python tests/fuzz/keep.py <kind> <folder>``.

Inputs of all sizes are taken, until the kind has its share of what all kinds together may take.
What broke the rule once is named ``found-...`` and stays.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path

CORPUS = Path(__file__).with_name("corpus")
MOST_BYTES_OF_A_KIND = 80_000
MOST_FILES_OF_A_KIND = 100


def main() -> None:
    kind, folder = sys.argv[1], Path(sys.argv[2])
    there = CORPUS / kind
    there.mkdir(parents=True, exist_ok=True)
    files = list(there.iterdir())
    left, room = MOST_BYTES_OF_A_KIND - sum(map(_size, files)), MOST_FILES_OF_A_KIND - len(files)
    inputs = sorted(folder.iterdir(), key=lambda path: (_size(path), path.name))
    # Every so many of them by size: the small ones alone are rejected early.
    for path in inputs[:: max(1, len(inputs) // max(1, room))]:
        target = there / hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        if _size(path) <= left and room > 0 and not target.exists():
            shutil.copyfile(path, target)
            left, room = left - _size(path), room - 1


def _size(path: Path) -> int:
    return path.stat().st_size


if __name__ == "__main__":
    main()
