"""Write the blocking twins of hand-written async methods.

A class that lists ``<Class>Twins`` among its bases gets a module ``icechunk/_sync/<module>.py``
with that base: for every method ``x_async`` (instance, class or static method, coroutine or async
iterator) one blocking ``x`` with the same parameters, annotations and docstring. A method ``x``
that the class has by hand is left out; names that do not end in ``_async`` are left alone.

In the lake, whose document has two classes of each kind, ``X`` stands beside ``AsyncX``: for every
public coroutine and property of ``AsyncX`` that ``X`` has not by hand, ``XTwins`` gets a blocking
method or a property of the same name that asks ``self._async``.

``python -m icechunk._sync.generate`` writes the files, ``--check`` compares them. Where the package
cannot be imported because a twin is missing, run the file itself: it needs the standard library
only.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import re
import sys
from pathlib import Path
from typing import Final, TypeAlias

_PACKAGE: Final = Path(__file__).resolve().parents[1]
_WIDTH: Final = 100
_SUFFIX: Final = "_async"
_MARK: Final = "may_run_now"  # decorator of methods whose twin calls ``self._run``
_PAIRED: Final = "_async"  # attribute of a blocking class that holds its asynchronous other
_ITERATORS: Final = {"AsyncIterator", "AsyncGenerator"}
_Method: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef


class CannotTwinError(ValueError):
    """A method that the generator has no rule for."""


def planned_files(package: Path = _PACKAGE) -> dict[Path, str]:
    """Return every generated file, by path, with what it should contain.

    Parameters
    ----------
    package : Path
        Directory of the package.

    Returns
    -------
    dict of Path to str
        Files below ``_sync``.

    Raises
    ------
    CannotTwinError
        A method is decorated in an unknown way, or lacks a docstring or an annotation.
    """
    files = {}
    for source in sorted([*package.glob("*.py"), *package.glob("lake/**/*.py")]):
        tree = ast.parse(source.read_text(encoding="utf-8"))
        twinned = [node for node in tree.body if isinstance(node, ast.ClassDef) and _wants(node)]
        if twinned:
            parts = source.relative_to(package).with_suffix("").parts
            target = package / "_sync" / f"{'_'.join(parts)}.py"
            files[target] = _module(".".join(parts), tree, twinned)
    return files


def _wants(node: ast.ClassDef) -> bool:
    return any(isinstance(base, ast.Name) and base.id == f"{node.name}Twins" for base in node.bases)


def _module(name: str, tree: ast.Module, classes: list[ast.ClassDef]) -> str:
    others = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    methods = {
        node.name: _twinned_methods(node, others.get(f"Async{node.name}")) for node in classes
    }
    everything = [method for found in methods.values() for method in found]
    bridges = sorted(
        {_bridge(m) for m in everything if not _is_property(m) and not _goes_through_run(m)}
    )
    body = "\n\n".join(_class(name, owner, found) for owner, found in methods.items())
    defaults = {n for method in everything for n in _default_names(method)}
    annotations = {n for method in everything for n in _annotation_names(method)}
    own = defaults & {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    if own:
        raise CannotTwinError(f"a default uses {own}, which its module defines itself")
    loop = f"from icechunk._io.loop import {', '.join(bridges)}\n" if bridges else ""
    runtime = _imports(name, tree, defaults, runtime=set(), indent="")
    guarded = _imports(name, tree, annotations, runtime=defaults, indent="    ")
    typing = "from typing import TYPE_CHECKING\n\n" if guarded else ""
    block = f"\nif TYPE_CHECKING:\n{guarded}" if guarded else ""
    imports = f"{typing}{loop}{runtime}{block}"
    imports = f"\n{imports}" if imports else ""
    return (
        f'"""Blocking twins of `icechunk.{name}`; written by ``python -m icechunk._sync.generate``.'
        f'"""\n\nfrom __future__ import annotations\n{imports}\n\n{body}'
    )


def _twinned_methods(node: ast.ClassDef, pair: ast.ClassDef | None) -> list[_Method]:
    methods = [m for m in node.body if isinstance(m, ast.FunctionDef | ast.AsyncFunctionDef)]
    by_hand = {m.name for m in methods}
    if pair is not None:
        return [
            m
            for m in pair.body
            if isinstance(m, ast.FunctionDef | ast.AsyncFunctionDef)
            and (isinstance(m, ast.AsyncFunctionDef) or _is_property(m))
            and not m.name.startswith("_")
            and m.name not in by_hand
        ]
    return [
        m
        for m in methods
        if m.name.endswith(_SUFFIX)
        and not m.name.startswith("_")
        and m.name.removesuffix(_SUFFIX) not in by_hand
    ]


