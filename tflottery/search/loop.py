"""Search: iterative magnitude pruning with rewinding, the loop and nothing else.

Frankle & Carbin 2019, "The Lottery Ticket Hypothesis", section 1; rewinding to step
k from Frankle et al. 2020, "Linear Mode Connectivity and the Lottery Ticket
Hypothesis"; the other ways to retrain from Renda et al. 2020, "Comparing Rewinding
and Fine-tuning in Neural Network Pruning".
"""

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tflottery import engines
from tflottery.core import checks, criteria, files, pruning
from tflottery.core import masks as masks_lib
from tflottery.core import plan as plan_lib
from tflottery.core.config import LotteryConfig, check_criterion
from tflottery.core.masks import Masks, Weights
from tflottery.core.records import Round, library_versions
from tflottery.engines import data as data_lib
from tflottery.engines import joining, network
from tflottery.search import fingerprint, interrupts
from tflottery.search import run_dir as run_dir_lib
from tflottery.search import selection as selection_lib
from tflottery.search.checkpoint import Checkpoint
from tflottery.search.progress import Progress
from tflottery.search.selection import Selection
from tflottery.search.trainer import Trained, Trainer
from tflottery.ticket import Ticket

TICKET = checks.or_none(
    checks.Kind(lambda v: isinstance(v, Ticket), "a Ticket, as load_ticket returns")
)


