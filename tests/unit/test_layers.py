"""Imports inside the package: down only, at module top, no cycles; libraries where they belong.

Reads the syntax tree, so nothing is imported. The layers are those of the style guide; the longest
prefix of a module's name decides.
"""

from __future__ import annotations

import ast
import functools
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "icechunk"

LAYERS = {
    "icechunk._version": 0,
    "icechunk._typing": 0,
    "icechunk._cases": 0,
    "icechunk._display": 0,
    "icechunk._patterns": 0,
    "icechunk._settings": 0,
    "icechunk._trees": 0,
    "icechunk._tables": 0,
    "icechunk._units": 0,
    "icechunk._io": 0,
    "icechunk._earlier": 0,
    "icechunk._earlier.options": 1,
    "icechunk._earlier.storage": 3,
    "icechunk._earlier.repository": 8,
    "icechunk._earlier.writer": 9,
    "icechunk._sync": 0,
    "icechunk.errors": 0,
    "icechunk.events": 0,
    "icechunk.ids": 0,
    "icechunk.logs": 0,
    "icechunk.paths": 0,
    "icechunk.report": 0,
    "icechunk.types": 1,
    "icechunk.config": 1,
    "icechunk.container_access": 1,
    "icechunk.credential_values": 1,
    "icechunk.credentials": 1,
    "icechunk.manifest_conditions": 1,
    "icechunk.manifest_config": 1,
    "icechunk.object_store_config": 1,
    "icechunk.persisted_conditions": 1,
    "icechunk.persisted_config": 1,
    "icechunk.persisted_yaml": 1,
    "icechunk.preload_conditions": 1,
    "icechunk.resolved_config": 1,
    "icechunk.storage_settings": 1,
    "icechunk.virtual_containers": 1,
    "icechunk.format": 2,
    "icechunk.progress": 3,
    "icechunk.storage": 3,
    "icechunk.core": 4,
    "icechunk.assets": 5,
    "icechunk.shelf": 5,
    "icechunk.checkout": 6,
    "icechunk.chunk_reads": 6,
    "icechunk.store": 6,
    "icechunk.store_look": 6,
    "icechunk.virtual_references": 6,
    "icechunk.ancestry_graph": 7,
    "icechunk.conflicts": 7,
    "icechunk.session": 7,
    "icechunk.session_edits": 7,
    "icechunk.session_look": 7,
    "icechunk.session_state": 7,
    "icechunk.snapshots": 7,
    "icechunk.transaction": 7,
    "icechunk.ops": 8,
    "icechunk.outline": 7,
    "icechunk.repository": 8,
    "icechunk.repository_history": 8,
    "icechunk.repository_refs": 8,
    "icechunk.repository_inspect": 8,
    "icechunk.repository_rewrites": 8,
    "icechunk.repository_settings": 8,
    "icechunk.repository_state": 8,
    "icechunk.repository_upkeep": 8,
    "icechunk.upgrade": 8,
    "icechunk.virtual": 8,
    "icechunk.commit_queue": 9,
    "icechunk.group_commit": 9,
    "icechunk.distributed": 9,
    "icechunk.lake": 9,
    "icechunk.dask": 9,
    "icechunk.xarray": 9,
    "icechunk.inputs": 9,
    "icechunk.cli": 9,
    "icechunk.testing": 9,
}
TOP = 10
"""The package itself, which only re-exports."""

# Which modules may import a library at all, by prefix; the command line has everything.
LIBRARIES = {
    "dask": (
        "icechunk.dask",
        "icechunk.inputs",
        "icechunk.xarray",
        "icechunk.cli",
        "icechunk.lake.virtual",
    ),
    "distributed": ("icechunk.dask", "icechunk.cli"),
    "xarray": (
        "icechunk.xarray",
        "icechunk.dask.ingest",
        "icechunk.inputs",
        "icechunk.cli",
        "icechunk.lake.repo",
        "icechunk.lake.virtual",
    ),
    "typer": ("icechunk.cli",),
    "rich": ("icechunk.cli", "icechunk._trees", "icechunk.lake", "icechunk.progress"),
    "s3fs": ("icechunk.storage",),
    "fsspec": ("icechunk.storage", "icechunk.cli", "icechunk.lake.virtual"),
    "obstore": ("icechunk.storage", "icechunk.lake.virtual"),
    "botocore": ("icechunk.storage",),
    "aiohttp": ("icechunk.storage",),
    "azure": ("icechunk.storage",),
    "google": ("icechunk.storage",),
    "yarl": ("icechunk.storage",),
    "aiobotocore": ("icechunk.storage",),
}
ZARR_FROM_LAYER = 6
DEFERRED_LAYERS = (3, 9)

# Loaded only when used, because loading takes a second: the work behind a command, which needs dask
# and xarray, and what needs distributed.
LOADED_WHEN_USED = {
    "icechunk.cli.demo_job",
    "icechunk.cli.ingest_job",
    "icechunk.cli.kept_job",
    "icechunk.dask.cluster_meter",
    "icechunk.dask.counters",
    "icechunk.dask.ingest",
}


@dataclass(frozen=True)
class Import:
    importer: str
    imported: str
    line: int
    deferred: bool
    typing_only: bool

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


