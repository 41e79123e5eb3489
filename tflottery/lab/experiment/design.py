"""Design: a comparison as data: networks, tasks and arms."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from tflottery.lab.data import datasets
from tflottery.lab.data.datasets import Images
from tflottery.lab.training import Recipe

TICKETS = ("trained", "rewind", "initial")
"""The arms that start from a ticket's own weights: θT, θk and θ0."""

CONTROLS = ("reinitialized", "randomly_masked", "layer_shuffled", "globally_shuffled")
"""The arms of `tflottery.controls` that a ticket is compared with."""

_SCRATCH = "from_scratch"  # The dense network with fresh weights.
_LONGER = "trained_longer"  # The dense network, trained as long as the last ticket.
REGIMES = ("fine_tuned", "frozen")
HEADS = ("linear", "two_layer")

SEARCHES: Mapping[str, Mapping[str, Any]] = {
    "ticket": {},
    "settle": {"settle": 0.1},
    "learning_rate_rewinding": {"retrain": "learning_rate"},
    "one_shot_rewound": {"rounds": 1},
    "one_shot_fine_tuned": {"rounds": 1, "retrain": "fine_tune"},
}
"""The methods that are searches, with their settings of `find_ticket`."""

METHODS = (*SEARCHES, "gradual", "gradual_twice", "ac_dc", "randomly_masked")
"""The methods whose accuracy and cost are compared; see `costs`."""


