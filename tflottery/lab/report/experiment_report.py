"""Experiment report: the page of an experiment, from its results alone."""

from collections.abc import Mapping, Sequence
from typing import Any

from tflottery.core import files
from tflottery.core.checks import is_number
from tflottery.lab.report import figures, page, tables
from tflottery.lab.report import results as cells_lib
from tflottery.lab.report.intervals import HOW, Choice, choose, compare, headline, share
from tflottery.lab.report.page import Html, element
from tflottery.lab.report.results import Cell, Curve, Setting

_NAMES = {"fine_tuned": "fine-tuned", "two_layer": "two-layer"}


def experiment_page(path: Any) -> bytes:
    """Returns the page of the experiment whose `results.json` lies at `path`.

    Raises:
        FileError: naming the file and the value that is not of its kind.
    """
    results = files.read_json(path)
    try:
        if not isinstance(results, dict):
            raise ValueError("It must hold an object with `rows`.")
        # How they were made stands beside the rows, or in a header.
        header = results.get("header", results)
        if not isinstance(header, dict):
            raise ValueError("`header` must be an object.")
        cells = cells_lib.read(results.get("rows"))
        overlaps = _overlaps(header.get("mask_overlap"))
    except ValueError as error:
        raise files.FileError(f"{path} is not an experiment's results. {error}") from (
            error
        )
    tolerance = _tolerance(header)
    settings = cells_lib.settings(cells)
    names = [_setting_name(settings, place) for place in range(len(settings))]
    chosen = [
        [(curve, choose(curve, setting.dense, tolerance)) for curve in setting.tickets]
        for setting in settings
    ]
    sentences = [
        (name, figures.label(curve), choice)
        for name, choices in zip(names, chosen, strict=True)
        for curve, choice in choices
    ]
    first = headline(sentences[0][2] if sentences else None, tolerance)
    sections = [
        _section(*section, tolerance)
        for section in zip(names, settings, chosen, strict=True)
    ]
    shared = figures.overlap(overlaps)
    shows = header.get("shows")
    return page.document(
        str(header.get("experiment") or "Experiment"),
        first,
        element("p", f"Put to the test: {shows}") if shows else "",
        _how(*sentences[0], tolerance) if sentences else "",
        _others(sentences[1:], tolerance),
        _notes(cells, settings, header),
        *sections,
        *([element("h2", "Mask overlap between seeds")] if shared else []),
        page.figures([shared]),
        element("h2", "Cells"),
        tables.cells(cells),
        element("h2", "How it was made"),
        _made(header, cells),
    )


def _how(name: str, label: str, choice: Choice | None, tolerance: float) -> Html:
    """Says how the headline was come to."""
    if choice is None:
        return Html()
    test = choice.comparison.test
    ends = [f"{label}{f' ({name})' if name else ''}; {HOW[choice.how]}."]
    if test is not None and test.half is not None:
        ends.append(
            f"± is the 95 % interval by Student's t over {test.count} seeds of the "
            "differences in test accuracy, paired by seed."
        )
    ends.append(
        "An arm wins where that whole interval is at or above "
        + (f"-{100 * tolerance:g} points. " if tolerance else "zero. ")
        + "No density is chosen by the test accuracy."
    )
    return element("p", " ".join(ends), cls="how")


def _others(
    sentences: Sequence[tuple[str, str, Choice | None]], tolerance: float
) -> Html:
    if not sentences:
        return Html()
    items = (
        element(
            "li",
            element("b", f"{', '.join(filter(None, (name, label)))}:"),
            f" {headline(choice, tolerance)}",
        )
        for name, label, choice in sentences
    )
    return element("ul", *items)


def _notes(
    cells: Sequence[Cell], settings: Sequence[Setting], header: Mapping[str, Any]
) -> Html:
    """Says what is not there, or weaker than it looks."""
    notes = []
    failed = [cell for cell in cells if cell.failed]
    if failed:
        notes.append(
            f"Failed cells: {len(failed)} of {len(cells)}. They are in no mean, and an "
            "arm does not win at a density where a seed failed."
        )
    pairs = [
        compare(point, setting.dense)
        for setting in settings
        if setting.dense is not None
        for curve in setting.curves
        for point in curve.points
    ]
    missing = sum(len(comparison.missing) for comparison in pairs)
    if missing:
        notes.append(
            f"Missing pairs: {missing}. The arm or dense has no cell with that seed; "
            "the others are compared."
        )
    equal = [c for c in pairs if c.test and c.test.is_flat and c.density < 1]
    if equal:
        notes.append(
            "No spread: an arm at one density differs from dense by the same with all "
            f"seeds, so there is no interval and no claim ({len(equal)} of "
            f"{len(pairs)}). More seeds may show one."
        )
    if any(setting.dense is None for setting in settings):
        notes.append("Where there is no dense network, nothing is compared.")
    done = {cell.seed for cell in cells}
    planned = header.get("seeds")
    if isinstance(planned, list) and len(planned) > len(done):
        notes.append(f"{len(done)} of {len(planned)} seeds have results so far.")
    return element("ul", *(element("li", note) for note in notes)) if notes else Html()


