"""Pools: a ticket's weights interpolated with those of other rounds of its search.

Yin et al. 2022, "Lottery Pools: Winning More by Interpolating Tickets without
Increasing Training or Inference Cost", section 3.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tflottery import engines
from tflottery.core import checks
from tflottery.core import masks as masks_lib
from tflottery.core.masks import Weights
from tflottery.engines import batch_norm, joining, network
from tflottery.engines import data as data_lib
from tflottery.search import rounds
from tflottery.search.judge import Judge
from tflottery.search.progress import Progress
from tflottery.search.trainer import engine_for
from tflottery.ticket import Ticket

_SHARES = tuple((5 + 9 * i) / 100 for i in range(11))


def pool(
    model: Any,
    run_dir_or_tickets: Any,
    validation_data: Any,
    *,
    round: int | None = None,
    ds: Any = None,
    monitor: str | None = None,
    batch_size: int | None = None,
    steps_per_epoch: int | None = None,
    validation_steps: int | None = None,
    validation_batch_size: int | None = None,
    verbose: str | int = "auto",
) -> Any:
    """Pools the rounds of a search: may improve a ticket, without any training.

    The weights of one round are interpolated with those of each other round, the
    nearest first, under the masks of the one. Of eleven shares from 0.05 to 0.95 the
    one with the best metric on validation data counts, the smallest of equal ones. It
    is kept if the metric is no worse than it was. A search of `n` rounds takes
    `11 * (n - 1) + 1` evaluations and, with batch normalization, as many passes over
    `ds`. Choosing by them flatters the metric: report that on test data.

    Example:

    ```python
    model = tflottery.find_ticket(model, ds, validation_data=val, run_dir="mine")
    model = tflottery.pool(model, "mine", val, ds=ds)
    ```

    Args:
        model: A built and compiled Keras 3 or tf_keras model of the search's
            architecture. Its weights are replaced; its metrics judge.
        run_dir_or_tickets: The `run_dir` of a search, or two or more of its tickets, or
            their paths. Rounds that diverged are left out. Those that `settle` cut
            short are tried like the others.
        validation_data: The data to judge by, as for `find_ticket`.
        round: The number of the round whose masks are kept. By default the one that the
            search returned, or of tickets the sparsest.
        ds: The data to estimate the statistics of batch normalization on for every
            candidate, as for `find_ticket`, in the same order each time; labels are not
            used. `None` takes the inputs of `validation_data`. A few thousand examples
            are enough, as the pass is eager. Not needed without such layers.
        monitor: The metric to judge by, such as `"val_loss"`. By default that of the
            search.
        batch_size: Examples per batch of arrays; `None` is 32.
        steps_per_epoch: Batches of `ds` to read, if not all.
        validation_steps: Batches of `validation_data` to read, if not all.
        validation_batch_size: Examples per batch of validation arrays; `None` is
            `batch_size`.
        verbose: 0 prints nothing, anything else that `find_ticket` takes a line for
            each round.

    Returns:
        The same `model`, sparse and pooled; pruned weights stay zero in later
        training. `model.ticket` is the round's ticket with the pooled weights as
        `trained`, and `model.ticket.origin` says which rounds they come from. If no
        other round helped, they are the round's own.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If an argument is out of range, there are fewer than two rounds, or
            one does not fit `model`. It says why and what to do. Whatever is raised,
            `model` has its weights and masks again.
    """
    settings = data_lib.FitSettings(
        batch_size=batch_size,
        steps_per_epoch=steps_per_epoch,
        validation_steps=validation_steps,
        validation_batch_size=validation_batch_size,
    )
    joining.check(settings, {})
    checks.check("monitor", monitor, checks.or_none(checks.TEXT))
    progress = Progress(verbose)
    network.keras_of(model)  # Raises if it is not a Keras model.
    before = network.read(network.variables(model))
    if not getattr(model, "compiled", getattr(model, "_is_compiled", False)):
        raise ValueError(
            f"`model` {model.name!r} is not compiled, so it has no loss and no metrics "
            "to judge by. Compile it as it was for the search."
        )
    data = {"validation_data": joining.joined(validation_data)}
    if ds is not None:
        data["ds"] = joining.joined(ds)
    for name, each in data.items():
        data_lib.check(name, each, settings)
        data_lib.check_examples(name, each, model)
    data_lib.check_labels(model, data["validation_data"], "validation_data")
    given = data["validation_data"]
    if model.loss is not None and isinstance(given, tuple) and len(given) < 2:
        raise ValueError(
            "`validation_data` has no labels to judge by. Give `(x, y)`, as for "
            "`find_ticket`."
        )
    base, partners = rounds.of_search(run_dir_or_tickets, round, before)
    engine = engine_for(model, base.config.include)
    engine.settings, state = settings, engine.state()
    layers = _trained_statistics(model, base)
    judge = Judge(engine, data, monitor or base.monitor, layers)
    try:
        engine.leave()  # Of masks that it holds: `base` may have others.
        ticket = pooled(base, partners, judge, progress.say if verbose else _silent)
        judge.give(ticket.trained)
        engines.hold(engine.model, ticket.masks)
    except BaseException:
        engine.restore(state, parts=("weights", "seeds"))
        network.finalize(engine.model)
        engine.leave()
        if engine.held:
            engines.hold(engine.model, engine.held)
        raise
    engine.model.ticket = ticket
    return engine.model


def interpolated(ours: Weights, theirs: Weights, share: float) -> dict[str, np.ndarray]:
    """Returns `ours`, moved by `share` of the way to `theirs`; integers stay.

    >>> interpolated({"a": np.array([0.0, 8.0])}, {"a": np.array([4.0, 8.0])}, 0.25)
    {'a': array([1., 8.])}
    """
    return {
        path: w
        if w.dtype.kind in "biu"
        else (w + share * (theirs[path] - w)).astype(w.dtype)
        for path, w in ours.items()
    }


def pooled(
    base: Ticket, partners: Iterable[Ticket], judge: Judge, say: Callable[[str], None]
) -> Ticket:
    """Returns the ticket `base`, its weights pooled with those of `partners` in order.

    `say` is told what each of them did.
    """
    weights, name = base.trained, f"val_{judge.name}"
    judge.give(weights)
    metric = first = judge.metric()
    better = judge.engine.better(name)  # Keras knows it once it has been computed.
    used = []
    say(f"Round {base.round}, {100 * base.density:.2f} % left: {name} {first:.4f}.")
    anew = None
    if judge.layers:  # Else a partner would get what new statistics alone gain.
        estimated, anew = judge.estimate_statistics(), judge.metric()
        if not better(metric, anew):
            weights, metric = estimated, anew
        say(f"with its BatchNorm statistics estimated anew: {anew:.4f}.")
    for partner in partners:
        best = None
        for share in _SHARES:
            mixed = interpolated(weights, partner.trained, share)
            judge.give(masks_lib.apply(base.masks, mixed))
            tried = judge.estimate_statistics(), judge.metric()
            if np.isfinite(tried[1]) and (best is None or better(tried[1], best[1])):
                best = (*tried, share)
        if best is None or better(metric, best[1]):
            found = "not finite" if best is None else f"at best {best[1]:.4f}"
            say(f"with round {partner.round}: {found}, so it is left out.")
            continue
        before, (weights, metric, share) = metric, best
        used.append({"round": partner.round, "share": share})
        used[-1] |= {"before": before, "after": metric}
        say(f"with round {partner.round}, share {share:.2f}: {metric:.4f}.")
    if used:
        listed = ", ".join(str(each["round"]) for each in used)
        change = f"{first:.4f} -> {metric:.4f} ({metric - first:+.4f})"
        say(f"Pooled round {base.round} with {listed}: {name} {change}.")
    else:
        say(f"No other round helped: the weights stay those of round {base.round}.")
    origin = {
        "pooled": base.round,
        "monitor": name,
        "before": first,
        "statistics": anew,
        "after": metric,
        "partners": used,
        "origin": None if base.origin is None else dict(base.origin),
    }
    return dataclasses.replace(base, trained=weights, origin=origin)


def _trained_statistics(model: Any, ticket: Ticket) -> list[Any]:
    """Returns the layers of batch normalization whose statistics training changed.

    A part of a model that is called with `training=False` keeps its own.
    """
    names = {id(v): path for path, v in network.variables(model).items()}

    def changed(layer: Any) -> bool:
        path = names.get(id(layer.moving_mean))
        same = path and np.array_equal(ticket.initial[path], ticket.trained[path])
        return not same

    return [layer for layer in batch_norm.layers_in(model) if changed(layer)]


def _silent(line: str) -> None:
    del line
