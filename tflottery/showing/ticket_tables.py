"""Ticket tables: the layers and the rounds of a ticket, as text, HTML and Markdown."""

import dataclasses
import html
import io
from collections.abc import Sequence
from typing import Any

from tflottery.core import masks as masks_lib
from tflottery.core.masks import Masks
from tflottery.core.records import steps_told


@dataclasses.dataclass(frozen=True)
class Table:
    """A table whose columns from `numbers` on are aligned right, but for a nameless."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: int


def headline(ticket: Any) -> tuple[str, ...]:
    """Returns what is left, how much could be pruned, and what `settle` saved."""
    sizes = {path: w.size for path, w in ticket.trained.items()}
    return (
        f"Ticket: {100 * ticket.density:.2f} % of the prunable weights left",
        masks_lib.coverage(ticket.masks, sizes)[1],
        *filter(None, [steps_told(ticket.rounds)]),
    )


def layers(ticket: Any) -> Table:
    """Returns the table of the masked weights, with their sum in the last row."""
    rows = [_layer(path, m.shape, {path: m}) for path, m in ticket.masks.items()]
    rows.append(_layer("all masked", (), ticket.masks))
    return Table(("weight", "shape", "kept", "of", "left %"), rows, 2)


def rounds(ticket: Any) -> Table:
    """Returns the table of the rounds; a mark stands at the ticket's."""
    dense = ticket.rounds[0].metrics.get(ticket.monitor) if ticket.rounds else None
    rows = []
    for r in ticket.rounds:
        metric = r.metrics.get(ticket.monitor)
        gain = None if metric is None or dense is None else metric - dense
        mark = "<- this ticket" if r.round == ticket.round else ""
        rows.append(
            (
                str(r.round),
                f"{100 * (1 - r.sparsity):.2f}",
                "" if metric is None else f"{metric:.4f}",
                "" if gain is None else f"{gain:+.4f}",
                "" if r.seconds is None else f"{r.seconds:.1f}",
                r.failure or ", ".join(filter(None, (mark, r.how))),
            )
        )
    columns = ("round", "left %", ticket.monitor, "to dense", "seconds", "")
    return Table(columns, rows, 0)


def as_text(ticket: Any) -> str:
    """Returns the headline and both tables, 88 columns wide."""
    from rich import box, table

    parts: list[Any] = ["\n".join(headline(ticket))]
    for found in (layers(ticket), rounds(ticket)):
        drawn = table.Table(*found.columns, box=box.SIMPLE)
        for column in drawn.columns[found.numbers :]:
            column.justify = "right" if column.header else "left"
        for row in found.rows:
            if row[0] == "all masked":
                drawn.add_section()
            drawn.add_row(*row)
        parts.append(drawn)
    return printed(*parts).rstrip()


def printed(*parts: Any) -> str:
    """Returns texts and tables of rich as they are printed, 88 columns wide."""
    from rich import console

    text = io.StringIO()
    page = console.Console(
        file=text,
        width=88,
        markup=False,
        emoji=False,
        color_system=None,
        force_jupyter=False,  # There it would print nothing to a file.
    )
    for part in parts:
        page.print(part)
    return text.getvalue()


def as_html(ticket: Any) -> str:
    """Returns the headline and both tables as HTML."""
    parts = [f"<p>{html.escape(line)}</p>" for line in headline(ticket)]
    return "\n".join([*parts, html_table(layers(ticket)), html_table(rounds(ticket))])


def html_table(table: Table) -> str:
    """Returns a table as HTML, every text escaped."""
    lines = [
        "".join(
            f'<{tag} style="text-align: {side}">{html.escape(text)}</{tag}>'
            for text, side in zip(row, _sides(table), strict=True)
        )
        for tag, row in [("th", table.columns), *(("td", r) for r in table.rows)]
    ]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def as_markdown(table: Table) -> str:
    """Returns a table in Markdown.

    >>> print(as_markdown(Table(("weight", "kept"), [("a|b", "3")], 1)))
    | weight | kept |
    | :-- | --: |
    | a\\|b | 3 |
    """
    marks = [":--" if side == "left" else "--:" for side in _sides(table)]
    lines = [table.columns, marks, *table.rows]
    cells = [
        [text.replace("|", "\\|").replace("<", "&lt;") for text in r] for r in lines
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _sides(table: Table) -> list[str]:
    return [
        "right" if number >= table.numbers and name else "left"
        for number, name in enumerate(table.columns)
    ]


def _layer(name: str, shape: tuple[int, ...], masks: Masks) -> tuple[str, ...]:
    return (
        name,
        "x".join(map(str, shape)),
        f"{masks_lib.kept(masks):,}",
        f"{masks_lib.size(masks):,}",
        f"{100 * masks_lib.density(masks):.2f}",
    )