@dataclasses.dataclass(frozen=True)
class Search:
    """One search of a design: its name, number of prunings and last sparsity."""

    seed: int
    name: str
    prunings: int
    sparsity: float
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """One cell of a design: a network to train.

    Training starts from the `weights` `"trained"`, `"rewind"` or `"initial"`; for a
    control from `"fresh"`, or `"trained"` if it has the ticket's own weights; and for
    dense also from `"longer"`, the weights after the training of all rounds.
    """

    arm: str  # "ticket", "dense" or a name in `CONTROLS` or `METHODS`.
    weights: str
    round: int  # Round of the search that its masks come from; 0 is dense.
    seed: int  # Seed of its search, its order of the data and its head.
    regime: str = "fine_tuned"  # Or "frozen", if only the head trains.
    head: str = "linear"  # Or "two_layer".
    target: str | None = None  # Name of the target's recipe.

    @property
    def start(self) -> Any:
        """The weights of its ticket that it starts from, as for `Ticket.apply`."""
        return self.weights if self.weights in TICKETS else "trained"

    @property
    def name(self) -> str:
        """A unique name, for its folder."""
        folder = f"seed{self.seed}/{self.target}" if self.target else f"seed{self.seed}"
        return (
            f"{folder}/round{self.round:02d}-{self.arm}-{self.weights}-"
            f"{self.regime}-{self.head}"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Design:
    """A comparison: a search on a source task, and arms trained on target tasks.

    Each pruning keeps the same share of the remaining weights, down to the source's
    `target_sparsity`. Without a target, the arms are trained like the source, on the
    same task with the same head.
    """

    name: str  # As in `tflottery reproduce NAME`.
    preset: str = "own"  # "smoke", "cpu", "gpu" or "paper".
    shows: str = ""  # The claim that it tests, in one sentence.
    source: Recipe  # How tickets are searched for.
    targets: tuple[Recipe, ...]  # How the arms are trained; `()` is like the source.
    prunings: int  # How often to prune, at least 1.
    rounds: tuple[int, ...]  # Rounds to compare at, from 1 to `prunings`.
    # Besides dense: names in `TICKETS` and `CONTROLS`, "from_scratch" and
    # "trained_longer".
    arms: tuple[str, ...]
    regimes: tuple[str, ...] = ("fine_tuned",)
    heads: tuple[str, ...] = ("linear",)
    # If given, the arms of the frozen regime; only there has each head its cells.
    frozen_arms: tuple[str, ...] | None = None
    seeds: int = 3  # Default number of seeds.
    images: int | None = None  # Most training images of each task; `None` is all.
    methods: tuple[str, ...] = ()  # Names in `METHODS`, compared instead of the arms.
    one_shot: bool = False  # Prunes to each density at once, from the dense network.
    source_classes: tuple[int, ...] | None = None  # Those that make up the task.
    target_classes: tuple[int, ...] | None = None

    def __post_init__(self):
        for name, known in (
            ("arms", (*TICKETS, *CONTROLS, _SCRATCH, _LONGER)),
            ("frozen_arms", (*TICKETS, *CONTROLS, _SCRATCH, _LONGER)),
            ("regimes", REGIMES),
            ("heads", HEADS),
            ("methods", METHODS),
            ("rounds", range(1, self.prunings + 1)),
        ):
            for value in getattr(self, name) or ():
                if value not in known:
                    raise ValueError(
                        f"Each of `{name}` must be one of "
                        f"{', '.join(map(str, known))}. Received: {value!r}"
                    )
        if "rewind" in self.arms and not self.source.rewind_step:
            raise ValueError(
                "`arms` has 'rewind' (θk), but `source` has rewind_step=0, which makes "
                "it equal to 'initial' (θ0). Leave it out, or set a `rewind_step`."
            )
        longer = _LONGER in (*self.arms, *(self.frozen_arms or ()))
        if longer and (self.source.retrain == "rewind" or not self.targets):
            raise ValueError(
                f"`arms` has {_LONGER!r}, which needs targets and a `source` whose "
                "rounds go on from the last weights. Leave it out, or set "
                "retrain='learning_rate' or 'fine_tune' and `targets`. Received: "
                f"retrain={self.source.retrain!r}, {len(self.targets)} targets"
            )

    def density(self, round_number: int) -> float:
        """Returns the density that a round is pruned to, before rounding."""
        target = 1 - self.source.target_sparsity
        return target ** (round_number / self.prunings)

    def target(self, name: str | None) -> Recipe | None:
        """Returns the target of that name; `None` for the source itself."""
        return {recipe.name: recipe for recipe in self.targets}.get(name or "")

    def images_of(self, target: Recipe | None, data_dir: Any) -> Images:
        """Returns the images of a target or, without one, of the source."""
        images = datasets.load((target or self.source).dataset, data_dir=data_dir)
        classes = self.target_classes if target else self.source_classes
        return images.of_classes(classes).limited(self.images)

    def searches(self, seed: int) -> list[Search]:
        """Returns the searches of a seed."""
        if self.methods:
            return [
                self._search(seed, name, end)
                for name in SEARCHES
                if name in (*self.methods, "ticket")
                for end in self._ends(name)
            ]
        if not self.one_shot:
            sparsity = self.source.target_sparsity
            return [Search(seed, f"seed{seed}", self.prunings, sparsity)]
        return [
            Search(seed, f"seed{seed}-once{number:02d}", 1, 1 - self.density(number))
            for number in self.rounds
        ]

    def ticket(self, seed: int, round_number: int) -> str:
        """Returns the path of a round's ticket, relative to the searches."""
        if self.methods:
            return self.ticket_of("ticket", seed, round_number)
        if not self.one_shot:
            return f"seed{seed}/rounds/{round_number:03d}.ticket"
        once = round_number or self.rounds[0]
        return f"seed{seed}-once{once:02d}/rounds/{min(round_number, 1):03d}.ticket"

    def ticket_of(self, method: str, seed: int, round_number: int) -> str:
        """Returns the path of what a method that is a search found."""
        end = min(e for e in self._ends(method) if e >= round_number)
        found = self._search(seed, method, end)
        return f"{found.name}/rounds/{min(round_number, found.prunings):03d}.ticket"

    def _ends(self, method: str) -> tuple[int, ...]:
        """Returns the rounds that a method needs a search of its own for."""
        settings = SEARCHES[method]  # Only the last round of a search need be whole.
        own = "rounds" in settings or "settle" in settings
        return self.rounds if own else (self.prunings,)

    def _search(self, seed: int, method: str, end: int) -> Search:
        settings = SEARCHES[method]
        return Search(
            seed,
            f"seed{seed}-{method}{end:02d}",
            settings.get("rounds", end),
            1 - self.density(end),
            settings,
        )

    def trials(self, seed: int) -> Iterator[Trial]:
        """Yields the cells of a seed, grouped by the compiled model that they share."""
        if self.methods:
            start = "rewind" if self.source.rewind_step else "initial"
            yield Trial(arm="dense", weights="initial", round=0, seed=seed)
            for method, number in itertools.product(self.methods, self.rounds):
                yield Trial(arm=method, weights=start, round=number, seed=seed)
            return
        names = [recipe.name for recipe in self.targets] or [None]
        for regime, head, target in itertools.product(self.regimes, self.heads, names):
            arms = self.arms
            if self.frozen_arms is not None and regime == "frozen":
                arms = self.frozen_arms
            elif self.frozen_arms is not None and head != self.heads[0]:
                continue
            more: dict[str, Any] = {"seed": seed, "regime": regime, "head": head}
            more["target"] = target
            start = "trained" if self.targets else "initial"
            yield Trial(arm="dense", weights=start, round=0, **more)
            if _SCRATCH in arms:
                yield Trial(arm="dense", weights="fresh", round=0, **more)
            if _LONGER in arms:
                yield Trial(arm="dense", weights="longer", round=0, **more)
            for number, arm in itertools.product(self.rounds, arms):
                if arm in (_SCRATCH, _LONGER):
                    continue
                if arm in TICKETS:
                    yield Trial(arm="ticket", weights=arm, round=number, **more)
                else:
                    own = "trained" if arm == "layer_shuffled" else "fresh"
                    yield Trial(arm=arm, weights=own, round=number, **more)
