"""Designs: the published comparisons as data: networks, tasks and arms."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any, Literal

from tflottery.lab import recipes
from tflottery.lab.models import unknown
from tflottery.lab.training import SGD, Adam, Recipe

TICKETS = ("trained", "rewind", "initial")
"""The arms that start from a ticket's own weights: θT, θk and θ0."""

CONTROLS = ("reinitialized", "randomly_masked", "layer_shuffled", "globally_shuffled")
"""The arms of `tflottery.controls` that a ticket is compared with."""

REGIMES = ("fine_tuned", "frozen")
HEADS = ("linear", "two_layer")


@dataclasses.dataclass(frozen=True)
class Search:
    """One search of a design: its name, number of prunings and last sparsity."""

    seed: int
    name: str
    prunings: int
    sparsity: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """One cell of a design: a network to train.

    Training starts from the `weights` `"trained"`, `"rewind"` or `"initial"`; for a
    control from `"fresh"`, or `"trained"` if it has the ticket's own weights.
    """

    arm: str  # "ticket", "dense" or a name in `CONTROLS`.
    weights: str
    round: int  # Round of the search that its masks come from; 0 is dense.
    seed: int  # Seed of its search, its order of the data and its head.
    regime: str = "fine_tuned"  # Or "frozen", if only the head trains.
    head: str = "linear"  # Or "two_layer".

    @property
    def name(self) -> str:
        """A unique name, for its folder."""
        return (
            f"seed{self.seed}/round{self.round:02d}-{self.arm}-{self.weights}-"
            f"{self.regime}-{self.head}"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Design:
    """A comparison: a search on a source task, and arms trained on a target task.

    Each pruning keeps the same share of the remaining weights, down to the source's
    `target_sparsity`. Without a target, the arms are trained like the source, on the
    same task with the same head.
    """

    name: str  # As in `tflottery reproduce NAME`.
    preset: str  # "smoke", "cpu" or "paper".
    shows: str  # The claim that it tests, in one sentence.
    source: Recipe  # How tickets are searched for.
    target: Recipe | None  # How the arms are trained.
    prunings: int  # How often to prune, at least 1.
    rounds: tuple[int, ...]  # Rounds to compare at, from 1 to `prunings`.
    arms: tuple[str, ...]  # Names in `TICKETS` and `CONTROLS`, besides dense.
    regimes: tuple[str, ...] = ("fine_tuned",)
    heads: tuple[str, ...] = ("linear",)
    seeds: int = 3  # Default number of seeds.
    images: int | None = None  # Most training images of each task; `None` is all.
    one_shot: bool = False  # Prunes to each density at once, from the dense network.
    source_classes: tuple[int, ...] | None = None  # Those that make up the task.
    target_classes: tuple[int, ...] | None = None

    def __post_init__(self):
        for name, known in (
            ("arms", (*TICKETS, *CONTROLS)),
            ("regimes", REGIMES),
            ("heads", HEADS),
            ("rounds", range(1, self.prunings + 1)),
        ):
            for value in getattr(self, name):
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

    def density(self, round_number: int) -> float:
        """Returns the density that a round is pruned to, before rounding."""
        target = 1 - self.source.target_sparsity
        return target ** (round_number / self.prunings)

    def searches(self, seed: int) -> list[Search]:
        """Returns the searches of a seed."""
        if not self.one_shot:
            sparsity = self.source.target_sparsity
            return [Search(seed, f"seed{seed}", self.prunings, sparsity)]
        return [
            Search(seed, f"seed{seed}-once{number:02d}", 1, 1 - self.density(number))
            for number in self.rounds
        ]

    def ticket(self, seed: int, round_number: int) -> str:
        """Returns the path of a round's ticket, relative to the searches."""
        if not self.one_shot:
            return f"seed{seed}/rounds/{round_number:03d}.ticket"
        once = round_number or self.rounds[0]
        return f"seed{seed}-once{once:02d}/rounds/{min(round_number, 1):03d}.ticket"

    def trials(self, seed: int) -> Iterator[Trial]:
        """Yields the cells of a seed, grouped by the compiled model that they share."""
        for regime, head in itertools.product(self.regimes, self.heads):
            more: dict[str, Any] = {"seed": seed, "regime": regime, "head": head}
            start = "initial" if self.target is None else "trained"
            yield Trial(arm="dense", weights=start, round=0, **more)
            for number, arm in itertools.product(self.rounds, self.arms):
                if arm in TICKETS:
                    yield Trial(arm="ticket", weights=arm, round=number, **more)
                else:
                    own = "trained" if arm == "layer_shuffled" else "fresh"
                    yield Trial(arm=arm, weights=own, round=number, **more)


def design(name: str, preset: Literal["smoke", "cpu", "paper"] | str) -> Design:
    """Returns a design in `DESIGNS`; ValueError if there is none, or no such preset.

    >>> design("lenet_mnist", "smoke").source.dataset
    'digits'
    """
    if name not in DESIGNS:
        raise ValueError(unknown("name", name, DESIGNS))
    if preset not in DESIGNS[name]:
        raise ValueError(unknown("preset", preset, DESIGNS[name]))
    return DESIGNS[name][preset]


def _changed(recipe: Recipe, **changes: Any) -> Recipe:
    """Returns a recipe with other settings, marked as changed from its source."""
    return dataclasses.replace(recipe, source=f"{recipe.source}, made small", **changes)


_WITHOUT_REWIND = ("trained", "initial", "reinitialized", "randomly_masked")
_MEHTA = recipes.recipe("mehta_resnet18")
_LENET = recipes.recipe("frankle_lenet")
_DIGITS = recipes.recipe("digits")
_SMALL_RESNET = _changed(
    _MEHTA,
    name="mehta_resnet20_narrow",
    model="resnet20_narrow",
    input_shape=(16, 16, 3),
    augment=None,
    batch_size=64,
    steps=705,
    # At most a tenth of the paper's steps, so ten times its first learning rate.
    optimizer=SGD(
        learning_rate=5e-2, weight_decay=1e-4, drops=((0.5, 5e-3), (0.75, 5e-4))
    ),
    retrain="learning_rate",
    target_sparsity=0.95,
)

_TRANSFER = Design(
    name="sparse_transfer",
    preset="paper",
    shows="Tickets of one task reach the dense network's accuracy on another "
    "(Mehta 2019, section 4).",
    # θk is from Frankle et al. (2020, figure 5); Mehta has only θ0 and θT.
    source=dataclasses.replace(_MEHTA, rewind_step=1_000),
    target=recipes.recipe("mehta_resnet18_fashion_mnist"),
    prunings=15,
    rounds=tuple(range(1, 16)),
    arms=("trained", "rewind", "initial", "reinitialized", "randomly_masked"),
    regimes=REGIMES,
    heads=HEADS,
)
_LENET_SOURCE = _changed(
    _LENET, name="lenet_transfer", batch_size=128, steps=1_290, target_sparsity=0.97
)
_FRANKLE = Design(
    name="lenet_mnist",
    preset="paper",
    shows="Tickets trained again from θ0 reach the dense network's accuracy; "
    "re-initialized ones do not (Frankle & Carbin 2019, figures 3 and 4).",
    source=_LENET,
    target=None,
    prunings=16,
    rounds=tuple(range(1, 17)),
    arms=("initial", "reinitialized", "randomly_masked"),
    seeds=5,
)
_CONV = dataclasses.replace(
    _FRANKLE,
    name="conv_cifar10",
    shows="Tickets of convolutional networks beat the dense network "
    "(Frankle & Carbin 2019, figure 5).",
    source=recipes.recipe("frankle_conv4"),
    prunings=14,
    rounds=tuple(range(1, 15)),
)

DESIGNS: dict[str, dict[str, Design]] = {}
for _design in (
    _TRANSFER,
    dataclasses.replace(
        _TRANSFER,
        name="sparse_transfer_norb",
        target=recipes.recipe("mehta_resnet18_smallnorb"),
    ),
    dataclasses.replace(
        _TRANSFER,
        name="sparse_transfer_vgg19",
        source=dataclasses.replace(recipes.recipe("mehta_vgg19"), rewind_step=1_000),
        target=recipes.recipe("mehta_vgg19_fashion_mnist"),
    ),
    dataclasses.replace(
        _TRANSFER,
        preset="cpu",
        source=_SMALL_RESNET,
        target=_changed(
            _SMALL_RESNET,
            name="mehta_resnet20_narrow_fashion_mnist",
            dataset="fashion_mnist",
        ),
        prunings=8,
        rounds=tuple(range(1, 9)),
        arms=_WITHOUT_REWIND,
        regimes=("fine_tuned",),
        heads=("linear",),
        images=10_000,
    ),
    dataclasses.replace(
        _TRANSFER,
        preset="smoke",
        shows="Tickets of the digits 0 to 4 on the digits 5 to 9.",
        source=_changed(
            _DIGITS,
            name="digits_0_to_4",
            steps=150,
            target_sparsity=0.9,
            rewind_step=20,
        ),
        target=_changed(
            _DIGITS,
            name="digits_5_to_9",
            steps=60,
            optimizer=Adam(learning_rate=5e-3),
        ),
        prunings=4,
        rounds=(2, 4),
        seeds=2,
        source_classes=(0, 1, 2, 3, 4),
        target_classes=(5, 6, 7, 8, 9),
    ),
    dataclasses.replace(
        _TRANSFER,
        name="lenet_transfer",
        preset="cpu",
        shows="Tickets of LeNet-300-100 on MNIST reach the dense network's accuracy on "
        "FashionMNIST.",
        source=_LENET_SOURCE,
        target=_changed(
            _LENET_SOURCE, name="lenet_fashion_mnist", dataset="fashion_mnist"
        ),
        prunings=9,
        rounds=tuple(range(1, 10)),
        arms=_WITHOUT_REWIND,
        regimes=("fine_tuned",),
        heads=("linear",),
        seeds=5,
    ),
    _FRANKLE,
    dataclasses.replace(
        _FRANKLE,
        preset="cpu",
        source=_changed(_LENET, steps=4_600),
        prunings=9,
        rounds=tuple(range(1, 10)),
        seeds=3,
    ),
    dataclasses.replace(
        _FRANKLE,
        preset="smoke",
        source=_changed(_DIGITS, steps=200),
        prunings=3,
        rounds=(1, 2, 3),
        seeds=2,
    ),
    _CONV,
    dataclasses.replace(
        _CONV,
        preset="cpu",
        source=_changed(
            recipes.recipe("frankle_conv2"), steps=850, target_sparsity=0.95
        ),
        prunings=5,
        rounds=tuple(range(1, 6)),
        images=10_000,
        seeds=3,
    ),
    dataclasses.replace(
        _CONV,
        preset="smoke",
        source=_changed(
            recipes.recipe("frankle_conv2"),
            dataset="digits",
            steps=40,
            target_sparsity=0.8,
        ),
        prunings=2,
        rounds=(1, 2),
        seeds=2,
    ),
):
    DESIGNS.setdefault(_design.name, {})[_design.preset] = _design
DESIGNS["sparse_transfer_one_shot"] = {
    preset: dataclasses.replace(_design, name="sparse_transfer_one_shot", one_shot=True)
    for preset, _design in DESIGNS["sparse_transfer"].items()
}