def _is_property(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef) and [
        ast.unparse(decorator) for decorator in node.decorator_list
    ] == ["property"]


def _goes_through_run(method: _Method) -> bool:
    return [ast.unparse(decorator) for decorator in method.decorator_list] == [_MARK]


def _class(module: str, name: str, methods: list[_Method]) -> str:
    head = f'class {name}Twins:\n    """Blocking methods of `icechunk.{module}.{name}`."""\n\n'
    parts = [head + "    __slots__ = ()\n", *(_twin(method) for method in methods)]
    return "\n".join(parts)


def _yielded(method: _Method) -> ast.expr | None:
    """Return the annotation of what an async iterator yields; None for a coroutine."""
    returns = method.returns
    if not (isinstance(returns, ast.Subscript) and isinstance(returns.value, ast.Name)):
        return None
    if returns.value.id not in _ITERATORS:
        return None
    return returns.slice.elts[0] if isinstance(returns.slice, ast.Tuple) else returns.slice


def _bridge(method: _Method) -> str:
    return "run" if _yielded(method) is None else "iterate"


def _returned(method: _Method) -> str:
    if method.returns is None:
        raise CannotTwinError(f"{method.name} has no return annotation")
    item = _yielded(method)
    return ast.unparse(method.returns) if item is None else f"Iterator[{ast.unparse(item)}]"


def _twin(method: _Method) -> str:
    if _is_property(method):
        head = f"    @property\n{_signature(method.name, ['self'], _returned(method))}"
        return f"{head}{_docstring(method)}        return self.{_PAIRED}.{method.name}\n"
    decorators = [ast.unparse(d) for d in method.decorator_list]
    through_run = _goes_through_run(method)
    if through_run:
        decorators = []
    if decorators not in ([], ["classmethod"], ["staticmethod"]):
        raise CannotTwinError(f"{method.name} is decorated with {', '.join(decorators)}")
    # A static method's twin must find the async one, so it becomes a class method.
    on_class = bool(decorators)
    receiver = "cls" if on_class else "self"
    parameters, arguments = _parameters(method, skip_first=decorators != ["staticmethod"])
    name = method.name.removesuffix(_SUFFIX)
    signature = _signature(name, [receiver, *parameters], _returned(method))
    bridge = "self._run" if through_run else _bridge(method)
    called = receiver if method.name.endswith(_SUFFIX) else f"{receiver}.{_PAIRED}"
    call = _call(f"return {bridge}({called}.{method.name}", arguments)
    head = "    @classmethod\n" if on_class else ""
    return f"{head}{signature}{_docstring(method)}{call}"


def _parameters(method: _Method, *, skip_first: bool) -> tuple[list[str], list[str]]:
    """Return the parameters as they are declared, and the arguments that pass them on."""
    args = method.args
    positional = [*args.posonlyargs, *args.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(args.defaults))
    defaults += args.defaults
    declared, passed = [], []
    for index, (parameter, default) in enumerate(zip(positional, defaults, strict=True)):
        if index or not skip_first:
            declared.append(_declared(parameter, default))
            passed.append(parameter.arg)
        if args.posonlyargs and index == len(args.posonlyargs) - 1:
            declared.append("/")
    if args.vararg:
        declared.append("*" + _declared(args.vararg, None))
        passed.append("*" + args.vararg.arg)
    elif args.kwonlyargs:
        declared.append("*")
    for parameter, default in zip(args.kwonlyargs, args.kw_defaults, strict=True):
        declared.append(_declared(parameter, default))
        passed.append(f"{parameter.arg}={parameter.arg}")
    if args.kwarg:
        declared.append("**" + _declared(args.kwarg, None))
        passed.append("**" + args.kwarg.arg)
    return declared, passed


def _declared(parameter: ast.arg, default: ast.expr | None) -> str:
    if parameter.annotation is None:
        raise CannotTwinError(f"parameter {parameter.arg} has no annotation")
    text = f"{parameter.arg}: {ast.unparse(parameter.annotation).replace(chr(39), chr(34))}"
    if default is None:
        return text
    return f"{text} = {ast.unparse(default).replace(chr(39), chr(34))}"


