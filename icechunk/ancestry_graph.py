"""History drawn as a graph: text with colours for terminals, SVG for notebooks.

Every branch has a lane: ``main`` the first, the others by name. A commit is in the lane of the
first branch that has it; a lane ends where its branch left another one.
"""

from __future__ import annotations

import heapq
import html
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from icechunk.ids import id_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from icechunk.assets.ref_store import Ancestry
    from icechunk.format.repo_info import SnapshotRecord
    from icechunk.ids import ObjectId

PALETTE: Final = ("#B7E400", "#A653FF", "#FF6554", "#FF9E0D", "#F881D1")
TAG_COLOR: Final = "#5EC4F7"
_ID_SHOWN: Final = 8
_MESSAGE_SHOWN: Final = 60
_RESET, _BOLD, _DIM, _ITALIC = "\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[3m"

# Distances in the SVG; unit: pixels.
_LEFT, _LANE, _ROW, _TEXT_GAP, _TEXT_WIDTH, _RADIUS, _FONT = 15, 20, 28, 34, 500, 5, 13


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphLane:
    """One branch in the drawing.

    Parameters
    ----------
    color : str
        ``#RRGGBB``.
    first, last : int
        Rows of its newest and its oldest own commit; ``last`` is before ``first`` when it has none.
    joins : int or None
        Row of the commit of another lane where it began; None when it has its own beginning.
    """

    color: str
    first: int
    last: int
    joins: int | None

    def runs_below(self, row: int) -> bool:
        """Say whether the lane goes on below a row."""
        end = self.last if self.joins is None else self.joins
        return self.first <= row < end


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphRow:
    """One commit in the drawing.

    Parameters
    ----------
    lane : int
        Index of its lane.
    snapshot_id : str
        Id of the snapshot.
    branches, tags : tuple of str
        Names that point at it.
    message : str
        First line of the commit message, shortened.
    """

    lane: int
    snapshot_id: str
    branches: tuple[str, ...]
    tags: tuple[str, ...]
    message: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class AncestryGraph:
    """The history of a repository as a drawing: what `Repository.ancestry_graph` returns.

    ``print(graph)`` draws it with lines and, unless ``plain``, colours; a notebook shows SVG.

    Parameters
    ----------
    rows : tuple of GraphRow
        Commits, newest first.
    lanes : tuple of GraphLane
        Branches, from left to right.
    plain : bool
        Draw text without colours.
    """

    rows: tuple[GraphRow, ...]
    lanes: tuple[GraphLane, ...]
    plain: bool

    def __str__(self) -> str:
        lines: list[str] = []
        for number, row in enumerate(self.rows):
            lines.append(self._commit_cells(number, row) + self._label(row))
            if number + 1 < len(self.rows):
                below = (lane.runs_below(number) for lane in self.lanes)
                cells = zip(self.lanes, below, strict=True)
                lines.append(
                    "".join(self._ink("│", k.color) + " " if on else "  " for k, on in cells)
                )
        return "".join(f"{line}\n" for line in lines)

    __repr__ = __str__

    def _commit_cells(self, number: int, row: GraphRow) -> str:
        joining = [i for i, lane in enumerate(self.lanes) if lane.joins == number]
        outermost = max(joining, default=row.lane)
        cells = []
        for i, lane in enumerate(self.lanes):
            next_joining = next((j for j in joining if j > i), None)
            across = row.lane <= i < outermost and next_joining is not None
            runs = lane.runs_below(number - 1) and lane.runs_below(number)
            color = lane.color
            if i == row.lane:
                glyph = "●"
            elif i in joining:
                glyph = "╯" if i == outermost else "┴"
            elif runs:
                glyph = "┼" if across else "│"
            else:
                glyph = "─" if across else " "
                color = self.lanes[next_joining].color if next_joining is not None else color
            cells.append(self._ink(glyph, color))
            cells.append(
                self._ink("─", self.lanes[next_joining].color)
                if across and next_joining is not None
                else " "
            )
        return "".join(cells)

    def _label(self, row: GraphRow) -> str:
        color = self.lanes[row.lane].color
        names = [self._ink(name, color, _BOLD) for name in row.branches]
        names += [self._ink(name, TAG_COLOR, _BOLD + _ITALIC) for name in row.tags]
        shown = f" ({', '.join(names)})" if names else ""
        short = row.snapshot_id[:_ID_SHOWN]
        return f"{short if self.plain else f'{_DIM}{short}{_RESET}'}{shown} {row.message}"

    def _ink(self, text: str, color: str, style: str = "") -> str:
        if self.plain or text == " ":
            return text
        red, green, blue = bytes.fromhex(color[1:])
        return f"{style}\x1b[38;2;{red};{green};{blue}m{text}{_RESET}"

    def _repr_svg_(self) -> str:
        text_x = _x(len(self.lanes) - 1) + _TEXT_GAP
        height = _ROW * len(self.rows) + 20
        style = f"font-family: monospace; font-size: {_FONT}px;"
        size = f'width="{text_x + _TEXT_WIDTH}" height="{height}"'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} style="{style}">'
        parts = [head, *self._svg_lines()]
        for number, row in enumerate(self.rows):
            color = self.lanes[row.lane].color
            parts.append(
                f'  <circle cx="{_x(row.lane)}" cy="{_y(number)}" r="{_RADIUS}" fill="{color}" />'
            )
            parts.append(
                f'  <text x="{text_x}" y="{_y(number) + _FONT / 3}" fill="#aaa">'
                f"{_svg_label(row, color)}</text>"
            )
        return "\n".join([*parts, "</svg>\n"])

    def _svg_lines(self) -> list[str]:
        straight, curved = [], []
        with_commits = [(i, lane) for i, lane in enumerate(self.lanes) if lane.first <= lane.last]
        for i, lane in sorted(with_commits, key=lambda pair: pair[1].joins or len(self.rows)):
            end = lane.last if lane.joins is None else lane.joins - 1
            if end > lane.first:
                straight.append(
                    f'  <line x1="{_x(i)}" y1="{_y(lane.first)}" x2="{_x(i)}" y2="{_y(end)}" '
                    f'stroke="{lane.color}" stroke-width="2" />'
                )
            if lane.joins is not None:
                target, middle = _x(self.rows[lane.joins].lane), _y(end) + _ROW // 2
                curved.append(
                    f'  <path d="M {_x(i)} {_y(end)} C {_x(i)} {middle}, {target} {middle}, '
                    f'{target} {_y(lane.joins)}" fill="none" stroke="{lane.color}" '
                    'stroke-width="2" />'
                )
        return straight + curved


