"""Lists that show themselves as tables: as text in a terminal, as HTML in a notebook."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from html import escape
from typing import TypeVar

T = TypeVar("T")
Row = Mapping[str, str]


class TableList(list[T]):
    """A list whose representation is a table with a row for each item."""

    @abstractmethod
    def rows(self) -> list[Row]:
        """The cells of each item, by column."""

    def __repr__(self) -> str:
        return as_text_table(self.rows()) if self else "[]"

    def _repr_html_(self) -> str:
        return as_html_table(self.rows())


def as_text_table(rows: Sequence[Row]) -> str:
    """Rows in aligned columns, those of numbers to the right."""
    columns = list(rows[0]) if rows else []
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in columns}

    def line(cells: Row) -> str:
        first, *others = columns
        return "  ".join([cells[first].ljust(widths[first]), *(cells[name].rjust(widths[name]) for name in others)])

    return "\n".join(line(cells).rstrip() for cells in [{name: name for name in columns}, *rows]) if columns else ""


def as_html_table(rows: Sequence[Row]) -> str:
    """Rows as an HTML table."""
    columns = list(rows[0]) if rows else []
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(row[name])}</td>" for name in columns) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
