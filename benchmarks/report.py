"""From measured documents to tables in Markdown."""

from __future__ import annotations

import math
import statistics
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from benchmarks.compare import OFFICIAL, OURS, Document
from benchmarks.measure import Spread, slope
from benchmarks.registry import BESIDE_LIMITS, GOALS, IMPORT_LIMIT_SECONDS, SCENARIOS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PEAK = "peak_rss"
NONE = "-"
SMALLER = {"ms": 1e-3, "µs": 1e-6, "kB": 1e-3}
"""What is shown in smaller units than it is kept in."""


def section(document: Document) -> str:
    """Return the text of one document."""
    tables = _comparison if document["kind"] == "comparison" else _curves
    return f"{_how(document)}\n\n{tables(document)}"


def write_into(page: Path, documents: Sequence[Document]) -> None:
    """Replace the sections of a page that are made from documents; leave the rest as it is.

    Raises
    ------
    ValueError
        The page has no place for one of them.
    """
    text = page.read_text("utf-8")
    for document in documents:
        text = replaced(text, document)
    page.write_text(text, "utf-8")


def replaced(text: str, document: Document) -> str:
    """Return the text of a page with the section of a document made anew."""
    kind = document["kind"]
    begin, end = f"<!-- benchmarks: {kind} begins -->", f"<!-- benchmarks: {kind} ends -->"
    before, found, rest = text.partition(begin)
    _, also_found, after = rest.partition(end)
    if not (found and also_found):
        raise ValueError(f"the page has no lines {begin!r} and {end!r}, one after the other")
    return f"{before}{begin}\n\n{section(document)}\n\n{end}{after}"


def _how(document: Document) -> str:
    machine, versions = document["machine"], document["versions"]
    memory = f", {machine['memory_gb']} GB" if "memory_gb" in machine else ""
    kind = f", {machine['file_system']}" if "file_system" in machine else ""
    ours = versions[OURS]
    names = ", ".join(f"{name} {version}" for name, version in ours.items() if name != "icechunk")
    load = f"load average {document['load_before']} before, {document['load_after']} after"
    cores = f"{machine['cores']} cores of {machine['processor']}"
    lines = [
        f"- **Machine**: {cores}{memory}{kind}, {machine['system']}; {load}.",
        f"- **Versions**: here {ours['icechunk']}; {names}.",
    ]
    if OFFICIAL in versions:
        theirs = versions[OFFICIAL]
        other = [f"{k} {v}" for k, v in theirs.items() if k != "icechunk" and v != ours.get(k)]
        beside = f", with {', '.join(other)}" if other else ", all else the same"
        lines.append(f"- **Beside**: official {theirs['icechunk']}{beside}.")
    number = document["pairs"]
    lines.append(
        f"- **Date and command**: {document['date']}, `{document['command']}`:"
        f" {number} {'pair' if number == 1 else 'pairs'} in turn (A B A B),"
        " each in a fresh process."
    )
    return "\n".join(lines)


def quantity(value: float, unit: str) -> str:
    """Return a value with its unit, in three digits."""
    if unit == "s":
        for size, name in ((1, "s"), (1e-3, "ms"), (1e-6, "µs")):
            if value >= size:
                return f"{_digits(value / size)} {name}"
        return "0 s"
    if unit == "MB" and value < 1:
        return f"{_digits(value * 1e3)} kB"
    return f"{_digits(value)} {unit}"


def _digits(value: float) -> str:
    if value >= 100 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.1g}"


def _spread(values: Sequence[float], unit: str) -> str:
    spread = Spread.of(values)
    text = quantity(spread.median, unit)
    if len(values) == 1:
        return text
    scale = SMALLER.get(text.split()[1], 1.0)
    return f"{text} ({_digits(spread.low / scale)} to {_digits(spread.high / scale)})"


def ratios(figure: Document, part: str = "values") -> list[float]:
    """Return the ratio of each pair, ours to the official package's."""
    if not (OURS in figure and OFFICIAL in figure):
        return []
    pairs = zip(figure[OURS][part], figure[OFFICIAL][part], strict=False)
    return [ours / theirs for ours, theirs in pairs if theirs > 0]