def find_ticket(
    model: Any,
    ds: Any,
    y: Any = None,
    *,
    ticket: Ticket | None = None,
    sample_weight: Any = None,
    validation_data: Any = None,
    validation_split: float = 0.0,
    batch_size: int | None = None,
    shuffle: bool = True,
    class_weight: Mapping[int, float] | None = None,
    steps_per_epoch: int | None = None,
    validation_steps: int | None = None,
    validation_batch_size: int | None = None,
    epochs: int = 10,
    target_sparsity: float = 0.9,
    prune_fraction: float = 0.2,
    rounds: int | None = None,
    scope: str = "global",
    criterion: str | Callable[[Weights, Weights], Weights] = "magnitude",
    layer_fractions: Mapping[str, float] | None = None,
    skip: Sequence[str] = (),
    include: Sequence[str] = (),
    rewind_step: int = 0,
    retrain: str = "rewind",
    monitor: str | None = None,
    tolerance: float = 0.0,
    select: str = "sparsest_winning",
    settle: float | None = None,
    seed: int | None = None,
    run_dir: Any = None,
    resume: str = "auto",
    callbacks: Sequence[Any] = (),
    verbose: str | int = "auto",
    **refused: Any,
) -> Any:
    """Finds a winning ticket in `model`: trains, prunes and rewinds, round by round.

    Round 0 trains the dense network. After every round the weights with the lowest
    scores are pruned for good, the others go back to their values at step
    `rewind_step`, and the sparser network is trained again.

    Example:

    ```python
    model = tflottery.find_ticket(model, ds, validation_data=val, target_sparsity=0.95)
    model.ticket.summary()
    ```

    Args:
        model: A built Keras 3 or tf_keras model. If it is compiled, it keeps its
            optimizer, loss, metrics and learning-rate schedule. If not, it gets
            Adam(1.2e-3) and the cross-entropy that fits its output and the labels.
        ds: The training data, as for `fit`: a `tf.data.Dataset`, a
            `keras.utils.PyDataset`, arrays x with `y`, or `(x, y)` or `(x, y,
            sample_weight)` arrays. Data without labels trains a model that computes
            its own loss.
        y: The labels, if `ds` is x.
        ticket: A ticket to start from: it is applied to `model` first. A model that
            holds masks starts from those, and they only grow sparser.
        sample_weight: The weights of the examples in the loss, if `ds` is x.
        validation_data: The data that tickets are judged on, in the same forms.
            Without it they are judged by the training metrics, and a warning says so.
        validation_split: Share of the arrays to validate on, in (0, 1): the last
            examples, split off once, before round 0. Ignored with `validation_data`.
        batch_size: Examples per batch of arrays; `None` is 32.
        shuffle: Whether to shuffle arrays before each epoch.
        class_weight: Weights of the classes in the loss, by class number.
        steps_per_epoch: Batches in an epoch, for a dataset that is endless or larger.
        validation_steps: Batches of `validation_data` to evaluate, if not all.
        validation_batch_size: Examples per batch of validation arrays; `None` is
            `batch_size`.
        epochs: Number of epochs per round, at least 1. After a rewind to step k a
            round trains the whole epochs that follow step k.
        target_sparsity: Share of the prunable weights to prune in the end, in (0, 1).
            It is met exactly.
        prune_fraction: Share of the remaining weights to prune after each round, in
            (0, 1).
        rounds: Number of prunings; `prune_fraction` then follows from it and
            `target_sparsity`. 1 is one-shot pruning.
        scope: `"global"`, `"layer"` or `"erk"`; see `LotteryConfig`.
        criterion: `"magnitude"`, `"magnitude_increase"`, `"large_init"`, `"random"`,
            or a function `(trained, rewind) -> scores` on dicts of arrays by path.
        layer_fractions: Separate prune fractions for some layers, for example
            `{"output": 0.1}`. A key is a shell-style pattern that matches a path or a
            layer in it.
        skip: Patterns of layers that are never pruned.
        include: Patterns of weights to prune that are not pruned by default:
            embeddings, depthwise kernels, the matrices of custom layers.
        rewind_step: The optimizer step k to rewind to, at least 0.
        retrain: `"rewind"` (weights and optimizer go back to step k),
            `"learning_rate"` (only the optimizer and its schedule go back) or
            `"fine_tune"` (nothing does; training goes on at the last learning rate).
        monitor: The name of the metric that decides whether a ticket wins, such as
            `"val_loss"`. By default, or as `"auto"`, the validation accuracy, or the
            loss if there is none, or several outputs.
        tolerance: Allowed drop below the dense metric, in the metric's own unit, at
            least 0.
        select: `"sparsest_winning"` returns the sparsest network that reaches the
            dense metric (if none does, the best one, with a warning); `"last"`
            returns that of the last round.
        settle: If given, in (0, 1), a round that pruned ends once the masks that it
            would be pruned to have settled: the newest differ from each of the four
            drawn before in at most this share of the weights that the round has left;
            0.1 in You et al. 2020, "Drawing Early-Bird Tickets". Then only networks
            that may be returned are trained in full: the last one and, if it does not
            win, some of the others, by bisection.
        seed: Random seed. Sets the global seeds of Python, NumPy and the backend, so
            that two searches on one machine are alike.
        run_dir: A folder to keep every round in, or a URL such as `gs://bucket/run`.
            The same call resumes after the last finished epoch; if the search is
            finished, it returns at once.
        resume: `"auto"` resumes the search in `run_dir`. `"never"` starts a new one,
            in `run_dir-2`, `run_dir-3`, ... if there is one already.
        callbacks: Keras callbacks. To them, each round is one training.
        verbose: 0 prints nothing, `"auto"` one line per round (or a table and a curve
            in place, if someone is watching), 1 adds Keras' bar, 2 a line per epoch.

    Returns:
        The same `model`, trained and sparse; pruned weights stay zero in later
        training. `model.ticket` is the `Ticket`.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If an argument is out of range, or the model or the data cannot be
            searched. It says why and what to do.
    """
    arguments = dict(locals())
    trainer, progress = prepared(**arguments)
    score = criteria.find(criterion, seed)
    plan = plan_lib.plan(trainer.masks, trainer.config)
    engine = trainer.engine
    share, coverage = trainer.coverage
    if seed is not None:
        engine.keras.utils.set_random_seed(seed)
    try:
        told = engine.prepare(
            trainer.ds,
            validation_data=trainer.validation_data,
            rewind_step=rewind_step,
            callbacks=trainer.callbacks,
        )
        if progress:
            progress.say(coverage, *told)
        if share < 0.5:
            warnings.warn(
                f"{coverage} Name weights in `include` to prune them too.", stacklevel=2
            )
        if engine.with_lora:
            warnings.warn(
                f"LoRA is enabled in {', '.join(engine.with_lora)}: the kernels there "
                "are frozen, so the search does not prune them, and what LoRA adds to "
                "them is dense. Search first, and fine-tune without LoRA.",
                stacklevel=2,
            )
        if trainer.validation_data is None:
            warnings.warn(
                "Without `validation_data` a ticket is judged by its training "
                "metrics, which a network that memorizes passes too.",
                stacklevel=2,
            )
        if run_dir is None:
            return _search(trainer, score, plan, progress)
        manifest = fingerprint.of_search(trainer, score)
        writes = network.is_chief(engine.model)
        with (
            run_dir_lib.opened(run_dir, manifest, resume=resume, writes=writes) as run,
            interrupts.explained(run and run.path),
        ):
            if progress and resume == "never" and run:
                progress.say(f"This search is kept in {str(run.path)!r}.")
            return _search(trainer, score, plan, progress, run)
    except BaseException as error:
        if run_dir is None and isinstance(error, KeyboardInterrupt):
            interrupts.say_how_to_resume(None, "interrupted")
        with contextlib.suppress(Exception):  # The first error is what counts.
            trainer.put_back()
        raise


