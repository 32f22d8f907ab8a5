"""Small tables as plain text and as HTML, for values that show themselves.

The command line has its own, richer tables; these need no library.
"""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTable:
    """Cells that are text already.

    Parameters
    ----------
    title : str
        What the table is about.
    columns : sequence of str
        Headings.
    rows : sequence of sequence of str
        Cells, as many in each row as there are columns.
    total : sequence of str or None
        A last row below a rule.
    left : int
        How many columns, from the first on, hold text rather than numbers.
    notes : sequence of str
        Lines below the table.
    warnings : sequence of str
        Lines below those, marked.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    total: Sequence[str] | None = None
    left: int = 1
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()

    def text(self) -> str:
        """Return the table with aligned columns."""
        everything = [self.columns, *self.rows, *([self.total] if self.total else [])]
        widths = [max(map(len, column)) for column in zip(*everything, strict=True)]
        head, *body = [
            "  ".join(
                cell.ljust(width) if i < self.left else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in everything
        ]
        rule = "-" * max(map(len, (head, *body)))
        lines = [self.title, head, rule, *body]
        if self.total:
            lines.insert(-1, rule)
        return "\n".join([*lines, *self.notes, *(f"! {line}" for line in self.warnings)])

    def html(self) -> str:
        """Return the table for a notebook."""
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.columns)
        body = "".join(self._html_row(row, "td") for row in self.rows)
        foot = f"<tfoot>{self._html_row(self.total, 'th')}</tfoot>" if self.total else ""
        notes = "".join(f"<p>{html.escape(line)}</p>" for line in self.notes)
        warnings = "".join(f"<li>{html.escape(line)}</li>" for line in self.warnings)
        return (
            f"<table><caption>{html.escape(self.title)}</caption>"
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>{foot}</table>"
            + notes
            + (f"<ul>{warnings}</ul>" if warnings else "")
        )

    def _html_row(self, cells: Sequence[str], tag: str) -> str:
        tags = [
            f'<{tag} style="text-align: {"left" if i < self.left else "right"}">'
            f"{html.escape(cell)}</{tag}>"
            for i, cell in enumerate(cells)
        ]
        return f"<tr>{''.join(tags)}</tr>"