def _signature(name: str, parameters: list[str], returned: str) -> str:
    """Return the line of the definition, broken as the formatter breaks it."""
    ending = f") -> {returned}:\n"
    line = f"    def {name}({', '.join(parameters)}{ending}"
    if len(line) <= _WIDTH + 1:
        return line
    one_line = f"        {', '.join(parameters)}\n"
    star = any(parameter.startswith("**") for parameter in parameters)
    if len(one_line) <= _WIDTH + 1 and len(parameters) == 1 and not star:
        return f"    def {name}(\n{one_line}    {ending}"
    listed = "".join(f"        {parameter},\n" for parameter in parameters)
    return f"    def {name}(\n{listed}    {ending}"


def _call(start: str, arguments: list[str]) -> str:
    line = f"        {start}({', '.join(arguments)}))\n"
    if len(line) <= _WIDTH + 1:
        return line
    outer, _, inner = start.partition("(")
    line = f"            {inner}({', '.join(arguments)})\n"
    if len(line) <= _WIDTH + 1:
        return f"        {outer}(\n{line}        )\n"
    together = f"                {', '.join(arguments)}\n"
    if len(together) > _WIDTH + 1:
        together = "".join(f"                {argument},\n" for argument in arguments)
    return f"        {outer}(\n            {inner}(\n{together}            )\n        )\n"


def _docstring(method: _Method) -> str:
    text = ast.get_docstring(method, clean=False)
    if text is None:
        raise CannotTwinError(f"{method.name} has no docstring")
    text = re.sub(rf"`([a-z_]+){_SUFFIX}`", r"`\1`", text).replace("\\", "\\\\")
    return f'        """{text}"""\n'


def _imports(
    module: str, tree: ast.Module, names: set[str], *, runtime: set[str], indent: str
) -> str:
    """Return the imports of names, grouped and sorted as the linter has them."""
    origins = {"Iterator": ("collections.abc", "Iterator"), **_imported(tree)}
    wanted: dict[str, list[str]] = {}
    for name in sorted(names - runtime - set(dir(builtins))):
        source, original = origins.get(name, (f"icechunk.{module}", name))
        wanted.setdefault(source, []).append(
            original if original == name else f"{original} as {name}"
        )
    blocks: dict[int, str] = {}
    for source, found in sorted(wanted.items()):
        top = source.partition(".")[0]
        group = 0 if top in sys.stdlib_module_names else 2 if top == "icechunk" else 1
        blocks[group] = blocks.get(group, "") + _import_line(indent, source, found)
    return "\n".join(text for _, text in sorted(blocks.items()))


def _import_line(indent: str, source: str, names: list[str]) -> str:
    line = f"{indent}from {source} import {', '.join(names)}\n"
    if len(line) <= _WIDTH + 1:
        return line
    listed = "".join(f"{indent}    {name},\n" for name in names)
    return f"{indent}from {source} import (\n{listed}{indent})\n"


def _names(expressions: list[ast.expr]) -> set[str]:
    return {n.id for part in expressions for n in ast.walk(part) if isinstance(n, ast.Name)}


def _default_names(method: _Method) -> set[str]:
    return _names([d for d in (*method.args.defaults, *method.args.kw_defaults) if d is not None])


def _annotation_names(method: _Method) -> set[str]:
    args = method.args
    parameters = [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]
    found = [p.annotation for p in parameters if p is not None and p.annotation is not None]
    if method.returns is not None:
        found.append(method.returns)
    names = _names(found)
    return names if _yielded(method) is None else (names - _ITERATORS) | {"Iterator"}


def _imported(tree: ast.Module) -> dict[str, tuple[str, str]]:
    """Return where the names of a module come from: local name to (module, name)."""
    return {
        alias.asname or alias.name: (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module is not None
        for alias in node.names
    }


def stale_files(package: Path = _PACKAGE) -> list[Path]:
    """Return the generated files that are missing, out of date, or no longer wanted."""
    planned = planned_files(package)
    known = {*planned, package / "_sync" / "__init__.py", package / "_sync" / "generate.py"}
    unwanted = [path for path in sorted((package / "_sync").glob("*.py")) if path not in known]
    return unwanted + [
        path
        for path, text in planned.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]


def main(arguments: list[str] | None = None) -> int:
    """Write or compare the generated files; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--check", action="store_true", help="compare only")
    check = parser.parse_args(arguments).check
    stale = stale_files()
    planned = planned_files()
    for path in stale:
        sys.stdout.write(f"{'stale' if check else 'written'}: {path.name}\n")
        if not check:
            if path in planned:
                path.write_text(planned[path], encoding="utf-8")
            else:
                path.unlink()
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