def modules() -> dict[str, Path]:
    """Return every module of the package by name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ("icechunk", *path.relative_to(PACKAGE).with_suffix("").parts)
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def layer_of(module: str) -> int:
    """Return a module's layer; KeyError when it is in no entry of the table."""
    if module == "icechunk":
        return TOP
    parent, _, twin = module.rpartition(".")
    original = f"icechunk.{twin.replace('lake_', 'lake.')}"
    if parent == "icechunk._sync" and original in MODULES:
        return layer_of(original)  # a generated base belongs to its class
    prefix = module
    while prefix not in LAYERS:
        prefix, _, _ = prefix.rpartition(".")
        if prefix in {"", "icechunk"}:
            raise KeyError(module)
    return LAYERS[prefix]


def imports_of(module: str, path: Path) -> list[Import]:
    """Return every import statement, and every import by name, of a module."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: list[Import] = []

    def visit(node: ast.AST, deferred: bool, typing_only: bool) -> None:
        for child in ast.iter_child_nodes(node):
            names = _imported_names(child, package)
            found.extend(
                Import(module, name, child.lineno, deferred, typing_only) for name in names
            )
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                for part in child.body:
                    visit(ast.Module([part], []), deferred, True)
                for part in child.orelse:
                    visit(ast.Module([part], []), deferred, typing_only)
            else:
                visit(child, deferred or inside, typing_only)

    visit(ast.parse(path.read_text(encoding="utf-8")), False, False)
    return found


def _imported_names(node: ast.AST, package: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parent = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
            base = f"{parent}.{base}".rstrip(".")
        full = [f"{base}.{alias.name}" for alias in node.names]
        return [name if name in MODULES else base for name in full]
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
        return [a.value for a in node.args[:1] if isinstance(a, ast.Constant)]
    return []


@functools.cache
def all_imports() -> tuple[Import, ...]:
    return tuple(i for name, path in MODULES.items() for i in imports_of(name, path))


def is_ours(name: str) -> bool:
    return name == "icechunk" or name.startswith("icechunk.")


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_a_layer(module):
    layer_of(module)


def test_table_has_no_names_that_are_gone():
    planned = {"icechunk.ops", "icechunk.testing"}
    gone = [
        name
        for name in LAYERS
        if name not in planned and not any(f"{m}.".startswith(f"{name}.") for m in MODULES)
    ]
    assert not gone


def test_imports_go_down():
    upward = [
        str(found)
        for found in all_imports()
        if is_ours(found.imported)
        and not found.typing_only
        and layer_of(found.imported) > layer_of(found.importer)
    ]
    assert not upward


def test_imports_are_at_module_top():
    deferred = [
        str(found)
        for found in all_imports()
        if found.deferred
        and found.imported not in LOADED_WHEN_USED
        and (is_ours(found.imported) or layer_of(found.importer) not in DEFERRED_LAYERS)
    ]
    assert not deferred


def test_imports_are_absolute():
    relative = [
        f"{name}:{node.lineno}"
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert not relative


def test_no_import_cycle():
    graph: dict[str, set[str]] = {name: set() for name in MODULES}
    for found in all_imports():
        if found.imported in graph and not found.typing_only and found.imported != found.importer:
            graph[found.importer].add(found.imported)
    assert _cycle(graph) is None


def _cycle(graph: dict[str, set[str]]) -> list[str] | None:
    """Return the modules of one cycle, in order; None when there is none."""
    done: set[str] = set()
    path: list[str] = []

    def visit(name: str) -> list[str] | None:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return None
        path.append(name)
        found = next(filter(None, map(visit, sorted(graph[name]))), None)
        path.pop()
        done.add(name)
        return found

    return next(filter(None, map(visit, graph)), None)


@pytest.mark.parametrize("library", LIBRARIES)
def test_library_stays_in_its_place(library):
    strays = [
        str(found)
        for found in all_imports()
        if found.imported.partition(".")[0] == library
        and not found.typing_only
        and not found.importer.startswith(LIBRARIES[library])
    ]
    assert not strays


def test_zarr_is_seen_from_the_store_up():
    below = [
        str(found)
        for found in all_imports()
        if found.imported.partition(".")[0] == "zarr"
        and not found.typing_only
        and layer_of(found.importer) < ZARR_FROM_LAYER
    ]
    assert not below


def test_format_and_core_do_no_io():
    asynchronous = [
        f"{name}:{node.lineno}"
        for name, path in MODULES.items()
        if name.startswith(("icechunk.format", "icechunk.core"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.AsyncFunctionDef | ast.Await)
    ]
    assert not asynchronous
    meeting = [
        str(found)
        for found in all_imports()
        if found.importer.startswith(("icechunk.format", "icechunk.core"))
        and found.imported.startswith("icechunk.storage.")
        and not found.typing_only
    ]
    assert not meeting


def test_the_walk_sees_every_kind_of_import(tmp_path):
    source = (
        "from __future__ import annotations\n"
        "import zarr.abc\n"
        "from icechunk import config\n"
        "from .ids import ObjectId\n"
        "if TYPE_CHECKING:\n    from icechunk.repository import Repository\n"
        "def late():\n    from icechunk.session import Session\n"
        "    return importlib.import_module('icechunk.store')\n"
        "class C:\n    import dask\n"
    )
    path = tmp_path / "thing.py"
    path.write_text(source, encoding="utf-8")
    found = {i.imported: (i.deferred, i.typing_only) for i in imports_of("icechunk.thing", path)}
    assert found == {
        "__future__": (False, False),
        "zarr.abc": (False, False),
        "icechunk.config": (False, False),
        "icechunk.ids": (False, False),
        "icechunk.repository": (False, True),
        "icechunk.session": (True, False),
        "icechunk.store": (True, False),
        "dask": (False, False),
    }


def test_a_cycle_is_found():
    assert _cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert _cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None