def prepared(
    *, model: Any, ds: Any, y: Any, verbose: Any, refused: Mapping, **arguments: Any
) -> tuple[Trainer, Progress | None]:
    """Reads and checks the arguments of `find_ticket`, and raises its errors."""
    given = arguments | {
        "criterion": check_criterion(arguments["criterion"]),
        "layer_fractions": arguments["layer_fractions"] or {},
    }
    names, others = map(dataclasses.fields, (LotteryConfig, data_lib.FitSettings))
    config = LotteryConfig(**{f.name: given[f.name] for f in names})
    settings = data_lib.FitSettings(**{f.name: given[f.name] for f in others})
    if settings != data_lib.PLAIN or refused:
        joining.check(settings, refused)
    weight, validation_data = given["sample_weight"], given["validation_data"]
    plain = [
        isinstance(data, tuple)
        and all(isinstance(a, np.ndarray) and a.dtype.kind in "biuf" for a in data)
        for data in (ds, validation_data)
    ]
    if not (plain[0] and y is weight is None):
        ds = joining.joined(ds, y, weight)
    if not plain[1]:
        validation_data = joining.joined(validation_data)
    if arguments["validation_split"] and validation_data is None:
        ds, validation_data = joining.split(ds, arguments["validation_split"])
    checks.check("resume", arguments["resume"], run_dir_lib.RESUME)
    if arguments["run_dir"] is not None:
        files.path_of(arguments["run_dir"], "run_dir")
    silent = isinstance(verbose, int) and verbose == 0
    progress = None if silent else Progress(verbose)
    callbacks, ticket = arguments["callbacks"], arguments["ticket"]
    checks.check("ticket", ticket, TICKET)
    trainer = Trainer(model, ds, config, validation_data, callbacks, settings, ticket)
    trainer.progress = progress
    return trainer, progress


@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
    """Where a search stands after a round.

    Attributes:
        records: The records of the rounds so far.
        last: The last round, or `None` before the first.
        selection: The rounds whose networks may be returned.
    """

    records: tuple[Round, ...] = ()
    last: Trained | None = None
    selection: Selection = dataclasses.field(default_factory=Selection)


