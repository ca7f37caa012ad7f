"""Pieces of HTML that the sections of the page share."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from nat2.runs.accuracy import Accuracy

NUMBER = " class='n'"
"""Attribute of a cell that holds a number."""
NONE = "&ndash;"
"""A cell without a value."""
Head = Sequence[tuple[str, bool]]
"""Titles of the columns, as HTML, and whether a column holds numbers."""


def table(caption: str, head: Head, rows: str, *, frame: str = "scroll") -> str:
    """A table with a caption in a frame that can be scrolled by keyboard.

    Args:
        caption: As text.
        head: The columns.
        rows: The rows, as HTML.
        frame: Classes of the frame.
    """
    cells = "".join(f"<th scope='col'{NUMBER * number}>{name}</th>" for name, number in head)
    return (
        f"<div class='{frame}' role='region' aria-label='{html.escape(caption, quote=True)}' tabindex='0'><table>"
        f"<caption><span>{html.escape(caption)}</span></caption><thead><tr>{cells}</tr></thead><tbody>{rows}</tbody>"
        "</table></div>"
    )


def rows_of(head: Head, rows: Iterable[Sequence[str]], *, words: bool = False) -> str:
    """Rows of cells, given as HTML; the first of each is its header.

    Args:
        head: The columns.
        rows: The cells of each row.
        words: Whether the headers are words that may be broken.
    """
    first = "<th scope='row' class='words'>" if words else "<th scope='row'>"
    return "".join(
        f"<tr>{first}{cells[0]}</th>"
        + "".join(
            f"<td{NUMBER * number}>{cell}</td>" for cell, (_, number) in zip(cells[1:], list(head)[1:], strict=True)
        )
        + "</tr>"
        for cells in rows
    )


def percent(accuracy: Accuracy | None) -> str:
    """An accuracy as a cell."""
    return NONE if accuracy is None else accuracy.percent
