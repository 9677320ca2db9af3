"""What a report consists of: sections, tables, matrices, figures. Plain text, no HTML."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
      text: plain text.
      run: name of the run to whose config the cell links.
      style: "bold", "code" or "".
    """

    text: str
    run: str | None = None
    style: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table; strings are cells without a link or a style."""

    header: list[str]
    rows: list[list[Cell | str]]


@dataclasses.dataclass(frozen=True)
class Matrix:
    """A confusion matrix: counts `[true class, predicted class]` as rows of (count, percent of the row)."""

    names: list[str]
    rows: list[list[tuple[int, float]]]


@dataclasses.dataclass(frozen=True)
class Figure:
    """A PNG picture, in base64, and the runs that it is of."""

    title: str
    png: str
    runs: list[str]


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a section; what is None or empty is not shown.

    Attributes:
      heading: plain text.
      run: the run that the heading begins with and links to.
      text: a paragraph.
      table, matrix, figures: what is shown.
      svg: a drawing as SVG text, made by this program.
      details: tables of all fields, folded, each with its run.
    """

    heading: str = ""
    run: str | None = None
    text: str = ""
    table: Table | None = None
    matrix: Matrix | None = None
    figures: list[Figure] = dataclasses.field(default_factory=list)
    svg: str = ""
    details: list[tuple[str, Table]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Section:
    """A section of the page."""

    title: str
    text: str
    parts: list[Part]
