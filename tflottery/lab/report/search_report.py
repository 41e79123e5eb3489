"""Search report: the page of one search, finished or not."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tflottery import load_ticket
from tflottery.core import files
from tflottery.core.checks import TEXT, check, dict_of, list_of, or_none
from tflottery.core.config import LotteryConfig, choose_monitor
from tflottery.core.records import Round, steps_told
from tflottery.lab.report import page, tables
from tflottery.lab.report.experiment_report import plain
from tflottery.lab.report.page import Details, Section, Table
from tflottery.showing import ticket_figures
from tflottery.showing.drawing import share

# Values of a manifest, apart from its config.
_MANIFEST = {
    "paths": list_of(TEXT),
    "versions": or_none(dict_of(TEXT)),
    "architecture": TEXT,
    "command": TEXT,
}


def search_page(path: Any, *more: Section) -> bytes:
    """Returns the page of the search in a run directory, with sections to add.

    Raises:
        FileError: If a file is damaged; the message names it.
    """
    manifest = files.read_json(path / "run.json")
    try:
        config = LotteryConfig(**manifest["config"])
        for name in _MANIFEST.keys() & manifest.keys():
            check(name, manifest[name], _MANIFEST[name])
    except (KeyError, TypeError, ValueError) as error:
        raise files.FileError(
            f"{path / 'run.json'} does not describe a search: {error}"
        ) from error
    rounds = _rounds(path / "rounds")
    ticket_path = path / "ticket.safetensors"
    ticket = load_ticket(ticket_path) if ticket_path.exists() else None
    if ticket is not None and ticket.round >= len(rounds):
        rounds = list(ticket.rounds)
    monitor = config.monitor or (ticket.monitor if ticket else "")
    if not monitor and rounds:
        monitor = choose_monitor(rounds[0].metrics)
    chosen = None if ticket is None else ticket.round
    sections = []
    if any(ticket_figures.counts(r, monitor) for r in rounds):
        shown = rounds[-1 if chosen is None else chosen]
        title = f"round {shown.round}, {share(1 - shown.sparsity)} of the weights"
        layers = tables.layers([shown.density_per_layer], title)
        drawn = [
            ticket_figures.rounds_metric(rounds, monitor, chosen),
            ticket_figures.learning_curves(rounds, monitor),
            ticket_figures.layers([shown.density_per_layer], title),
            *([ticket_figures.first_masks(ticket.masks)] if ticket else []),
        ]
        details = [Details(summary="Every layer", table=layers)]
        sections.append(Section(figures=drawn, details=details))
    sections += [
        Section(title="Rounds", table=_round_table(rounds, monitor, chosen)),
        *more,
        _made(manifest, config, ticket.versions if ticket else None),
    ]
    headline = _headline(rounds, monitor, chosen)
    how = _how(rounds, monitor, config, chosen)
    return page.render("Ticket search", headline, sections, how=how)


def _rounds(folder: Any) -> list[Round]:
    """Returns the records of the finished rounds, in order."""
    rounds: list[Round] = []
    for path in sorted(folder.glob("[0-9]*.json")):
        try:
            record = Round.read(files.read_json(path))
        except (TypeError, ValueError) as error:
            raise files.FileError(
                f"{path} is not the record of a round. {error}"
            ) from error
        if record.round != len(rounds):
            raise files.FileError(
                f"{path} is the record of round {record.round}, but round "
                f"{len(rounds)} comes next: a file was lost or renamed."
            )
        rounds.append(record)
    return rounds


def _headline(rounds: Sequence[Round], monitor: str, chosen: int | None) -> str:
    """Returns the result of the search in one sentence."""
    if not rounds:
        return "No round is finished yet."
    if chosen is None or chosen >= len(rounds):
        return f"The search is under way: {len(rounds)} rounds are finished."
    dense, found = rounds[0].metrics.get(monitor), rounds[chosen].metrics.get(monitor)
    left = f"The ticket keeps {share(1 - rounds[chosen].sparsity)} of the weights"
    if dense is None or found is None:
        return f"{left}."
    return f"{left}, with {monitor} {found:.4g} ({found - dense:+.4f} to dense)."


def _how(
    rounds: Sequence[Round], monitor: str, config: LotteryConfig, chosen: int | None
) -> str:
    texts = ["1 seed: no interval, so no claim that it wins."]
    if chosen is not None:
        how = "last" if config.select == "last" else "sparsest winning"
        texts.append(
            f"Round {chosen} of {len(rounds) - 1} was chosen as the {how} round by "
            f"{monitor}, with a tolerance of {config.tolerance:g}. That value is "
            "therefore optimistic: measure the ticket on data that chose nothing."
        )
    if told := steps_told(rounds):
        texts.append(f"Rounds ended when their masks had settled: {told}")
    failed = [r for r in rounds if r.failure is not None]
    texts += [f"Round {r.round} failed: {r.failure}." for r in failed]
    return " ".join(texts)


def _round_table(rounds: Sequence[Round], monitor: str, chosen: int | None) -> Table:
    names = list(dict.fromkeys(name for r in rounds for name in r.metrics))
    names.sort(key=lambda name: name != monitor)
    dense = rounds[0].metrics.get(monitor, math.nan) if rounds else math.nan
    rows, cut = [], any(r.settled is not None for r in rounds)
    for r in rounds:
        gain = r.metrics.get(monitor, math.nan) - dense
        rows.append(
            {
                "round": r.round,
                "left (%)": f"{100 * (1 - r.sparsity):.2f}",
                "to dense": None if math.isnan(gain) else f"{gain:+.4f}",
                **{n: f"{r.metrics[n]:.4f}" if n in r.metrics else "" for n in names},
                "steps": f"{r.steps:,}",
                "seconds": None if r.seconds is None else f"{r.seconds:.1f}",
                "failure": r.failure,
                **({"trained": r.how or "in full"} if cut else {}),
            }
        )
    caption = "The rounds; the ticket's round is highlighted"
    return Table(
        caption, rows, ("failure", "trained"), () if chosen is None else (chosen,)
    )


def _made(manifest: Mapping[str, Any], config: LotteryConfig, versions: Any) -> Section:
    versions = versions or manifest.get("versions")
    facts = {
        "command": manifest.get("command") or _call(config),
        "seed": "none was set" if config.seed is None else config.seed,
        "architecture": manifest.get("architecture"),
        "versions": None if versions is None else plain(dict(versions)),
    }
    training = Details(summary="Optimizer and loss", data=manifest.get("training"))
    details = [training] if training.data else []
    return Section(title="How it was made", facts=facts, details=details)


def _call(config: LotteryConfig) -> str:
    """Returns the call of `find_ticket` that has this config.

    >>> _call(LotteryConfig(epochs=3, seed=0))
    'tflottery.find_ticket(model, ds, epochs=3, seed=0)'
    """
    defaults, given = LotteryConfig().to_dict(), config.to_dict()
    changed = [f"{name}={v!r}" for name, v in given.items() if v != defaults[name]]
    return f"tflottery.find_ticket({', '.join(['model', 'ds', *changed])})"
