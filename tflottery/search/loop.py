"""Search: iterative magnitude pruning with rewinding, the loop and nothing else.

Frankle & Carbin 2019, "The Lottery Ticket Hypothesis", section 1; rewinding to step
k from Frankle et al. 2020, "Linear Mode Connectivity and the Lottery Ticket
Hypothesis"; the other ways to retrain from Renda et al. 2020, "Comparing Rewinding
and Fine-tuning in Neural Network Pruning".
"""

import contextlib
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tflottery import engines
from tflottery.core import masks as masks_lib
from tflottery.core import plan as plan_lib
from tflottery.core import pruning
from tflottery.core.config import LotteryConfig, check_criterion
from tflottery.core.masks import Masks, Weights
from tflottery.core.paths import canonical
from tflottery.core.records import choose_monitor, library_versions
from tflottery.engines import data as data_lib
from tflottery.engines import network
from tflottery.search import arguments, fingerprint, interrupts
from tflottery.search import run_dir as run_dir_lib
from tflottery.search.progress import Progress
from tflottery.search.selection import Selection
from tflottery.search.trainer import Trained, Trainer
from tflottery.ticket import Ticket, architecture


def find_ticket(
    model: Any,
    ds: Any,
    *,
    validation_data: Any = None,
    epochs: int = 10,
    target_sparsity: float = 0.9,
    prune_fraction: float = 0.2,
    rounds: int | None = None,
    scope: str = "global",
    criterion: str | Callable[[Weights, Weights], Weights] = "magnitude",
    layer_fractions: Mapping[str, float] | None = None,
    skip: Sequence[str] = (),
    rewind_step: int = 0,
    retrain: str = "rewind",
    monitor: str | None = None,
    tolerance: float = 0.0,
    select: str = "sparsest_winning",
    seed: int | None = None,
    run_dir: Any = None,
    resume: str = "auto",
    callbacks: Sequence[Any] = (),
    verbose: str | int = "auto",
) -> Any:
    """Finds a winning ticket in `model`: trains, prunes, rewinds, round after round.

    Round 0 trains the dense network. After every round the weights with the lowest
    scores are pruned for good, the others go back to where they were at step
    `rewind_step`, and the sparser network is trained anew.

    Example:

    ```python
    model = tflottery.find_ticket(model, ds, validation_data=val, target_sparsity=0.95)
    model.ticket.summary()
    ```

    Args:
        model: a built Keras 3 or tf_keras model. A compiled one keeps its optimizer,
            loss, metrics and learning-rate schedule; another gets Adam(1.2e-3) and
            the cross-entropy that fits its output and the labels.
        ds: what `fit` takes: a finite `tf.data.Dataset`, `(x, y)` or `(x, y,
            sample_weight)` arrays (in batches of 32) or a `keras.utils.PyDataset`.
        validation_data: likewise; what tickets are judged on. Without it they are
            judged by the training metrics, which a warning says.
        epochs: epochs of each round, at least 1. After a rewind to step k a round
            trains the epochs that step k left, whole ones.
        target_sparsity: the share of the prunable weights to prune in the end, in
            (0, 1). It is met exactly.
        prune_fraction: the share of the weights left to prune after each round, in
            (0, 1).
        rounds: how many times to prune; `prune_fraction` then follows from it and
            `target_sparsity`. 1 is one-shot pruning.
        scope: `"global"`, `"layer"` or `"erk"`; see `pruning.prune`.
        criterion: `"magnitude"`, `"magnitude_increase"`, `"large_init"`, `"random"`,
            or a function `(trained, rewind) -> scores` on dicts of arrays by path.
        layer_fractions: prune fractions of their own for layers, as
            `{"output": 0.1}`. A key is a shell-style pattern of a path or of a layer
            on it.
        skip: patterns of layers that are not pruned.
        rewind_step: the optimizer step k to rewind to, at least 0.
        retrain: `"rewind"` (weights and optimizer go back to step k),
            `"learning_rate"` (weights stay, the optimizer and its schedule go back)
            or `"fine_tune"` (all stay, at the last learning rate).
        monitor: the name of the metric that tells a winning ticket, such as
            `"val_loss"`. By default the validation accuracy, else the loss.
        tolerance: how much worse than round 0 a winning ticket may be, in the
            metric's own unit, at least 0.
        select: `"sparsest_winning"` returns the sparsest network that reaches round
            0's metric (where none does, the best, with a warning); `"last"` that of
            the last round.
        seed: makes two searches on one machine alike: sets the global seeds of
            Python, NumPy and the backend.
        run_dir: a folder to keep every round in, or a URL such as `gs://bucket/run`.
            Called again with the same arguments the search goes on after the last
            finished epoch, and a finished one returns at once.
        resume: `"auto"` goes on with the search in `run_dir`, `"never"` starts anew,
            beside it where there is one, in `run_dir-2`, `run_dir-3`, ...
        callbacks: Keras callbacks; each round is one training to them.
        verbose: 0 is silent, `"auto"` prints a line per round (and Keras' bar inside
            a round where someone watches), 1 adds the bar, 2 a line per epoch.

    Returns:
        `model`, trained, sparse, its masks held in whatever training follows;
        `model.ticket` is the `Ticket`.

    Raises:
        TypeError: where `model` is not a Keras model.
        ValueError: for an argument out of range, and for a model or a dataset that
            cannot be searched; it says which and what to do.
    """
    config = LotteryConfig(
        epochs=epochs,
        target_sparsity=target_sparsity,
        prune_fraction=prune_fraction,
        rounds=rounds,
        scope=scope,
        criterion=check_criterion(criterion),
        layer_fractions=layer_fractions or {},
        skip=skip,  # type: ignore[arg-type]
        rewind_step=rewind_step,
        retrain=retrain,
        monitor=monitor,
        tolerance=tolerance,
        select=select,
        seed=seed,
    )
    arguments.check(criterion, run_dir, resume)
    progress = Progress(verbose)
    trainer = trainer_for(model, ds, config, validation_data, callbacks)
    if seed is not None:
        network.keras_of(model).utils.set_random_seed(seed)
    search = _Search(trainer, arguments.criterion_of(criterion, config), progress)
    return search.run(run_dir, resume)


