"""The examples in the docstrings of every public class, function and method run.

They find ``icechunk``, ``np``, ``zarr``, a repository ``repo`` with an array ``t`` of four numbers
in two chunks, and a ``session`` that can write to it; all anew for each example.
"""

from __future__ import annotations

import doctest
import enum
import importlib
import inspect
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

import icechunk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODULES = [
    "icechunk",
    "icechunk.commit_queue",
    "icechunk.config",
    "icechunk.conflicts",
    "icechunk.credentials",
    "icechunk.dask",
    "icechunk.distributed",
    "icechunk.lake",
    "icechunk.ops",
    "icechunk.repository",
    "icechunk.session",
    "icechunk.snapshots",
    "icechunk.storage",
    "icechunk.store",
    "icechunk.virtual",
    "icechunk.xarray",
]
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

NEED_NO_EXAMPLE = {
    "computing_meta": "called by dask",
    "fork_at": "for the package's own use",
    "merge_sessions_array_kwargs": "called by dask",
    "remove_job": "in the how-to of ingestion jobs",
    "s3_object_store_storage": "official name of what s3_storage does",
    "session_merge_reduction": "called by dask",
    "show_job": "in the how-to of ingestion jobs",
    "twin_of": "for the package's own use",
}


def public() -> dict[str, Any]:
    """Return public classes and functions, and the methods of classes, by name."""
    found: dict[str, Any] = {}
    for module in map(importlib.import_module, MODULES):
        for name in getattr(module, "__all__", None) or own_names(module):
            value = getattr(module, name)
            if not (inspect.isclass(value) or inspect.isfunction(value)):
                continue
            if not value.__module__.startswith("icechunk") or name.startswith("_"):
                continue
            found.setdefault(name, value)
            if inspect.isclass(value):
                found.update({f"{name}.{n}": m for n, m in methods(value)})
    return found


def own_names(module: Any) -> list[str]:
    return [n for n, v in vars(module).items() if getattr(v, "__module__", None) == module.__name__]


def methods(cls: type) -> Iterator[tuple[str, Any]]:
    for name in dir(cls):
        value = getattr(cls, name, None)
        ours = (getattr(value, "__module__", None) or "").startswith("icechunk")
        if not name.startswith("_") and inspect.isroutine(value) and ours:
            yield name, value


PUBLIC = public()
WITH_EXAMPLES = sorted(
    name
    for name, value in PUBLIC.items()
    if ">>>" in (value.__doc__ or "") and not name.endswith("_async")
)


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "getlogin", str, raising=False)
    repo = icechunk.Repository.create(icechunk.in_memory_storage())
    session = repo.writable_session("main")
    zarr.create_array(
        session.store, name="t", data=np.arange(4.0), chunks=(2,), compressors=None, filters=None
    )
    session.commit("first")
    return {
        "icechunk": icechunk,
        "np": np,
        "zarr": zarr,
        "repo": repo,
        "session": repo.writable_session("main"),
    }


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_example(name: str, names: dict[str, Any]) -> None:
    finder = doctest.DocTestFinder(recurse=False)
    for test in finder.find(PUBLIC[name], name, globs=names):
        report: list[str] = []
        doctest.DocTestRunner(optionflags=OPTIONS).run(test, out=report.append)
        assert not report, "".join(report)


def test_functions_and_main_classes_have_examples() -> None:
    main = {"Repository", "Session", "IcechunkStore"}
    missing = [
        name
        for name, value in PUBLIC.items()
        if name not in WITH_EXAMPLES
        and name not in NEED_NO_EXAMPLE
        and inspect.isfunction(value)
        and "." not in name
        and inspect.signature(value).parameters
    ]
    assert not missing
    for cls in main:
        own = [n for n in PUBLIC if n.startswith(f"{cls}.") and not n.endswith("_async")]
        with_examples = [n for n in own if n in WITH_EXAMPLES]
        assert len(with_examples) > 0.6 * len(own), sorted(set(own) - set(with_examples))


def test_every_public_name_is_described() -> None:
    missing = [
        name
        for name, value in PUBLIC.items()
        if not (inspect.isclass(value) and issubclass(value, enum.Enum))
        and not inspect.getdoc(value)
    ]
    assert not missing
