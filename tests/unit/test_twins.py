"""The generated blocking twins: fresh, complete, and what the generator makes of each method."""

from __future__ import annotations

import subprocess
import sys
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

from icechunk._sync.generate import CannotTwinError, planned_files, stale_files

if TYPE_CHECKING:
    from pathlib import Path


def _twin_of(tmp_path: Path, source: str) -> str:
    (tmp_path / "_sync").mkdir(exist_ok=True)
    (tmp_path / "thing.py").write_text(dedent(source), encoding="utf-8")
    (text,) = planned_files(tmp_path).values()
    return text


def _thing(method: str, imports: str = "") -> str:
    head = f"from __future__ import annotations\n{imports}\nclass Thing(ThingTwins):\n"
    return head + "".join(f"    {line}\n" for line in dedent(method).strip().splitlines())


def test_committed_files_are_fresh():
    assert stale_files() == [], "run: python -m icechunk._sync.generate"


def test_check_from_the_command_line():
    command = [sys.executable, "-m", "icechunk._sync.generate", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_method_becomes_one_line(tmp_path):
    text = _twin_of(
        tmp_path,
        _thing('''
            async def find_async(self, key: str, /, *rest: int, deep: bool = False) -> int:
                """Find it; see `lose_async`."""
        '''),
    )
    assert text.endswith(
        "    def find(self, key: str, /, *rest: int, deep: bool = False) -> int:\n"
        '        """Find it; see `lose`."""\n'
        "        return run(self.find_async(key, *rest, deep=deep))\n"
    )


def test_class_and_static_methods_become_class_methods(tmp_path):
    text = _twin_of(
        tmp_path,
        _thing('''
            @classmethod
            async def open_async(cls, path: str) -> Self:
                """Open."""
            @staticmethod
            async def exists_async(path: str) -> bool:
                """Look."""
        '''),
    )
    assert "    @classmethod\n    def open(cls, path: str) -> Self:\n" in text
    assert "return run(cls.open_async(path))\n" in text
    assert "    @classmethod\n    def exists(cls, path: str) -> bool:\n" in text
    assert "return run(cls.exists_async(path))\n" in text


def test_async_iterator_is_stepped(tmp_path):
    text = _twin_of(
        tmp_path,
        _thing(
            '''
            async def list_async(self, prefix: str = "") -> AsyncIterator[tuple[str, int]]:
                """List."""
                yield prefix, 1
            ''',
            "from collections.abc import AsyncIterator",
        ),
    )
    assert "from icechunk._io.loop import iterate\n" in text
    assert "    from collections.abc import Iterator\n" in text
    assert 'def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:\n' in text
    assert "return iterate(self.list_async(prefix))\n" in text


def test_annotations_are_imported_for_checkers_and_defaults_for_real(tmp_path):
    text = _twin_of(
        tmp_path,
        _thing(
            '''
            async def merge_async(self, other: Thing, policy: Policy = Policy.LAST) -> Result:
                """Merge."""
            ''',
            "from icechunk.core.merge import Policy\nfrom icechunk.ids import Outcome as Result",
        ),
    )
    start, guarded = text.split("if TYPE_CHECKING:\n")
    assert "from icechunk.core.merge import Policy\n" in start
    assert "    from icechunk.ids import Outcome as Result\n" in guarded
    assert "    from icechunk.thing import Thing\n" in guarded
    assert "Policy" not in guarded.split("\n\n")[0]


def test_left_out_methods(tmp_path):
    text = _twin_of(
        tmp_path,
        _thing('''
            def size(self) -> int:
                """By hand."""
            async def size_async(self) -> int:
                """Of this."""
            async def _hidden_async(self) -> int:
                """No twin."""
            async def async_ancestry(self) -> int:
                """Irregular."""
        '''),
    )
    assert "def " not in text


@pytest.mark.parametrize(
    ("method", "problem"),
    [
        ("async def f_async(self) -> int: ...", "docstring"),
        ('async def f_async(self):\n    """F."""', "return annotation"),
        ('async def f_async(self, a) -> int:\n    """F."""', "parameter a"),
        ('@cached\nasync def f_async(self) -> int:\n    """F."""', "decorated with cached"),
    ],
)
def test_refusals(tmp_path, method, problem):
    with pytest.raises(CannotTwinError, match=problem):
        _twin_of(tmp_path, _thing(method))


def test_unwanted_file_is_stale(tmp_path):
    (tmp_path / "_sync").mkdir()
    left_over = tmp_path / "_sync" / "gone.py"
    left_over.touch()
    assert stale_files(tmp_path) == [left_over]
