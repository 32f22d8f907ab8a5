"""Coverage-guided fuzzing of everything that reads bytes, with atheris.

``python tests/fuzz/fuzz_files.py <kind> [libFuzzer options] [folders]`` fuzzes one kind of
`tests.fuzz.targets` until it is stopped or finds something, beginning with the golden files and
``tests/fuzz/corpus/<kind>``; new interesting inputs go into the first folder named. Without folders
that is a temporary one. ``--seeds <folder>`` writes the seeds of all kinds there and ends.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.chdir(ROOT)

with atheris.instrument_imports(include=["icechunk.format", "icechunk.core.wire"]):
    from tests.fuzz import seeds, targets

LIMITS = ["-timeout=20", "-rss_limit_mb=2048", "-max_len=8192", "-use_value_profile=1"]


def main() -> None:
    if sys.argv[1:2] == ["--seeds"]:
        seeds.write(Path(sys.argv[2]))
        return
    kind, rest = sys.argv[1], sys.argv[2:]
    options = [text for text in rest if text.startswith("-")]
    folders = [text for text in rest if not text.startswith("-")]
    for text in folders:
        Path(text).mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder, "seeds")
        seeds.write(given)
        found = Path(folder, "found")
        found.mkdir()
        corpus = Path(__file__).with_name("corpus") / kind
        folders = [*(folders or [str(found)]), str(given / kind)]
        folders += [str(corpus)] if corpus.is_dir() else []
        arguments = [sys.argv[0], *LIMITS, *options, *folders]
        atheris.Setup(arguments, targets.TARGETS[kind])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
