"""Comparison tables on a console, in Markdown, LaTeX and HTML: the same cells everywhere."""

from __future__ import annotations

from html import escape
from textwrap import fill, wrap

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from kinn.report.comparison import MAIN, Column, Table
from kinn.report.loading import Source, load_records
from kinn.report.sections import sections_of

LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "[": "{[}",  # at the start of a row it would be an option of the line before
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "\u00a0": "~",
    "±": r"$\pm$",
    "×": r"$\times$",
    "–": "--",
    "\n": " ",
}


def print_table(source: Source, console: Console | None = None) -> None:
    """Print one comparison table per experiment (and overview of several), with the verdict in words under it.

    All metrics are shown where the console is wide enough, else the primary one, parameters and time, and in a narrow
    one neither roles nor the paper's ratios.

    Args:
        source: a folder or files with result records, or the records themselves.
        console: where to print; standard output by default.

    Raises:
        ValueError: from `kinn.report.load_records`.
    """
    console = console or Console()
    for section in sections_of(load_records(source)):
        table = section.table
        columns = _fitting(table, console.width)
        drawn = RichTable(title=Text(table.title), title_justify="left", title_style="bold", header_style="bold")
        for column in columns:
            justify = "right" if column.numeric else "left"
            drawn.add_column(Text(_header(column)), justify=justify, overflow="fold", no_wrap=True)
        for row in range(len(table.roles)):
            drawn.add_row(*(Text(c.cells[row], style="bold" if row in c.best else "") for c in columns))
        console.print(drawn)
        for note in table.notes:
            console.print(Text(note))
        if len(columns) < len(table.columns):
            console.print(Text("Further metrics are in the report; a wider console shows them too.", style="dim"))
        console.print()


def _fitting(table: Table, width: int) -> tuple[Column, ...]:
    main = table.main().columns
    least = tuple(column for column in main if column.part == MAIN)
    # a cell that is cut says something else: rather the last columns go, down to the models and their errors
    choices = (table.columns, main, *(least[:count] for count in range(len(least), 1, -1)))
    return next((columns for columns in choices if _width(columns) <= width), choices[-1])


def _width(columns: tuple[Column, ...]) -> int:
    return 1 + sum(3 + max(map(len, (*_header(column).split("\n"), *column.cells))) for column in columns)


def _header(column: Column) -> str:
    """The header over as many lines as keep the column about as narrow as its cells."""
    return fill(column.header, max(12, *map(len, column.cells)), break_long_words=False)


def to_markdown(table: Table) -> str:
    """The table in GitHub's Markdown, best primary metric in bold, notes below."""

    def row(cells: list[str]) -> str:
        return f"| {' | '.join(cells)} |"

    def clean(text: str) -> str:
        text = escape(text, quote=False).replace("\n", " ")
        for sign in "\\|*_`[]":
            text = text.replace(sign, "\\" + sign)
        return text

    lines = [f"**{clean(table.title)}**", "", row([clean(column.header) for column in table.columns])]
    lines.append(row(["---:" if column.numeric else ":---" for column in table.columns]))
    for i in range(len(table.roles)):
        cells = [clean(column.cells[i]) for column in table.columns]
        lines.append(row([f"**{cell}**" if i in column.best else cell for cell, column in zip(cells, table.columns)]))
    return "\n".join([*lines, "", *(f"- {clean(note)}" for note in table.notes), ""])


def to_latex(table: Table) -> str:
    """The table as a LaTeX float, its notes below the rows; it needs the package booktabs."""

    def row(cells: list[str]) -> str:
        return f"    {' & '.join(cells)} \\\\"

    lines = [
        r"\begin{table}  % \usepackage{booktabs}",
        r"  \centering\footnotesize",
        f"  \\caption{{{latex_text(table.title)}{'' if table.title.endswith(('.', '?', '!')) else '.'}}}",
        f"  \\label{{tab:{table.slug}}}",
        f"  \\begin{{tabular}}{{{''.join('r' if column.numeric else 'l' for column in table.columns)}}}",
        r"    \toprule",
        row([_latex_header(column) for column in table.columns]),
        r"    \midrule",
    ]
    for i in range(len(table.roles)):
        cells = [latex_text(column.cells[i]) for column in table.columns]
        lines.append(row([rf"\textbf{{{c}}}" if i in column.best else c for c, column in zip(cells, table.columns)]))
    notes = [rf"  \par\smallskip\parbox{{\linewidth}}{{{latex_text(' '.join(table.notes))}}}"] if table.notes else []
    return "\n".join([*lines, r"    \bottomrule", r"  \end{tabular}", *notes, r"\end{table}", ""])


def _latex_header(column: Column) -> str:
    """A long header takes several lines, so that the table fits a page."""
    lines = [latex_text(line) for line in wrap(column.header, 16)]
    stack, side = r" \\ ".join(lines), "r" if column.numeric else "l"
    return stack if len(lines) == 1 else rf"\shortstack[{side}]{{{stack}}}"


def latex_text(text: str) -> str:
    r"""Text that LaTeX prints as it is.

    >>> print(latex_text("K_0 & 5 %"))
    K\_0 \& 5 \%
    """
    return "".join(LATEX.get(sign, sign) for sign in text)


def to_html(table: Table) -> str:
    """The table as an HTML element, every text escaped; the notes are left to the page."""
    head = "".join(f'<th scope="col"{_class(column)}>{escape(column.header)}</th>' for column in table.columns)
    rows = []
    for i, role in enumerate(table.roles):
        cells = []
        for j, column in enumerate(table.columns):
            text = escape(column.cells[i])
            text = f"<strong>{text}</strong>" if i in column.best else text
            cells.append(f'<th scope="row">{text}</th>' if j == 0 else f"<td{_class(column)}>{text}</td>")
        rows.append(f'<tr class="{escape(role)}">{"".join(cells)}</tr>')
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _class(column: Column) -> str:
    return ' class="number"' if column.numeric else ""
