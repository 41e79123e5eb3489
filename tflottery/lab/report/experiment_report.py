"""Experiment report: the page of an experiment, made from `results.json` alone."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tflottery.core import files
from tflottery.core.checks import Kind, check, is_number, list_of, or_none
from tflottery.lab.report import figures, page, results, tables
from tflottery.lab.report.intervals import HOW, Choice, choose, compare, headline
from tflottery.lab.report.page import Details, Section
from tflottery.lab.report.results import Cell, Curve, Setting
from tflottery.lab.report.verdicts import verdicts as judged
from tflottery.showing import ticket_figures
from tflottery.showing.drawing import share

_NAMES = {"fine_tuned": "fine-tuned", "two_layer": "two-layer"}
# What the page shows by itself, and not among the settings.
_SHOWN = {"experiment", "shows", "command", "versions", "seeds", "rows", "mask_overlap"}


def _is_overlap(pair: Any) -> bool:
    numbers = isinstance(pair, list) and len(pair) == 4 and all(map(is_number, pair))
    return numbers and 0 < pair[2] <= 1 and 0 <= pair[3] <= 1


_OVERLAPS = or_none(list_of(Kind(_is_overlap, "[seed, seed, density, overlap]")))


def experiment_page(path: Any) -> bytes:
    """Returns the page of an experiment from its `results.json`.

    Raises:
        FileError: If the file is damaged; the message names the value.
    """
    found = files.read_json(path)
    try:
        if not isinstance(found, dict):
            raise ValueError("It must hold an object with `rows`.")
        # How the results were made stands in a header, or beside the rows.
        header = found.get("header", found)
        if not isinstance(header, dict):
            raise ValueError("`header` must be an object.")
        cells = results.read(found.get("rows"))
        check("mask_overlap", header.get("mask_overlap"), _OVERLAPS)
    except ValueError as error:
        raise files.FileError(f"{path} is not a valid results file. {error}") from error
    tolerance = tolerance_of(header)
    settings = results.settings(cells)
    sections, verdicts = [], []
    gain = figures.gain(settings)
    if gain:
        sections.append(Section(title="What a ticket is worth", figures=[gain]))
    for setting in settings:
        name = setting_name(settings, setting)
        chosen = [(c, choose(c, setting.dense, tolerance)) for c in setting.tickets]
        sections.append(_section(name, setting, chosen, tolerance))
        verdicts += [
            (", ".join(filter(None, (name, figures.label(curve)))), choice)
            for curve, choice in chosen
        ]
    shared = figures.overlap([pair[2:] for pair in header.get("mask_overlap") or ()])
    if shared:
        sections.append(Section(title="Mask overlap between seeds", figures=[shared]))
    sections.append(Section(title="Cells", table=tables.cells(cells)))
    sections.append(_made(header, cells))
    first_name, first = verdicts[0] if verdicts else ("", None)
    return page.render(
        str(header.get("experiment") or "Experiment"),
        headline(first, tolerance),
        sections,
        shows=header.get("shows"),
        how=_how(first_name, first, tolerance) if first else "",
        verdicts=judged(settings, tolerance, setting_name)
        or [(name, headline(c, tolerance)) for name, c in verdicts[1:]],
        notes=_notes(cells, settings, header),
    )


def _how(name: str, choice: Choice, tolerance: float) -> str:
    """Returns how the headline was reached."""
    test, interval = choice.comparison.test, ""
    if test is not None and test.half is not None:
        interval = (
            f" ± is the 95 % interval by Student's t over {test.count} seeds of the "
            "differences in test accuracy, paired by seed."
        )
    limit = f"-{100 * tolerance:g} points" if tolerance else "zero"
    return (
        f"{name}; {HOW[choice.how]}.{interval} An arm wins if its whole interval is at "
        f"or above {limit}. No density is chosen by test accuracy."
    )


def _notes(
    cells: Sequence[Cell], settings: Sequence[Setting], header: Mapping[str, Any]
) -> list[str]:
    """Returns what is missing, or weaker than it looks."""
    pairs = [
        compare(point, setting.dense)
        for setting in settings
        if setting.dense is not None
        for curve in setting.curves
        for point in curve.points
    ]
    failed = sum(cell.failed for cell in cells)
    missing = sum(len(comparison.missing) for comparison in pairs)
    flat = sum(bool(c.test and c.test.is_flat and c.density < 1) for c in pairs)
    done, planned = len({cell.seed for cell in cells}), header.get("seeds")
    seeds = len(planned) if isinstance(planned, list) else 0
    notes = {
        f"Failed cells: {failed} of {len(cells)}. No mean includes them, and an arm "
        "does not win at a density where a seed failed.": failed,
        f"Missing pairs: {missing}. The arm or dense has no cell for that seed; only "
        "the other seeds are compared.": missing,
        "No spread: an arm at one density differs from dense by the same with all "
        f"seeds, so there is no interval and no claim ({flat} of {len(pairs)}). More "
        "seeds may show one.": flat,
        "Without a dense network, nothing is compared.": any(
            setting.dense is None for setting in settings
        ),
        f"{done} of {seeds} seeds have results so far.": seeds > done,
    }
    return [note for note, holds in notes.items() if holds]


def _section(
    name: str,
    setting: Setting,
    chosen: Sequence[tuple[Curve, Choice | None]],
    tolerance: float,
) -> Section:
    """Returns the figures and tables of one setting."""
    at, title, densities = None, "", []
    if chosen and chosen[0][1]:
        curve, at = chosen[0][0], chosen[0][1].comparison.density
        cells = curve.nearest(at).cells
        densities = [c.density_per_layer for c in cells if c.density_per_layer]
        title = f"{figures.label(curve)} with {share(at)} of the weights"
    marks = {curve.weights: c.comparison.density for curve, c in chosen if c}
    layers = tables.layers(densities, title)
    every = tables.densities(setting, tolerance, marks)
    return Section(
        title=name or "Results",
        table=tables.arms(setting, at, tolerance),
        figures=[
            figures.cost(setting),
            figures.accuracy(setting),
            figures.differences(setting, tolerance),
            figures.steps_to_best(setting),
            ticket_figures.layers(densities, title),
        ],
        details=[
            *([Details(summary="Every layer", table=layers)] if layers else []),
            Details(summary="Every arm at every density", table=every, open=True),
        ],
    )


def _made(header: Mapping[str, Any], cells: Sequence[Cell]) -> Section:
    """Returns how the results were made: the command first, all settings last."""
    seconds = sum(cell.seconds or 0 for cell in cells)
    more = {k: v for k, v in header.items() if k not in _SHOWN}
    nested = {k: v for k, v in more.items() if isinstance(v, dict)}
    facts = {
        "command": header.get("command"),
        "seeds": header.get("seeds") or sorted({cell.seed for cell in cells}),
        "training time": f"{seconds:,.0f} s in all cells",
        **{k: v for k, v in more.items() if k not in nested},
        "versions": header.get("versions"),
    }
    return Section(
        title="How it was made",
        facts={k: None if v is None else plain(v) for k, v in facts.items()},
        details=[Details(summary=f"All of {k}", data=v) for k, v in nested.items()],
    )


def plain(value: Any) -> str:
    """Returns plain data as a reader would write it.

    >>> plain({"keras": "3.13", "seeds": [0, 1]})
    'keras 3.13, seeds [0, 1]'
    """
    if isinstance(value, dict):
        return ", ".join(f"{key} {_item(item)}" for key, item in value.items())
    return ", ".join(map(_item, value)) if isinstance(value, list) else _item(value)


def _item(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def setting_name(settings: Sequence[Setting], setting: Setting) -> str:
    """Returns what tells a setting from the others; nothing if it is the only one."""
    parts = []
    for name in results.SETTING:
        value = getattr(setting, name)
        if len({getattr(s, name) for s in settings}) > 1:
            if name == "images_per_class":
                parts.append(figures.size(value))
            elif value:
                end = " head" if name == "head" else ""
                parts.append(f"{_NAMES.get(value, value)}{end}")
    return ", ".join(parts)


def tolerance_of(header: Mapping[str, Any]) -> float:
    """Returns the tolerance of the target's recipe, or of the only recipe."""
    recipe = header.get("recipe")
    places: list[Any] = [header]
    if isinstance(recipe, dict):
        targets = recipe.get("targets") or recipe.get("target")
        places += targets if isinstance(targets, list) else [targets]
        places += [recipe, recipe.get("source")]
    for place in places:
        value: Any = place.get("tolerance") if isinstance(place, dict) else None
        if is_number(value) and 0 <= value < 1:
            return float(value)
    return 0.0
