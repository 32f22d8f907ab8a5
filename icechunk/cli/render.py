"""From plain data to what a terminal shows. Nothing here reads or writes anything."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from icechunk._trees import NAME, QUIET, clean, dims_text, size_text
from icechunk._units import bytes_text, count_text, shape_text, time_text
from icechunk.core.spans import span_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rich.console import RenderableType

# One meaning, one style, everywhere.
ID: Final = "yellow"
BRANCH: Final = "bold green"
TAG: Final = "bold cyan"
_SPANS_SHOWN: Final = 6


def table(*columns: str | tuple[str, str]) -> Table:
    """Return an empty calm table; a column given as ``(name, "right")`` is right-aligned."""
    result = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        header_style=QUIET,
        show_edge=False,
    )
    for column in columns:
        name, justify = (column, "left") if isinstance(column, str) else column
        result.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type] # literal
    return result


def _labels(data: Mapping[str, Any]) -> Text:
    parts: list[tuple[str, str]] = [(clean(name), BRANCH) for name in data["branches"]]
    parts += [(f"tag {clean(name)}", TAG) for name in data["tags"]]
    text = Text()
    for part, style in parts:
        text.append("  ")
        text.append(part, style)
    return text


def _metadata_lines(metadata: Mapping[str, Any]) -> list[Text]:
    shown = {k: v for k, v in metadata.items() if not k.startswith("__")}  # the engine's own
    lines = []
    for key, value in sorted(shown.items()):
        text = value if isinstance(value, str) else json.dumps(value, default=str)
        lines.append(Text(f"{clean(key)}: {clean(text)}", style=QUIET))
    return lines


class _Timeline:
    """Commits as dots on a line; plain characters where the terminal has no others."""

    def __init__(self, entries: Sequence[Sequence[Text]]) -> None:
        self._entries = entries

    def __rich_measure__(self, _console: Console, options: ConsoleOptions) -> Measurement:
        widest = max((line.cell_len for lines in self._entries for line in lines), default=0)
        return Measurement(1, min(widest + 3, options.max_width))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        dot, line = ("*", "|") if options.ascii_only else ("●", "│")
        width = max(options.max_width - 3, 1)
        last = len(self._entries) - 1
        for index, texts in enumerate(self._entries):
            rail = Text(" " if index == last else line, style=QUIET)
            lines = [part for text in texts for part in text.wrap(console, width)]
            for number, text in enumerate(lines):
                yield Text.assemble(rail if number else (dot, ID), "  ", text)
            if index != last:
                yield rail


def history(commits: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Return a history, newest first."""
    return _Timeline([_commit_lines(commit) for commit in commits])


def _commit_lines(data: Mapping[str, Any]) -> list[Text]:
    head = Text.assemble((data["id"], ID), ("  " + time_text(data["written_at"]), QUIET))
    message = [Text(line) for line in clean(data["message"]).splitlines()]
    return [head + _labels(data), *message, *_metadata_lines(data["metadata"])]