def _section(
    name: str,
    setting: Setting,
    chosen: Sequence[tuple[Curve, Choice | None]],
    tolerance: float,
) -> Html:
    """Returns the figures and tables of one setting."""
    at, title = None, ""
    densities: list[Mapping[str, float]] = []
    if chosen and chosen[0][1]:
        curve, at = chosen[0][0], chosen[0][1].comparison.density
        cells = tables.nearest(curve, at).cells
        densities = [c.density_per_layer for c in cells if c.density_per_layer]
        title = f"{figures.label(curve)} with {share(at)} of the weights"
    marks = {
        curve.weights: choice.comparison.density for curve, choice in chosen if choice
    }
    return page.join(
        (
            element("h2", name or "Results"),
            tables.arms(setting, at, tolerance),
            page.figures(
                [
                    figures.accuracy(setting),
                    figures.differences(setting, tolerance),
                    figures.steps_to_best(setting),
                    figures.layers(densities, title),
                ]
            ),
            tables.layers(densities, title),
            tables.densities(setting, tolerance, marks),
        )
    )


def _made(header: Mapping[str, Any], cells: Sequence[Cell]) -> Html:
    """Returns how the results were made: the command first, all settings last."""
    command, versions = header.get("command"), header.get("versions")
    seconds = sum(cell.seconds or 0 for cell in cells)
    seeds = header.get("seeds") or sorted({cell.seed for cell in cells})
    known = {"experiment", "shows", "command", "versions", "seeds", "rows"}
    more = {k: v for k, v in header.items() if k not in {*known, "mask_overlap"}}
    nested = {k: v for k, v in more.items() if isinstance(v, dict)}
    facts = page.facts(
        [
            ("command", None if command is None else element("code", command)),
            (
                "seeds",
                page.plain(seeds),
            ),
            ("training time", f"{seconds:,.0f} s in all cells"),
            *((name, page.plain(v)) for name, v in more.items() if name not in nested),
            ("versions", None if versions is None else page.plain(versions)),
        ]
    )
    details = (
        element("details", element("summary", f"All of {name}"), page.data(value))
        for name, value in nested.items()
    )
    return page.join((facts, *details))


def _setting_name(settings: Sequence[Setting], place: int) -> str:
    """Returns what tells a setting from the others; nothing where it is alone."""
    names = ("experiment", "dataset", "regime", "head")
    varying = [n for n in names if len({getattr(s, n) for s in settings}) > 1]
    values = [getattr(settings[place], name) for name in varying]
    parts = [
        f"{_NAMES.get(value, value)}{' head' if name == 'head' else ''}"
        for name, value in zip(varying, values, strict=True)
        if value
    ]
    return ", ".join(parts)


def _tolerance(header: Mapping[str, Any]) -> float:
    """Returns the tolerance of the target's recipe, or of the only one there is."""
    recipe = header.get("recipe")
    places: list[Any] = [header]
    if isinstance(recipe, dict):
        places += [recipe.get("target"), recipe, recipe.get("source")]
    for place in places:
        value: Any = place.get("tolerance") if isinstance(place, dict) else None
        if is_number(value) and 0 <= value < 1:
            return float(value)
    return 0.0


def _overlaps(pairs: Any) -> list[tuple[float, float]]:
    if pairs is None:
        return []
    found = []
    for pair in pairs if isinstance(pairs, list) else [pairs]:
        fits = isinstance(pair, list) and len(pair) == 4 and all(map(is_number, pair))
        if not fits or not (0 < pair[2] <= 1 and 0 <= pair[3] <= 1):
            raise ValueError(
                "`mask_overlap` must be a list of [seed, seed, density, overlap]. "
                f"It holds {pair!r}"
            )
        found.append((pair[2], pair[3]))
    return found