def _search(
    trainer: Trainer,
    score: criteria.Criterion,
    plan: Sequence[float],
    progress: Progress | None,
    run: Any = None,
) -> Any:
    """Runs the search, or what is left of it, and returns the model."""
    config, engine = trainer.config, trainer.engine
    finished, checkpoint = trainer.open(run)
    if progress:
        progress.start(plan)
    state = State()

    def keep(trained: Trained, *, resumed: bool = False) -> State:
        record, selection, before = trained.record, state.selection, state.records
        number = record.round
        records = (*before[:number], record, *before[number + 1 :])
        if run and not resumed:
            run.save_round(_ticket(trainer, trained, records))
        if progress:
            progress.add(record, trainer.monitor, resumed=resumed)
        if number > 0 or record.failure:
            selection = selection.after(trained, records, *judging())
        last = trained if number == len(records) - 1 else state.last
        return State(records=records, last=last, selection=selection)

    def judging() -> tuple[LotteryConfig, str, selection_lib.Better]:
        return config, trainer.monitor, engine.better(trainer.monitor)

    def drawing(at: Checkpoint) -> Callable[[Weights], Masks] | None:
        if at.round == 0 or at.again or _done(at.round, at.masks, config):
            return None
        return lambda weights: _prune(trainer, at.round, at.masks, weights, score)

    trainer.drawing = drawing if config.settle else None
    if finished:
        # Keras knows the direction of a metric only once it has been computed.
        judged = trainer.validation_data
        engine.evaluate(trainer.ds if judged is None else judged)
    for record in finished:
        ticket = run.load_round(record.round)
        state = keep(Trained(record, ticket.masks, ticket.trained), resumed=True)
    if checkpoint and (trained := trainer.resume(checkpoint, finished)):
        state = keep(trained)
    while (last := state.last) is None or not (
        last.record.failure or _done(last.record.round, last.masks, config)
    ):
        masks = trainer.masks
        if last is not None:
            masks = _prune(trainer, last.record.round, last.masks, last.weights, score)
            if masks_lib.kept(masks) == masks_lib.kept(last.masks):
                warnings.warn(
                    "Nothing more can be pruned: every layer keeps at least one "
                    "weight. The search ends at "
                    f"{100 * masks_lib.sparsity(masks):.2f} % sparsity.",
                    stacklevel=3,
                )
                break
        state = keep(trainer.train(masks, state.records))
    while number := selection_lib.next_in_full(state.records, *judging()):
        masks = state.selection.masks_of(number, trainer.masks)
        cut = state.selection.cut[number]
        state = keep(trainer.train(masks, state.records, cut))

    assert state.last is not None
    chosen = state.selection.chosen(state.last, state.records, *judging())
    ticket = _ticket(trainer, chosen, state.records)
    if run:
        run.finish(ticket)
    model = engine.model
    engine.leave()
    weights = {f"weights/{path}": w for path, w in ticket.trained.items()}
    engine.restore(weights, parts=("weights",))
    engines.hold(model, ticket.masks)
    if progress:
        progress.end(ticket)
    model.ticket = ticket
    return model


def _done(number: int, masks: Masks, config: LotteryConfig) -> bool:
    """Returns whether the round `number` with these `masks` is the last."""
    target = (1 - config.target_sparsity) * masks_lib.size(masks)
    return number == config.rounds or masks_lib.kept(masks) <= target + 0.5


def _prune(
    trainer: Trainer,
    number: int,
    given: Masks,
    weights: Weights,
    score: criteria.Criterion,
) -> Masks:
    """Returns the masks of the round after the one of this `number`."""
    config, rewind = trainer.config, trainer.rewind_state
    scores = score(
        {path: weights[path] for path in trainer.paths},
        {path: rewind[f"weights/{path}"] for path in trainer.paths},
    )
    target = 1 - config.target_sparsity
    masks = pruning.prune(
        scores,
        given,
        plan_lib.fraction(given, config, done=number),
        scope=config.scope,
        layer_fractions=config.layer_fractions,
        target_density=target,
    )
    left = masks_lib.kept(given)
    if masks_lib.kept(masks) < left or left == 1:
        return masks
    # In a small network the share may round to no weight at all: prune one.
    return pruning.prune(scores, masks, 1 / left, target_density=target)


def _ticket(trainer: Trainer, trained: Trained, records: Sequence[Round]) -> Ticket:
    return Ticket(
        masks=trained.masks,
        initial=trainer.weights_at("initial"),
        rewind=trainer.weights_at("rewind"),
        trained=trained.weights,
        config=trainer.config,
        monitor=trainer.monitor,
        rounds=tuple(records),
        round=trained.record.round,
        versions=library_versions(),
    )
