"""Write ``api.md``: every public name, from its docstring.

usage: python docs/reference/build_api.py

Classes and functions are shown under the first module that offers them. A coroutine ``x_async`` is
named beside its blocking ``x``, whose docstring it shares.
"""

from __future__ import annotations

import enum
import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("api.md")

MODULES = (
    "icechunk",
    "icechunk.xarray",
    "icechunk.dask",
    "icechunk.commit_queue",
    "icechunk.lake",
    "icechunk.conflicts",
    "icechunk.storage",
    "icechunk.credentials",
    "icechunk.config",
    "icechunk.ops",
    "icechunk.repository",
    "icechunk.snapshots",
)

HEAD = """# The API

Every public name, written by `docs/reference/build_api.py` from the docstrings. Names of earlier
releases are on [a page of their own](earlier-names.md).

A method `x` that says "also `x_async`" has a coroutine of that name, with the same parameters. In
the examples `repo` is a repository with an array `t` of four numbers in two chunks, and `session` a
session that can write to it; all of them run as tests.
"""


def main() -> None:
    """Write the page."""
    PAGE.write_text(build(), encoding="utf-8")


def build() -> str:
    """Return the text of the page."""
    seen: set[int] = set()
    written: dict[int, str] = {}
    parts = [HEAD]
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        values = {name: getattr(module, name) for name in sorted(module.__all__)}
        new = {n: v for n, v in values.items() if id(v) not in seen and is_described(v)}
        seen |= {id(value) for value in new.values()}
        if not new:
            continue
        parts.append(f"\n## {module_name}\n\n| Name | What it is |\n|---|---|\n")
        parts += [f"| `{name}` | {table_text(summary(value))} |\n" for name, value in new.items()]
        parts += [entry(name, value, written) for name, value in new.items()]
    return "".join(parts)


def is_described(value: object) -> bool:
    """Say whether a value is a class or function of ours."""
    ours = (getattr(value, "__module__", None) or "").startswith("icechunk")
    return ours and (inspect.isclass(value) or inspect.isroutine(value))


def entry(name: str, value: Any, written: dict[int, str]) -> str:
    """Return what the page says about a class or a function.

    Parameters
    ----------
    name : str
        Public name.
    value : class or function
        What it is.
    written : dict of int to str
        Methods that the page has already, by identity; those of this class are added.
    """
    text = f"\n### {name}\n\n{described(name, value)}"
    if not inspect.isclass(value):
        return text
    members = own_methods(value)
    known = []
    for member, method in members.items():
        if member.endswith("_async") and member.removesuffix("_async") in members:
            continue
        function = id(getattr(method, "__func__", method))
        if function in written:
            known.append(f"`{written[function]}`")
            continue
        written[function] = f"{name}.{member}"
        also = f"Also `{member}_async`.\n\n" if f"{member}_async" in members else ""
        text += f"\n#### {name}.{member}\n\n{also}{described(f'{name}.{member}', method)}"
    return text + (f"\nFurther methods, as described: {', '.join(known)}.\n" if known else "")


def own_methods(cls: type) -> dict[str, Any]:
    """Return the public methods that a class has from this package, by name."""
    if issubclass(cls, BaseException):
        return {}
    members = {name: getattr(cls, name, None) for name in dir(cls) if not name.startswith("_")}
    return {n: m for n, m in members.items() if inspect.isroutine(m) and is_described(m)}


def described(name: str, value: Any) -> str:
    """Return signature and docstring."""
    body = clean(inspect.getdoc(value) or "")
    if inspect.isclass(value) and issubclass(value, enum.Enum):
        variants = ", ".join(f"`{member.name}`" for member in value)
        return f"{body.splitlines()[0]}\n\nVariants: {variants}.\n"
    return f"```text\n{name}{signature(value)}\n\n{body}\n```\n"


def signature(value: Any) -> str:
    """Return the parameters, without types, which the docstring has."""
    try:
        found = inspect.signature(value)
    except (TypeError, ValueError):
        return ""
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in found.parameters.values()]
    shown = str(inspect.Signature([p for p in bare if p.name not in {"self", "cls"}]))
    return re.sub(r" at 0x[0-9a-f]+", "", shown)


def clean(text: str) -> str:
    """Return a docstring without the marks that are for the test runner."""
    text = re.sub(r" *# doctest: .*", "", text)
    return "\n".join(line.rstrip() for line in text.splitlines())


def summary(value: Any) -> str:
    """Return the first line of a docstring."""
    return (inspect.getdoc(value) or "").partition("\n")[0]


def table_text(text: str) -> str:
    """Return text as it can stand in a table."""
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    main()