def _x(lane: int) -> int:
    return _LEFT + _LANE * lane


def _y(row: int) -> int:
    return _LEFT + _ROW * row


def _svg_label(row: GraphRow, color: str) -> str:
    def span(text: str, attributes: str) -> str:
        return f"<tspan {attributes}>{html.escape(text)}</tspan>"

    names = [span(name, f'font-weight="bold" fill="{color}"') for name in row.branches]
    italic = f'font-weight="bold" font-style="italic" fill="{TAG_COLOR}"'
    names += [span(name, italic) for name in row.tags]
    shown = f" ({', '.join(names)})" if names else ""
    return span(row.snapshot_id[:_ID_SHOWN], 'fill="#888"') + f"{shown} {html.escape(row.message)}"


def lane_order(branches: Iterable[str]) -> list[str]:
    """Return branches as their lanes are ordered: ``main``, then by name."""
    return sorted(branches, key=lambda name: (name != "main", name))


def graph_of(
    histories: Sequence[tuple[str, Ancestry]],
    tags: Mapping[str, ObjectId],
    *,
    colors: Sequence[str] = PALETTE,
    plain: bool = False,
) -> AncestryGraph:
    """Lay out histories.

    Parameters
    ----------
    histories : sequence of (str, Ancestry)
        Branch names, empty for a history that is no branch's, and what they lead to; in the order
        of `lane_order`.
    tags : mapping of str to ObjectId
        What the tags point at.
    colors : sequence of str
        Of the lanes, over and over.
    plain : bool
        Draw text without colours.

    Returns
    -------
    AncestryGraph
        Every commit once, children above parents, and newer ones above older ones.
    """
    lane_of: dict[ObjectId, int] = {}
    records: dict[ObjectId, SnapshotRecord] = {}
    for lane, (_, ancestry) in enumerate(histories):
        for snapshot_id in ancestry.ids:
            if snapshot_id in lane_of:
                break
            lane_of[snapshot_id] = lane
            record = ancestry.records.get(snapshot_id)
            assert record is not None, "an ancestry consists of registered snapshots"
            records[snapshot_id] = record
    order = _newest_first(records, lane_of)
    row_of = {record.id: row for row, record in enumerate(order)}
    own_rows: list[list[int]] = [[] for _ in histories]
    for row, record in enumerate(order):
        own_rows[lane_of[record.id]].append(row)
    lanes = []
    for lane, own in enumerate(own_rows):
        parent_id = order[own[-1]].parent_id if own else None
        lanes.append(
            GraphLane(
                color=colors[lane % len(colors)],
                first=own[0] if own else 0,
                last=own[-1] if own else -1,
                joins=None if parent_id is None else row_of.get(parent_id),
            )
        )
    branches_at = _names_at((name, ancestry.ids[0]) for name, ancestry in histories if name)
    tags_at = _names_at(sorted(tags.items()))
    rows = [
        GraphRow(
            lane=lane_of[record.id],
            snapshot_id=id_text(record.id),
            branches=branches_at.get(record.id, ()),
            tags=tags_at.get(record.id, ()),
            message=_shortened(record.message),
        )
        for record in order
    ]
    return AncestryGraph(rows=tuple(rows), lanes=tuple(lanes), plain=plain)


def _names_at(pairs: Iterable[tuple[str, ObjectId]]) -> dict[ObjectId, tuple[str, ...]]:
    found: dict[ObjectId, tuple[str, ...]] = {}
    for name, snapshot_id in pairs:
        found[snapshot_id] = (*found.get(snapshot_id, ()), name)
    return found


def _newest_first(
    records: Mapping[ObjectId, SnapshotRecord], lane_of: Mapping[ObjectId, int]
) -> list[SnapshotRecord]:
    children = Counter(r.parent_id for r in records.values())
    ready = [(-r.flushed_at_us, lane_of[i], i) for i, r in records.items() if not children[i]]
    heapq.heapify(ready)
    order = []
    while ready:
        record = records[heapq.heappop(ready)[2]]
        order.append(record)
        parent_id = record.parent_id
        children[parent_id] -= 1
        if parent_id is not None and parent_id in records and not children[parent_id]:
            parent = records[parent_id]
            heapq.heappush(ready, (-parent.flushed_at_us, lane_of[parent_id], parent_id))
    return order


def _shortened(message: str) -> str:
    line = message.partition("\n")[0]
    return line if len(line) <= _MESSAGE_SHOWN else line[: _MESSAGE_SHOWN - 3] + "..."
