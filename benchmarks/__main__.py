"""The command line of the benchmarks."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from benchmarks.children import ROOT
from benchmarks.compare import OFFICIAL, OURS, Document, Plan, comparison, curves, say
from benchmarks.registry import CURVES, SCENARIOS, Curve, chosen
from benchmarks.report import section, write_into

if TYPE_CHECKING:
    from collections.abc import Callable

RESULTS: Final = ROOT / "benchmarks" / "results"
QUICK_SCALE: Final = 0.005
QUICK_SIZES: Final = 2

app = typer.Typer(
    help="Measure this package beside the official one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Official = Annotated[
    str,
    typer.Option(
        envvar="ICECHUNK_PEER_PYTHON",
        help="Interpreter that has the official package; without it only this package is measured.",
    ),
]
Ours = Annotated[str, typer.Option(help="Interpreter that has this package.")]
Pairs = Annotated[int, typer.Option(min=1, help="How many times, in turn.")]
Timeout = Annotated[float, typer.Option(help="Seconds for one process.")]
Quick = Annotated[bool, typer.Option("--quick", help="Tiny sizes, to see that it runs.")]
Out = Annotated[Path, typer.Option(help="The file of JSON to write.", dir_okay=False)]


def plan_of(ours: str, official: str, pairs: int, timeout: float) -> Plan:
    """Return how to measure with the interpreters that were given."""
    pythons = {OURS: ours} | ({OFFICIAL: str(Path(official).absolute())} if official else {})
    return Plan(pythons=pythons, pairs=pairs, timeout=timeout)


def sizes_of(curve: Curve, most: int | None, quick: bool) -> tuple[int, ...]:
    """Return the sizes to measure: up to the greatest that was asked for."""
    sizes = curve.sizes[:QUICK_SIZES] if quick else curve.sizes
    return tuple(size for size in sizes if most is None or size <= most)


def keeper(out: Path, words: str) -> Callable[[Document], None]:
    """Return what writes a document; `words` is the command, as the page is to show it."""

    def keep(document: Document) -> None:
        document["command"] = words
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(document, indent=1) + "\n", "utf-8")

    return keep


@app.command("compare")
def compare_command(
    official: Official = "",
    ours: Ours = sys.executable,
    scenarios: Annotated[
        str | None, typer.Option(help=f"Comma-separated: {','.join(s.name for s in SCENARIOS)}.")
    ] = None,
    pairs: Pairs = 5,
    scale: Annotated[float, typer.Option(help="Of full size.")] = 1.0,
    quick: Quick = False,
    timeout: Timeout = 900,
    out: Out = RESULTS / "comparison.json",
) -> None:
    """Measure scenarios with both packages in turn, each time in a fresh process."""
    try:
        wanted = chosen(scenarios)
    except KeyError as error:
        raise typer.BadParameter(f"no such scenario: {error}") from None
    scale = QUICK_SCALE if quick else scale
    words = f"python -m benchmarks compare --pairs {pairs}"
    words += f" --scenarios {scenarios}" if scenarios else ""
    words += f" --scale {scale:g}" if scale != 1 else ""
    plan = plan_of(ours, official, pairs, timeout)
    print(section(comparison(plan, wanted, scale, keeper(out, words))))


@app.command("curves")
def curves_command(
    official: Official = "",
    ours: Ours = sys.executable,
    names: Annotated[
        str | None, typer.Option("--curves", help=f"Of {','.join(c.name for c in CURVES)}.")
    ] = None,
    pairs: Pairs = 1,
    most: Annotated[int | None, typer.Option(help="The greatest size.")] = None,
    quick: Quick = False,
    timeout: Timeout = 1800,
    out: Out = RESULTS / "curves.json",
) -> None:
    """Measure scenarios at growing sizes, and print log-log slopes."""
    wanted = [
        replace(curve, sizes=sizes_of(curve, most, quick))
        for curve in CURVES
        if names is None or curve.name in names.split(",")
    ]
    words = f"python -m benchmarks curves --pairs {pairs}"
    words += f" --curves {names}" if names else ""
    words += f" --most {most}" if most else ""
    words += " --quick" if quick else ""
    plan = plan_of(ours, official, pairs, timeout)
    print(section(curves(plan, wanted, keeper(out, words))))


@app.command("write-docs")
def write_docs_command(
    results: Annotated[list[Path] | None, typer.Argument(help="Files of JSON.")] = None,
    page: Annotated[Path, typer.Option(help="The page.")] = ROOT / "docs" / "benchmarks.md",
) -> None:
    """Make the tables of the page anew from measured files; leave what people wrote."""
    files = results or sorted(RESULTS.glob("*.json"))
    write_into(page, [json.loads(file.read_text("utf-8")) for file in files])
    say(f"wrote {page.name} from {', '.join(file.name for file in files)}")


if __name__ == "__main__":
    app()
