"""Page: what a report holds, rendered by `template.html.j2` into one HTML file.

The template escapes every value, and its content policy forbids scripts and any
address but those of the images inside the page.
"""

import dataclasses
import functools
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jinja2
import markupsafe

from tflottery.showing.drawing import Picture


@dataclasses.dataclass(frozen=True)
class Table:
    """A table that scrolls in its own frame."""

    caption: str
    rows: Sequence[Mapping[str, Any]]  # By column, the same in each; `None` is empty.
    text: Collection[str] = ()  # Columns that are aligned left; the others are numbers.
    chosen: Collection[int] = ()  # Indices of the rows to highlight.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Details:
    """A part that opens on a click: a table, or plain data shown as JSON."""

    summary: str
    table: Table | None = None
    data: Any = None
    open: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """A section of a page, in this order; what is empty or `None` does not show."""

    title: str = ""
    text: str = ""
    table: Table | None = None
    figures: Sequence[Picture | None] = ()
    notes: Sequence[str] = ()
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    details: Sequence[Details] = ()


def render(
    title: str, headline: str, sections: Sequence[Section], **more: Any
) -> bytes:
    """Returns a whole page as UTF-8.

    Above the sections, each optional, stand `shows`, the claim under test; `how`, a
    paragraph on how the headline was reached; `verdicts`, pairs of a name and a
    sentence; and `notes`, a list of texts.
    """
    text = _template().render(title=title, headline=headline, sections=sections, **more)
    # JSON can hold lone surrogates and NUL, which a page cannot.
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace")


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tflottery.lab.report", "."),
        autoescape=True,
        finalize=_unbroken,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["pretty"] = functools.partial(json.dumps, indent=1)
    return environment.get_template("template.html.j2")


def _unbroken(value: Any) -> Any:
    """Returns a value as text whose numbers stay on one line with their units."""
    if value is None:
        return ""
    if isinstance(value, markupsafe.Markup):  # Escaped already, such as an attribute.
        return value
    space = "\N{NO-BREAK SPACE}"
    return str(value).replace(" %", f"{space}%").replace(" ± ", f"{space}±{space}")