def trainer_for(
    model: Any,
    ds: Any,
    config: LotteryConfig,
    validation_data: Any = None,
    callbacks: Sequence[Any] = (),
) -> Trainer:
    """Returns what trains the rounds of a search, once the arguments are checked."""
    if getattr(model, "ticket", None) is not None:
        raise ValueError(
            f"`model` {model.name!r} already carries a ticket, whose masks are held. "
            "Call `tflottery.release(model)` first, or start from a new model."
        )
    engine = engines.engine_for(model)
    checked = arguments.checked_callbacks(callbacks, network.keras_of(model))
    data_lib.check("ds", ds)
    if validation_data is not None:
        data_lib.check("validation_data", validation_data)
    trainer = Trainer(engine, config, ds, validation_data, checked)
    trainer.check()
    return trainer


class _Search:
    """One search under way: what it remembers from round to round."""

    def __init__(self, trainer: Trainer, criterion: Callable, progress: Progress):
        self.trainer = trainer
        self.engine = trainer.engine
        self.config = trainer.config
        self.criterion = criterion
        self.progress = progress
        trainer.verbose = progress.inside_round
        self.paths = trainer.paths
        self.plan = plan_lib.plan(trainer.dense(), self.config)
        self.rounds = Selection(trainer.config)

    def run(self, run_dir: Any, resume: str) -> Any:
        """Runs the search, or what is left of it, and returns the model.

        Where it breaks off, the model is put back to where it was.
        """
        kept: list[Any] = [None]
        with interrupts.explained(lambda: kept[0]):
            try:
                for line in self.trainer.prepare():
                    self.progress.say(line)
                if self.trainer.validation_data is None:
                    warnings.warn(
                        "Without `validation_data` a ticket is judged by its training "
                        "metrics, which a network that memorizes passes too.",
                        stacklevel=3,
                    )
                with run_dir_lib.opened(
                    run_dir,
                    {} if run_dir is None else self._manifest(),
                    resume=resume,
                    writes=self.engine.is_chief(),
                ) as run:
                    kept[0] = run.path
                    if resume == "never" and run.path is not None:
                        self.progress.say(f"This search is kept in {str(run.path)!r}.")
                    return self._run(run)
            except SystemExit:
                raise  # The process ends, and has little time to.
            except BaseException:
                with contextlib.suppress(Exception):  # The first error is what counts.
                    self.trainer.put_back()
                raise

    def _run(self, run: run_dir_lib.Run) -> Any:
        engine, trainer = self.engine, self.trainer
        trainer.open(run)
        self.progress.start(self.plan)
        self._take_up(run)
        while not self._done():
            last = self.rounds.last
            masks = trainer.dense() if last is None else self._prune(last)
            if last is not None and masks_lib.kept(masks) == masks_lib.kept(last.masks):
                self._warn(
                    "Nothing more can be pruned: every layer keeps at least one "
                    f"weight. The search ends at "
                    f"{100 * masks_lib.sparsity(masks):.2f} % sparsity."
                )
                break
            self._keep(run, trainer.train(masks))
        ticket = self._ticket(self.rounds.chosen(self._dense, trainer.monitor))
        engine.hold(ticket.masks)
        engine.restore(
            {f"weights/{path}": w for path, w in ticket.trained.items()},
            parts=("weights",),
        )
        run.finish(ticket)
        self.progress.end(ticket)
        model = engine.finish()
        model.ticket = ticket
        return model

    def _take_up(self, run: run_dir_lib.Run) -> None:
        """Takes up what `run` holds of an earlier try, the round under way included."""
        trainer = self.trainer
        if trainer.records:
            # Keras knows the direction of a metric only once it has been computed.
            judged = trainer.validation_data
            self.engine.evaluate(trainer.ds if judged is None else judged)
        for record in list(trainer.records):
            ticket = run.load_round(record.round)
            self._consider(Trained(record, ticket.masks, ticket.trained), resumed=True)
        trained = trainer.resume()
        if trained is not None:
            self._keep(run, trained)

    def _keep(self, run: run_dir_lib.Run, trained: Trained) -> None:
        run.save_round(self._ticket(trained))
        self._consider(trained)

    def _consider(self, trained: Trained, *, resumed: bool = False) -> None:
        """Remembers a finished round where it is the best so far for some reason."""
        trainer, record = self.trainer, trained.record
        if not trainer.monitor:
            trainer.monitor = choose_monitor(record.metrics)
        if record.round >= len(trainer.records):
            trainer.records.append(record)
        self.progress.add(record, trainer.monitor, resumed=resumed)
        self.rounds.last = trained
        if record.failure is not None:
            loss = record.metrics["loss"]
            why = (
                "weights hold NaN or infinity"
                if math.isfinite(loss)
                else (f"loss is {loss}")
            )
            if self.rounds.best is None:
                raise ValueError(
                    f"Training diverged in round {record.round}, before there was any "
                    f"ticket: the {why}. Lower the learning rate of `model`'s "
                    "optimizer, or look for NaN in `ds`."
                )
            self._warn(
                f"Training diverged in round {record.round}: the {why}. The search "
                "stops with the best ticket so far. A later `rewind_step` or a lower "
                "learning rate may carry it further."
            )
            return
        if record.round == 0:
            return
        self.rounds.add(
            trained, self._dense, trainer.monitor, self.engine.better(trainer.monitor)
        )

    @property
    def _dense(self) -> Any:
        return self.trainer.records[0]

    def _done(self) -> bool:
        if self.rounds.last is None:
            return False
        config, masks = self.config, self.rounds.last.masks
        if self.rounds.last.record.failure is not None:
            return True
        if config.rounds is not None and self.rounds.last.record.round >= config.rounds:
            return True
        target = (1 - config.target_sparsity) * masks_lib.size(masks)
        return masks_lib.kept(masks) <= target + 0.5

    def _prune(self, trained: Trained) -> Masks:
        rewind = self.trainer.weights_at("rewind")
        scores = self.criterion(
            {path: trained.weights[path] for path in self.paths},
            {path: rewind[path] for path in self.paths},
        )
        target = 1 - self.config.target_sparsity
        masks = pruning.prune(
            scores,
            trained.masks,
            plan_lib.fraction(trained.masks, self.config, done=trained.record.round),
            scope=self.config.scope,
            layer_fractions=self.config.layer_fractions,
            target_density=target,
        )
        left = masks_lib.kept(trained.masks)
        if masks_lib.kept(masks) < left or left == 1:
            return masks
        # The share of a small network rounds to no weight at all: it loses one.
        return pruning.prune(scores, masks, 1 / left, target_density=target)

    def _warn(self, text: str) -> None:
        warnings.warn(text, stacklevel=5)

    def _ticket(self, trained: Trained) -> Ticket:
        trainer = self.trainer
        records = {r.round: r for r in [*trainer.records, trained.record]}
        return Ticket(
            masks=trained.masks,
            initial=trainer.weights_at("initial"),
            rewind=trainer.weights_at("rewind"),
            trained=trained.weights,
            config=self.config,
            monitor=trainer.monitor or choose_monitor(trained.record.metrics),
            rounds=tuple(records.values()),
            round=trained.record.round,
            versions=library_versions(),
        )

    def _manifest(self) -> dict[str, Any]:
        trainer, model = self.trainer, self.engine.model
        weights = self.engine.weights()
        fractions = self.config.layer_fractions
        return {
            "config": self.config.to_dict(),
            "criterion": fingerprint.of_function(self.criterion),
            "architecture": architecture(weights),
            "training": fingerprint.of_training(model),
            "callbacks": [type(each).__name__ for each in trainer.callbacks],
            "ds": fingerprint.of_data(trainer.ds),
            "validation_data": fingerprint.of_data(trainer.validation_data),
            "network": fingerprint.of_network(model),
            "paths": list(weights),
            # What a pattern matches may hang on the numbers in Keras' names.
            "pruned": {
                name: pruning.fraction_of(path, fractions) or "as the others"
                for name, path in zip(canonical(weights), weights, strict=True)
                if path in trainer.paths
            },
        }
