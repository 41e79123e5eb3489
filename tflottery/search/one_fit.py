"""Rewind: a callback that turns one tf_keras `fit` into a lottery-ticket search."""

import math
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tflottery.core import checks, criteria, plan, pruning
from tflottery.core import masks as masks_lib
from tflottery.core.config import LotteryConfig, check_criterion, choose_monitor
from tflottery.core.masks import Masks, Weights
from tflottery.core.records import Round, library_versions
from tflottery.engines import holding, network
from tflottery.engines.tfmot import held, state
from tflottery.engines.tfmot.imported import tf_keras
from tflottery.engines.tfmot.schedule import LotterySchedule
from tflottery.engines.tfmot.wrapper import wrappers_in
from tflottery.search import settling
from tflottery.ticket import Ticket


class RewindToInit(tf_keras.callbacks.Callback):
    """Prunes and rewinds between the rounds of a `LotterySchedule`, in a single `fit`.

    Wrap the model with `tfmot.sparsity.keras.prune_low_magnitude` and a
    `LotterySchedule`, which has an example. At step k the callback saves all state:
    weights, BatchNorm statistics, the optimizer's slots and its step counter. After
    each round it prunes the weights with the lowest scores for good and restores the
    rest to step k, so that learning-rate schedules start again there, too. This happens
    just before the next step: if a round ends with an epoch, other callbacks still see
    its trained network and can save it. Pruned weights are exactly zero after every
    step, in this `fit` and later, even after tfmot's `strip_pruning`.

    tfmot's `UpdatePruningStep` is not needed, but does no harm. A callback that sets
    weights at the end of `fit`, such as `EarlyStopping(restore_best_weights=True)`,
    must come before this one. If the process dies, the search starts again;
    `find_ticket(run_dir=...)` can resume.

    Args:
        schedule: The `LotterySchedule` to follow. By default the one that the model
            was wrapped with.
        scope: `"global"`, `"layer"` or `"erk"`; see `pruning.prune`.
        criterion: As in `find_ticket`: a name, or a function `(trained, rewind) ->
            scores` on dicts of arrays by path.
        layer_fractions: Other prune fractions for some layers, as `{"output": 0.1}`.
        settle: As in `find_ticket`: rounds end once their masks have settled. Only the
            dense and the last one train all `steps_per_round`, and `fit` ends then.
        verbose: 1 prints a line per round, 0 nothing; `"auto"` does as `fit` does.

    Attributes:
        ticket: The `Ticket` of the last round, once `fit` has ended.

    Raises:
        ValueError: At the start of `fit`, if the model is not wrapped with a
            `LotterySchedule`, or a round cannot end where the schedule says.
    """

    model: Any

    def __init__(
        self,
        schedule: LotterySchedule | None = None,
        *,
        scope: str = "global",
        criterion: str | Callable[[Weights, Weights], Weights] = "magnitude",
        layer_fractions: Mapping[str, float] | None = None,
        settle: float | None = None,
        verbose: str | int = "auto",
    ):
        super().__init__()
        LotteryConfig(settle=settle)  # Raises if it is out of range.
        self.settle = settle
        checks.choice("scope", scope, pruning.SCOPES)
        check_criterion(criterion)
        self.schedule = schedule
        self.scope = scope
        self.criterion = criterion
        self.layer_fractions = dict(layer_fractions or {})
        self.verbose = verbose
        self.ticket: Ticket | None = None
        # Logs are read once per round, so `fit` need not convert them at every step.
        self._supports_tf_logs = True
        self._searched: Any = None  # The model that is being searched.

    def on_train_begin(self, logs: Any = None) -> None:
        if self._searched is not self.model:
            self._begin()
        self._check_executions()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        schedule = self._schedule
        ended = self._settled or self._steps == schedule.steps_per_round
        if ended and self._round < schedule.rounds:
            self._next_round()
        if self._rewind is None and self._steps == schedule.rewind_step:
            self._rewind = network.read(state.parts(self.model))
        self._first_in_execution = batch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._steps += batch - self._first_in_execution + 1
        rounds, steps = self._schedule.rounds, self._schedule.steps_per_round
        if self._steps == steps:
            self._logs = dict(logs or {})
            if self.settle and self._round == rounds:
                self.model.stop_training = True  # Sooner than the epochs foresaw.
        elif self.settle and 0 < self._round < rounds:
            every = settling.interval(steps, masks_lib.size(self._held))
            if self._steps % every == 0:
                self._settled = settling.settles(
                    self._drawn, self._weights(), self._prune, self._held, self.settle
                )
            if self._settled:
                self._logs = dict(logs or {})

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        values = {name: float(value) for name, value in (logs or {}).items()}
        for name, value in values.items():
            self._history.setdefault(name, []).append(value)
        self._logs = values

    def on_train_end(self, logs: Any = None) -> None:
        # EarlyStopping, for one, may have restored the weights of an earlier round.
        self._hold(self._held)
        schedule = self._schedule
        done = sum(r.steps for r in self._records) + self._steps
        if self._round < schedule.rounds or self._steps < schedule.steps_per_round:
            warnings.warn(
                f"`fit` ended after {done} of the {schedule.total_steps} steps that "
                f"the search needs, in round {self._round} of {schedule.rounds}. Train "
                "for more `epochs`, or give LotterySchedule fewer `steps_per_round`.",
                stacklevel=2,
            )
        records = [*self._records, self._record()]
        self.ticket = self._make_ticket(records)
        self.model.ticket = self.ticket
        self._say(records[-1])

    def _begin(self) -> None:
        """Prepares the model for a search: its masks exist and are held."""
        model = self.model
        if getattr(model, "ticket", None) is not None:
            raise ValueError(
                f"`model` {model.name!r} already carries a ticket, whose masks are "
                "held. Call `tflottery.release(model)` first, or use a new model."
            )
        wrappers = [w for w in wrappers_in(model) if w.pruning_vars]
        self._schedule = _schedule_of(wrappers, self.schedule)
        masks = {id(w): m for x in wrappers for w, m, _ in x.pruning_vars}
        self._variables = network.variables(model)
        # What `find_ticket` prunes: tfmot wraps embeddings too.
        self._masks = {
            path: masks[id(variable)]
            for path, variable in network.prunable(model, tf_keras).items()
            if id(variable) in masks
        }
        plan.check_patterns("layer_fractions", self.layer_fractions, self._masks)
        holding.build_optimizer(model)
        for wrapper in wrappers_in(model):
            schedule: Any = wrapper.pruning_schedule
            schedule.followed = True
            if int(network.value_of(wrapper.pruning_step)) < 0:
                wrapper.pruning_step.assign(0)
            # The constraints hold the masks. tfmot would apply them again in every
            # forward pass, and under a strategy with one reduction per layer.
            in_step: Any = wrapper.pruning_obj
            in_step._pruning_vars = []
        for path, mask in self._masks.items():
            held.constrain(self._variables[path], mask)
        # `fit` has made its function before this callback, perhaps without the masks.
        model.make_train_function(force=True)
        self._hold(masks_lib.ones(self._weights()))
        # Raises before any training if the target cannot be reached.
        self._schedule.fraction(self._held, 0, self.layer_fractions)
        self._start = network.read(state.parts(model))
        self._rewind: Mapping[str, np.ndarray] | None = None
        self._records: list[Round] = []
        self._round = 0
        self._first_in_execution = 0
        self._start_round()
        self._searched = model

    def _start_round(self) -> None:
        self._steps = 0
        self._began = time.monotonic()
        self._settled, self._drawn = False, []
        self._history: dict[str, list[float]] = {}
        self._logs: dict[str, Any] = {}

    def _check_executions(self) -> None:
        """Checks that each round, and step k, ends where `fit` calls its callbacks."""
        schedule = self._schedule
        together = int(self.model.steps_per_execution.numpy())
        per_epoch = self.params.get("steps")
        if together == 1 and not self.model.autotune_steps_per_execution:
            return
        if self.settle:
            raise ValueError(
                "`settle` ends rounds at any step, so compile with "
                f"`steps_per_execution=1`. Received: steps_per_execution={together}"
            )
        for name, step in (
            ("steps_per_round", schedule.steps_per_round),
            ("rewind_step", schedule.rewind_step),
        ):
            # If these two end with an execution, every round does.
            whole = step % per_epoch if per_epoch else step
            if whole % together or self.model.autotune_steps_per_execution:
                raise ValueError(
                    f"`{name}` must be a multiple of the epoch's {per_epoch} steps, "
                    "or a multiple of the model's `steps_per_execution` after one: a "
                    "round can only end there. Compile with `steps_per_execution=1`, "
                    f"or change the LotterySchedule. Received: {name}={step}, "
                    f"steps_per_execution={together}"
                )

    def _next_round(self) -> None:
        """Ends the round: prunes it and rewinds everything else to step k."""
        model = self.model
        optimizer = model.optimizer
        if getattr(holding.optimizer_of(model), "use_ema", False):
            # As at the end of `fit`: the trained weights are the averages.
            optimizer.finalize_variable_values(model.trainable_variables)
        assert self._rewind is not None
        record = self._record()
        self._records.append(record)
        self._say(record)
        masks = self._prune(self._weights())
        for name, variable in state.parts(model).items():
            if name.startswith(("weights", "optimizer")):
                variable.assign(self._rewind[name])
        self._hold(masks)
        self._round += 1
        self._start_round()

    def _prune(self, weights: Weights) -> Masks:
        """Returns the masks that pruning these weights would give."""
        schedule, score = self._schedule, self.criterion
        score = score if callable(score) else criteria.CRITERIA[score]
        assert self._rewind is not None
        rewind = {p: self._rewind[f"weights/{p}"] for p in self._masks}
        return pruning.prune(
            score(weights, rewind),
            self._held,
            schedule.fraction(self._held, self._round, self.layer_fractions),
            scope=self.scope,
            layer_fractions=self.layer_fractions,
            target_density=schedule.target_density,
        )

    def _hold(self, masks: Masks) -> None:
        holding.hold(self.model, masks, held)
        self._held = masks

    def _weights(self) -> dict[str, np.ndarray]:
        return network.read({path: self._variables[path] for path in self._masks})

    def _record(self) -> Round:
        return Round(
            round=self._round,
            sparsity=masks_lib.sparsity(self._held),
            density_per_layer=masks_lib.density_per_layer(self._held),
            metrics={name: float(value) for name, value in self._logs.items()},
            history=self._history,
            steps=self._steps,
            settled=self._steps if self._settled else None,
            seconds=time.monotonic() - self._began,
        )

    def _make_ticket(self, records: list[Round]) -> Ticket:
        schedule = self._schedule

        def weights_at(captured: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {p: captured[f"weights/{p}"] for p in self._variables}

        steps = self.params.get("steps") or schedule.steps_per_round
        return Ticket(
            masks=self._held,
            initial=weights_at(self._start),
            rewind=weights_at(self._rewind or self._start),
            trained=network.read(self._variables),
            config=LotteryConfig(
                epochs=math.ceil(schedule.steps_per_round / steps),
                target_sparsity=schedule.target_sparsity,
                prune_fraction=schedule.prune_fraction,
                rounds=schedule.rounds,
                scope=self.scope,
                criterion=check_criterion(self.criterion),
                layer_fractions=self.layer_fractions,
                rewind_step=schedule.rewind_step,
                select="last",
                settle=self.settle,
            ),
            monitor=choose_monitor(records[-1].metrics),
            rounds=records,
            round=self._round,
            versions=library_versions(),
        )

    def _say(self, record: Round) -> None:
        verbose = self.params.get("verbose") if self.verbose == "auto" else self.verbose
        if verbose:
            left = 100 * (1 - record.sparsity)
            metrics = " - ".join(f"{n}: {v:.4f}" for n, v in record.metrics.items())
            print(f"\nround {record.round}: {left:.2f} % left - {metrics}")


def _schedule_of(wrappers: list, given: LotterySchedule | None) -> LotterySchedule:
    """Returns the schedule that all of the model's wrappers follow."""
    for wrapper in wrappers:
        schedule = wrapper.pruning_schedule
        if not isinstance(schedule, LotterySchedule):
            raise ValueError(
                f"The layer {wrapper.layer.name!r} is wrapped with a "
                f"{type(schedule).__name__}, whose masks would move. Call "
                "`prune_low_magnitude` with a `tflottery.LotterySchedule`."
            )
        if wrapper.sparsity_m_by_n or tuple(wrapper.block_size) != (1, 1):
            raise ValueError(
                f"The layer {wrapper.layer.name!r} is wrapped with `block_size` or "
                "`sparsity_m_by_n`, but a lottery ticket is pruned weight by weight. "
                "Call `prune_low_magnitude` without them."
            )
        given = given or schedule
        if schedule.get_config() != given.get_config():
            raise ValueError(
                f"The layer {wrapper.layer.name!r} is wrapped with another "
                f"LotterySchedule: {schedule.get_config()['config']} instead of "
                f"{given.get_config()['config']}. Use one schedule for all layers."
            )
    if given is None or not wrappers:
        raise ValueError(
            "`model` has no wrapped layer to prune. Wrap it first with "
            "`tfmot.sparsity.keras.prune_low_magnitude(model, schedule)`."
        )
    return given
