"""Page: one self-contained HTML file, in which what comes from a run is always text.

Whatever is not `Html` is escaped where it enters an element, and the page's own policy
forbids scripts and every address but those of the images within.
"""

import base64
import html
import json
from collections.abc import Iterable, Sequence
from typing import Any

from tflottery.lab.report.drawing import Picture

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 74rem; background: #fff;
  color: #1a1a1a;
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; }
h1 { font-size: 1.1rem; font-weight: 600; color: #555; margin: 0 0 .25rem; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .5rem; border-bottom: 1px solid #ddd; }
h1, h2, p, li, dt, dd, td, figcaption { overflow-wrap: anywhere; }
.headline { font-size: clamp(1.35rem, 4.5vw, 1.9rem); line-height: 1.25;
  font-weight: 650; margin: 0 0 .5rem; }
.how, figcaption { color: #555; font-size: .875rem; }
.figures { display: grid; gap: 1.25rem 2rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
figure { margin: 0; max-width: 36rem; break-inside: avoid; }
img { display: block; width: 100%; height: auto; }
.scroll { overflow: auto; max-height: 75vh; margin: .25rem 0 1rem; }
.scroll + .figures { margin-top: 1.5rem; }
table { border-collapse: collapse; font-size: .875rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; text-align: left; border-bottom: 1px solid #e4e4e4;
  vertical-align: top; white-space: nowrap; }
td.long { white-space: normal; min-width: 12rem; }
th { position: sticky; top: 0; background: #f4f4f4; font-weight: 600; z-index: 1; }
td { background: #fff; }
td:first-child { position: sticky; left: 0; }
.number { text-align: right; }
.chosen td { background: #eaf3fa; font-weight: 600; }
dl { display: grid; grid-template-columns: minmax(5rem, max-content) 1fr;
  gap: .25rem 1rem; font-size: .9375rem; }
dt { color: #555; }
dd { margin: 0; min-width: 0; }
code { font: .875rem/1.4 ui-monospace, Consolas, "DejaVu Sans Mono", monospace;
  background: #f4f4f4; padding: .1rem .3rem; overflow-wrap: anywhere;
  white-space: pre-wrap; }
pre { margin: 0; white-space: pre-wrap; }
summary { cursor: pointer; font-weight: 600; margin: .75rem 0; }
@media print {
  @page { margin: 14mm; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  h2 { break-after: avoid; }
  .figures { grid-template-columns: 1fr 1fr; gap: 1rem; }
  .scroll { overflow: visible; max-height: none; }
  table { font-size: 7.5pt; }
  th, td { padding: .1rem .35rem; }
  th, td:first-child { position: static; }
  tr { break-inside: avoid; }
  * { print-color-adjust: exact; }
}
"""


class Html(str):
    """Text that is HTML already; any other text is escaped."""


def element(name: str, /, *children: Any, **attributes: Any) -> Html:
    """Returns an HTML element.

    Args:
        name: of the element, never from a run.
        children: what it holds; what is not `Html` is escaped.
        attributes: by name, `cls` for `class`; `None` leaves one out.

    >>> element("p", "1 < 2", cls="how")
    '<p class="how">1 &lt; 2</p>'
    """
    pairs = "".join(
        f' {"class" if key == "cls" else key}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in ("img", "meta"):
        return Html(f"<{name}{pairs}>")
    return Html(f"<{name}{pairs}>{join(children)}</{name}>")


def join(parts: Iterable[Any]) -> Html:
    """Returns parts one after the other; what is not `Html` is escaped."""
    return Html(
        "".join(part if isinstance(part, Html) else _escaped(part) for part in parts)
    )


def _escaped(value: Any) -> str:
    """Returns a value as text, its figures not torn apart at the end of a line."""
    text = html.escape(str(value))
    return text.replace(" %", "\N{NO-BREAK SPACE}%").replace(
        " ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}"
    )


def figures(pictures: Iterable[Picture | None]) -> Html:
    """Returns the pictures side by side where there is room; `None` is left out."""
    found = []
    for picture in pictures:
        if picture is not None:
            data = base64.b64encode(picture.svg).decode()
            image = element(
                "img", src=f"data:image/svg+xml;base64,{data}", alt=picture.alt
            )
            found.append(
                element("figure", image, element("figcaption", picture.caption))
            )
    return element("div", *found, cls="figures") if found else Html()


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    caption: str,
    chosen: Iterable[int] = (),
    text: Iterable[str] = (),
) -> Html:
    """Returns a table that scrolls in its own frame.

    Args:
        head: the columns' names.
        rows: their values; `None` is an empty cell.
        caption: what the table holds.
        chosen: the indices of rows that stand out.
        text: the columns aligned to the left; others hold numbers.
    """
    text, chosen = set(text), set(chosen)
    classes = [None if name in text else "number" for name in head]
    lines = [
        element(
            "tr",
            *(
                element("td", "" if value is None else value, cls=cls)
                for value, cls in zip(row, classes, strict=True)
            ),
            cls="chosen" if index in chosen else None,
        )
        for index, row in enumerate(rows)
    ]
    titles = (
        element("th", name, scope="col", cls=cls)
        for name, cls in zip(head, classes, strict=True)
    )
    parts = element("thead", element("tr", *titles)), element("tbody", *lines)
    frame = element(
        "div",
        element("table", *parts),
        cls="scroll",
        tabindex="0",
        role="region",
        **{"aria-label": caption},
    )
    return join((element("p", caption, cls="how"), frame))


def facts(pairs: Iterable[tuple[str, Any]]) -> Html:
    """Returns names with what they are; a value of `None` is left out."""
    return element(
        "dl",
        *(
            join((element("dt", name), element("dd", value)))
            for name, value in pairs
            if value is not None
        ),
    )


def data(value: Any) -> Html:
    """Returns nested data, indented."""
    return element("pre", element("code", json.dumps(value, indent=1)))


def plain(value: Any) -> str:
    """Returns plain data as one reads it.

    >>> plain({"keras": "3.13", "seeds": [0, 1]})
    'keras 3.13, seeds [0, 1]'
    """
    if isinstance(value, dict):
        return ", ".join(f"{key} {_item(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_item, value))
    return _item(value)


def _item(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def document(title: str, headline: str, *parts: Any) -> bytes:
    """Returns a whole page as UTF-8."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", **{"http-equiv": "Content-Security-Policy"}, content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Html(_STYLE)),
    )
    body = element(
        "body",
        element(
            "main", element("h1", title), element("p", headline, cls="headline"), *parts
        ),
    )
    text = f'<!doctype html>\n<html lang="en">{head}{body}</html>\n'
    # JSON can hold lone surrogates and NUL, which a page cannot.
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace")