def _comparison(document: Document) -> str:
    scenarios = document["scenarios"]
    lines = [
        "| figure | here | official | ratio | ratio of processor time | to reach | reached |",
        "|---|---|---|---|---|---|---|",
    ]
    compared = _compared(scenarios)
    met, met_cpu = (
        [one for name, figure in compared if (one := reached(name, figure, part)) is not None]
        for part in ("values", "cpu")
    )
    lines += [_row(name, figure) for name, figure in compared]
    legend = (
        "Medians, and in brackets the quartiles. The ratio is the median of the ratios of the"
        " pairs, below 1 where this package is\nfaster or smaller. Peaks are of the process that"
        f" runs the scenario. **{sum(met)} of {len(met)}** ratios to reach are reached;"
        f" by processor time, {sum(met_cpu)} of {len(met_cpu)}."
    )
    parts = [
        "\n".join(lines),
        legend,
        _import_line(scenarios),
        _beside_limits(scenarios),
        _what(document),
        _errors(scenarios.items()),
    ]
    return "\n\n".join(part for part in parts if part)


def _compared(scenarios: Document) -> list[tuple[str, Document]]:
    """Return the figures of both packages, with the highest peak of all scenarios at the end."""
    found: list[tuple[str, Document]] = []
    peaks: list[Document] = []
    limits = {scenario.name for scenario in SCENARIOS if scenario.limit}
    for scenario, result in scenarios.items():
        if scenario in limits or scenario == "import":
            continue
        for name, figure in result["figures"].items():
            if name == PEAK:
                peaks.append(figure)
                found.append((f"{scenario}.{PEAK}", figure))
            else:
                found.append((name, figure))
    if peaks:
        highest: Document = {"unit": "MB"}
        for side in (OURS, OFFICIAL):
            columns = [figure[side]["values"] for figure in peaks if side in figure]
            if len(columns) == len(peaks):
                values = [max(column) for column in zip(*columns, strict=False)]
                highest[side] = {"values": values, "cpu": []}
        found.append((PEAK, highest))
    return found


def reached(name: str, figure: Document, part: str = "values") -> bool | None:
    """Say whether the ratio to reach is reached; None where there is none, or nothing measured."""
    goal, of_pairs = GOALS.get(name), ratios(figure, part)
    if goal is None or not of_pairs:
        return None
    return statistics.median(of_pairs) <= goal


def _row(name: str, figure: Document) -> str:
    cells = [f"`{name}`"]
    cells += [
        _spread(figure[side]["values"], figure["unit"]) if side in figure else NONE
        for side in (OURS, OFFICIAL)
    ]
    of_pairs, of_cpu = ratios(figure), ratios(figure, "cpu")
    cells += [_ratio(statistics.median(some)) if some else NONE for some in (of_pairs, of_cpu)]
    cells.append(str(GOALS.get(name, "")))
    cells.append({True: "yes", False: "**no**", None: ""}[reached(name, figure)])
    return f"| {' | '.join(cells)} |"


def _import_line(scenarios: Document) -> str:
    name = "import.icechunk_beyond_zarr"
    figure = scenarios.get("import", {}).get("figures", {}).get(name)
    if not figure:
        return ""
    sides = [
        f"{word} {_spread(figure[side]['values'], 's')}"
        for side, word in ((OURS, "here"), (OFFICIAL, "official"))
        if side in figure
    ]
    fast = statistics.median(figure[OURS]["values"]) <= IMPORT_LIMIT_SECONDS
    return (
        f"`import icechunk` after zarr is imported: {', '.join(sides)}. To reach:"
        f" {IMPORT_LIMIT_SECONDS} s ({'reached' if fast else '**not reached**'})."
    )


def _median(scenarios: Document, name: str, side: str) -> float | None:
    figures = scenarios.get(name.partition(".")[0], {}).get("figures", {})
    values = figures.get(name, {}).get(side, {}).get("values")
    return statistics.median(values) if values else None


