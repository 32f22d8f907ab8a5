"""The notebooks in the tree are those the script makes, are executed, and run."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_notebook", ROOT / "notebooks" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SHOWN = {
    "main_job": "read back: {'t2m': True, 'u10': True}",
    "lake": "['/wind/wind']",
}


@pytest.mark.parametrize("name", SHOWN)
def test_a_notebook_is_the_built_one_and_executed(builder: ModuleType, name: str) -> None:
    there = nbformat.read(builder.path_of(name), as_version=4)
    assert [c.source for c in there.cells] == [c.source for c in builder.build(name).cells]
    code = [cell for cell in there.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert SHOWN[name] in nbformat.writes(there)


@pytest.mark.parametrize("name", SHOWN)
def test_no_path_of_the_building_machine_is_in_it(builder: ModuleType, name: str) -> None:
    text = builder.path_of(name).read_text("utf-8")
    for path in (str(ROOT), str(Path.home()) + os.sep, "/tmp"):
        assert path not in text


def test_every_notebook_is_tested(builder: ModuleType) -> None:
    assert set(SHOWN) == set(builder.NOTEBOOKS)


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", SHOWN)
def test_a_notebook_runs_at_small_size(
    builder: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    python_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("PYTHONPATH", python_path)
    builder.execute(builder.build(name, megabytes=10))