def commit(data: Mapping[str, Any]) -> RenderableType:
    """Return one commit with its changes."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style=QUIET)
    facts.add_column(overflow="fold")
    facts.add_row("commit", Text.assemble((data["id"], ID)) + _labels(data))
    facts.add_row("parent", Text(data["parent_id"] or "none: the first", style=ID))
    facts.add_row("written", time_text(data["written_at"]))
    manifests = data["manifests"]
    holds = count_text(manifests["chunk_references"], "chunk reference")
    files = count_text(manifests["files"], "manifest")
    facts.add_row("holds", f"{holds} in {files}, {bytes_text(manifests['size_bytes'])}")
    for line in _metadata_lines(data["metadata"]):
        key, _, value = line.plain.partition(": ")
        facts.add_row(key, value)
    message = Padding(Text(clean(data["message"])), (1, 0, 1, 2), expand=False)
    if data["changes"] is None:
        return Group(facts, message)
    return Group(facts, message, difference(data["changes"]))


_CHANGES: Final = (
    ("deleted_groups", "-", "red", "group"),
    ("deleted_arrays", "-", "red", "array"),
    ("new_groups", "+", "green", "group"),
    ("new_arrays", "+", "green", "array"),
    ("updated_groups", "~", "yellow", "group metadata"),
    ("updated_arrays", "~", "yellow", "array metadata"),
)


def difference(data: Mapping[str, Any]) -> RenderableType:
    """Return what changed: one row for each node with a sign, what it is, and its chunks."""
    signs: dict[str, tuple[str, str]] = {}
    notes: dict[str, list[str]] = {}
    for key, sign, style, what in _CHANGES:
        for path in data[key]:
            before = signs.get(path)
            if before is None:
                signs[path], notes[path] = (sign, style), [what]
            elif before[0] == "-":
                signs[path], notes[path] = (sign, style), [f"{what}, replaced"]
    for path, chunks in data["updated_chunks"].items():
        signs.setdefault(path, ("~", "yellow"))
        text = f"{count_text(chunks['count'], 'chunk')} {_chunk_ranges(chunks)}"
        notes.setdefault(path, []).append(text)
    rows = Table.grid(padding=(0, 2))
    rows.add_column(width=1)
    rows.add_column(overflow="fold")
    rows.add_column(style=QUIET, overflow="fold")
    for path in sorted(signs):
        sign, style = signs[path]
        name = Text(clean(path), style=NAME)
        rows.add_row(Text(sign, style=style), name, Text(", ".join(notes[path])))
    for move in data["moved_nodes"]:
        both = Text(f"{clean(move['from'])} -> {clean(move['to'])}", style=NAME)
        rows.add_row(Text(">", style="blue"), both, "moved")
    return rows if rows.row_count else Text("no difference", style=QUIET)


def _chunk_ranges(chunks: Mapping[str, Any]) -> str:
    if "coordinates" in chunks:
        return " ".join(str(c) for c in chunks["coordinates"])
    spans = chunks["ranges"]
    more = f" and {len(spans) - _SPANS_SHOWN} more" if len(spans) > _SPANS_SHOWN else ""
    return " ".join(span_text(span) for span in spans[:_SPANS_SHOWN]) + more


def refs(rows: Sequence[Mapping[str, Any]], kind: str) -> RenderableType:
    """Return branches or tags as a table."""
    if not rows:
        return Text(f"no {kind}s" if kind == "tag" else f"no {kind}es", style=QUIET)
    result = table(kind, "commit", "written", "message")
    result.columns[1].no_wrap = True  # to be copied
    for row in rows:
        first_line = clean(row["message"]).partition("\n")[0]
        name = Text(clean(row["name"]), style=BRANCH if kind == "branch" else TAG)
        result.add_row(name, Text(row["snapshot_id"], style=ID), time_text(row["written_at"]),
                       Text(first_line))  # fmt: skip
    return result


def listing(nodes: Iterable[Mapping[str, Any]]) -> RenderableType:
    """Return the nodes directly below a group as a table."""
    result = table("name", "type", "dimensions", "chunks", ("size", "right"))
    for node in nodes:
        if node["kind"] == "group":
            result.add_row(Text(clean(node["name"]) + "/", style="bold blue"), "group", "", "", "")
            continue
        name = Text(clean(node["name"] or node["path"]), style=NAME)
        chunks = "irregular" if node["chunks"] is None else shape_text(node["chunks"])
        result.add_row(name, node["dtype"], dims_text(node), chunks, size_text(node))
    return result if result.row_count else Text("empty", style=QUIET)


def _commits_text(data: Mapping[str, Any]) -> str:
    every = data.get("commit_every")
    if every is None:
        text = count_text(data["commits"], "commit")
    elif every.strip() == "1":
        text = "a commit for each unit"
    else:
        text = f"a commit every {every}{' units' * every.strip().isdecimal()}"
    return f"{text}, as job {data['job']}" if data.get("job") else text


def plan(data: Mapping[str, Any]) -> RenderableType:
    """Return a write plan as a table."""
    result = table(
        "variable", "shape", "type", "chunk", ("chunks", "right"), ("tasks", "right"),
        ("size", "right"), ("block", "right"), ("requests", "right"),
    )  # fmt: skip
    for row in data["variables"]:
        chunk = row["zarr_chunk_shape"]
        result.add_row(
            Text(clean(row["name"]), style=NAME),
            shape_text(row["shape"]),
            row["dtype"],
            Text("whole", style=QUIET) if chunk is None else shape_text(chunk),
            "1" if row["zarr_chunks"] is None else f"{row['zarr_chunks']:,}",
            f"{row['tasks']:,}" if row["tasks"] else Text("-", style=QUIET),
            bytes_text(row["size_bytes"]),
            bytes_text(row["largest_block_bytes"]),
            f"{row['requests']:,}",
        )
    result.add_section()
    chunks = sum(row["zarr_chunks"] or 1 for row in data["variables"])
    result.add_row(
        Text("in all", style=QUIET), "", "", "", f"{chunks:,}",
        f"{data['write_tasks']:,}", bytes_text(data["size_bytes"]),
        bytes_text(data["largest_block_bytes"]), f"{data['requests']:,}",
    )  # fmt: skip
    merges = count_text(data["merge_tasks"], "merge task")
    notes = [
        f"{merges}, {bytes_text(data['wire_bytes'])} of change sets from tasks to here",
        (
            f"to storage: {bytes_text(data['upload_bytes'])} of chunks before compression, "
            f"{bytes_text(data['manifest_bytes'])} of manifests, "
            f"{data['commit_requests']} requests to commit"
        ),
    ]
    if "commits" in data:
        where = f"group {data['group']}, branch {data['branch']} of {data['repository']}"
        notes.append(f"{where}, {_commits_text(data)}")
    if data.get("creates_repository"):
        notes.append("the repository would be created")
    lines = [Text(clean(note), style=QUIET) for note in notes]
    problems = [
        Text(f"! {problem}", style="red")
        for row in data["variables"]
        for problem in row["problems"]
    ]
    return Group(result, Text(), *lines, *problems)