def _beside_limits(scenarios: Document) -> str:
    rows = []
    for limit, name in BESIDE_LIMITS:
        seconds = _median(scenarios, limit, OURS)
        if not seconds:
            continue
        both = [_median(scenarios, name, side) for side in (OURS, OFFICIAL)]
        cells = [_ratio(value / seconds) if value else NONE for value in both]
        row = (f"`{name}`", f"`{limit}`", quantity(seconds, "s"), *cells)
        rows.append(f"| {' | '.join(row)} |")
    for step in ("write", "open_read_all"):
        ours = _median(scenarios, f"native_fused.{step}", OURS)
        theirs = _median(scenarios, f"native.{step}", OFFICIAL)
        if ours and theirs:
            rows.append(
                f"| `native_fused.{step}` | `native.{step}` of the official package"
                f" | {quantity(theirs, 's')} | {_ratio(ours / theirs)} | {NONE} |"
            )
    if not rows:
        return ""
    head = "| figure | beside | its median | here, ratio | official, ratio |\n|---|---|---|---|---|"
    return "\n".join(
        ["Beside what the machine, and others, do with the same bytes:\n", head, *rows]
    )


def _what(document: Document) -> str:
    measured = document["scenarios"]
    lines = [
        f"- `{scenario.name}`: {measured[scenario.name]['size']:,} {scenario.what}"
        if scenario.size > 1
        else f"- `{scenario.name}`: {scenario.what}"
        for scenario in SCENARIOS
        if scenario.name in measured
    ]
    return "\n".join(["What the scenarios do:\n", *lines])


def _errors(results: Any) -> str:
    lines = [
        f"- {name}, {side}: {error}"
        for name, result in results
        for side, error in result["errors"].items()
    ]
    return "\n".join(["Not measured:\n", *lines]) if lines else ""


def _curves(document: Document) -> str:
    return "\n\n".join(
        _curve(name, curve["unit"], curve["points"]) for name, curve in document["curves"].items()
    )


def _curve(name: str, unit: str, points: list[Document]) -> str:
    sizes = [point["size"] for point in points]
    lines = [
        f"**{name.capitalize()}**, by the number of {unit}:\n",
        f"| figure | | {' | '.join(f'{size:,}' for size in sizes)} | slope | last slope |",
        f"|---|---|{'---|' * (len(sizes) + 2)}",
    ]
    names = dict.fromkeys(figure for point in points for figure in point["figures"])
    for figure in names:
        for side, word in ((OURS, "here"), (OFFICIAL, "official")):
            found = _medians(points, figure, side)
            if found:
                lines.append(_curve_row(figure, word, sizes, found))
    errors = _errors((f"{name} of {point['size']:,}", point) for point in points)
    return "\n".join(lines) + (f"\n\n{errors}" if errors else "")


def _medians(points: list[Document], figure: str, side: str) -> dict[int, tuple[float, str]]:
    """Return the median and the unit of a figure by size."""
    return {
        point["size"]: (
            statistics.median(point["figures"][figure][side]["values"]),
            point["figures"][figure]["unit"],
        )
        for point in points
        if side in point["figures"].get(figure, {})
    }


def _curve_row(
    figure: str, word: str, sizes: list[int], found: dict[int, tuple[float, str]]
) -> str:
    cells = [quantity(*found[size]) if size in found else NONE for size in sizes]
    values = [value for value, _ in found.values()]
    slopes = [slope(list(found), values)]
    slopes += [slope(xs, ys) for xs, ys in zip(pairwise(found), pairwise(values), strict=True)][-1:]
    # Adding zero keeps a slope that is nearly flat from being written as -0.00.
    texts = [NONE if math.isnan(number) else f"{round(number, 2) + 0.0:.2f}" for number in slopes]
    texts += [NONE] * (2 - len(texts))
    return f"| `{figure}` | {word} | {' | '.join([*cells, *texts])} |"
