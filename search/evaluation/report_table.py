"""A table of a report: made once, shown as text on a terminal, and on a page by the template `table.html`."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

_WIDE = 130  # columns of a terminal that notes are broken for


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell that a page shows in a way of its own; text shows its words alone."""

    text: str
    kind: Literal["best", "met", "missed", "words"]  # words: flush left among figures, and long ones break

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Row:
    """Cells, the first of which names the row. Where there are fewer than columns, the last one takes the rest."""

    cells: Sequence[str | Cell]
    indent: bool = False  # it belongs to a row above
    kind: Literal["", "ours", "bound"] = ""  # what it is about: the main row, or one out of competition


@dataclass(frozen=True, slots=True)
class Table:
    """Rows below headings."""

    heads: Sequence[str]  # empty for a table without
    rows: Sequence[Row]
    title: str = ""
    notes: Sequence[str] = ()
    words: bool = False  # all cells are words, flush left; otherwise figures, flush right

    @property
    def columns(self) -> int:
        """How many there are."""
        return max([len(self.heads), *(len(row.cells) for row in self.rows)])

    def markdown(self) -> str:
        """The table as part of a Markdown page: the title as a heading, heads and rows, notes as a paragraph each."""
        lines = [
            list(self.heads),
            ["---", *["---:"] * (self.columns - 1)],
            *([*map(str, row.cells)] for row in self.rows),
        ]
        shown = [
            f"| {' | '.join(cell.replace('|', '&#124;') for cell in [*line, *[''] * (self.columns - len(line))])} |"
            for line in lines
        ]
        return "\n".join(
            [*([f"## {self.title}\n"] if self.title else []), *shown, *(f"\n{note}" for note in self.notes)]
        )

    def text(self) -> str:
        """The table as lines: title, heads and rows, notes. The first column is flush left, the others flush right."""
        lines = [list(self.heads)]
        lines += [[f"{'  ' * row.indent}{row.cells[0]}", *map(str, row.cells[1:])] for row in self.rows]
        whole = [line for line in lines if len(line) == self.columns]
        first, *others = (max(map(len, column)) for column in zip(*whole, strict=True))
        shown = [
            "  ".join(
                [line[0].ljust(first), *(cell.rjust(width) for cell, width in zip(line[1:], others, strict=False))]
            ).rstrip()
            for line in lines
            if line
        ]
        notes = textwrap.wrap(" ".join(self.notes), _WIDE, break_long_words=False, break_on_hyphens=False)
        return "\n".join([*([f"{self.title}:"] if self.title else []), *shown, *notes])
