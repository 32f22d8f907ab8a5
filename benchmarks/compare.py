"""Running scenarios with both packages in turn, and what is kept of it."""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.children import call, measure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from benchmarks.registry import Curve, Scenario

OURS, OFFICIAL = "ours", "official"
Document = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How to measure.

    Attributes
    ----------
    pythons : Mapping of str to str
        Interpreters by side.
    pairs : int
        How often; each time every side has a turn.
    timeout : float
        Seconds for one process.
    """

    pythons: Mapping[str, str]
    pairs: int
    timeout: float = 900


def say(text: str) -> None:
    """Tell whoever waits how far it is."""
    print(text, file=sys.stderr, flush=True)


def taken_in_turn(plan: Plan, work: str, size: int, sides: Iterable[str]) -> Document:
    """Measure one scenario: A B A B ..., so that a drift of the machine's speed touches both.

    Returns
    -------
    dict
        ``size``; ``figures`` by name: unit, and by side values and processor times, in the order
        of the pairs; ``errors`` by side: the first one. After an error a side has no more turns.
    """
    figures: dict[str, Document] = {}
    errors: dict[str, str] = {}
    for number in range(plan.pairs):
        for side in sides:
            if side in errors:
                continue
            run = measure(plan.pythons[side], work, size, timeout=plan.timeout)
            if run.error:
                errors[side] = run.error
                continue
            for name, figure in run.figures.items():
                kept = figures.setdefault(name, {"unit": figure.unit})
                of_side = kept.setdefault(side, {"values": [], "cpu": []})
                of_side["values"].append(round(figure.value, 6))
                if figure.cpu is not None:
                    of_side["cpu"].append(round(figure.cpu, 6))
        say(f"  {work} of {size}: {number + 1} of {plan.pairs}{f' {errors}' if errors else ''}")
    return {"size": size, "figures": figures, "errors": errors}


def comparison(
    plan: Plan, scenarios: Iterable[Scenario], scale: float, keep: Callable[[Document], None]
) -> Document:
    """Measure scenarios; `keep` is called with what there is after each of them."""
    document = described(plan, "comparison") | {"scale": scale, "scenarios": {}}
    for scenario in scenarios:
        sides = [OURS] if scenario.limit else list(plan.pythons)
        size = max(1, round(scenario.size * scale))
        document["scenarios"][scenario.name] = taken_in_turn(plan, scenario.work, size, sides)
        finish(document, keep)
    return document


def curves(plan: Plan, chosen: Iterable[Curve], keep: Callable[[Document], None]) -> Document:
    """Measure curves; `keep` is called with what there is after each point."""
    document = described(plan, "curves") | {"curves": {}}
    for curve in chosen:
        points: list[Document] = []
        document["curves"][curve.name] = {"unit": curve.unit, "points": points}
        for size in curve.sizes:
            points.append(taken_in_turn(plan, curve.work, size, list(plan.pythons)))
            finish(document, keep)
    return document


def finish(document: Document, keep: Callable[[Document], None]) -> None:
    """Note the load of the machine now, and keep the document."""
    document["load_after"] = load()
    keep(document)


def described(plan: Plan, kind: str) -> Document:
    """Return what a document says besides its figures."""
    return {
        "kind": kind,
        "date": f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC",
        "pairs": plan.pairs,
        "machine": machine(),
        "versions": versions(plan.pythons),
        "load_before": load(),
    }


def versions(pythons: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return the versions of each side.

    Raises
    ------
    RuntimeError
        Both sides import the same package.
    """
    found = {side: json.loads(call(python, "versions")[-1]) for side, python in pythons.items()}
    if len({one["file"] for one in found.values()}) < len(found):
        where = ", ".join(one["file"] for one in found.values())
        raise RuntimeError(f"both interpreters import the same icechunk ({where})")
    return {side: one["versions"] for side, one in found.items()}


def load() -> float | None:
    """Return how many processes want a core, the mean of the last minute."""
    return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None


def machine() -> dict[str, Any]:
    """Return what the figures depend on: processor, cores, memory, file system."""
    model = platform.processor() or platform.machine()
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.is_file():
        names = [x for x in cpu_info.read_text().splitlines() if x.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    found: dict[str, Any] = {"processor": model, "cores": os.cpu_count()}
    if hasattr(os, "sysconf"):
        found["memory_gb"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9)
    mounts = Path("/proc/mounts")
    if mounts.is_file():
        place = Path(tempfile.gettempdir()).resolve()
        rows = [line.split()[1:3] for line in mounts.read_text().splitlines()]
        holding = [row for row in rows if place.is_relative_to(row[0])]
        found["file_system"] = max(holding, key=lambda row: len(row[0]))[1]
    return found | {"system": platform.system()}
