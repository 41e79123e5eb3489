"""Designs: the published comparisons."""

import dataclasses
from typing import Any, Literal

from tflottery.lab import recipes
from tflottery.lab.experiment.design import HEADS, METHODS, REGIMES, Design
from tflottery.lab.models import unknown
from tflottery.lab.training import SGD, Adam, Recipe


def design(name: str, preset: Literal["smoke", "cpu", "gpu", "paper"] | str) -> Design:
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
_SANITY = (
    "trained",
    "layer_shuffled",
    "initial",
    "reinitialized",
    "randomly_masked",
    "from_scratch",
    "trained_longer",
)
_MEHTA = recipes.recipe("mehta_resnet18")
_LENET = recipes.recipe("frankle_lenet")
_DIGITS = recipes.recipe("digits")
_RESNET6 = recipes.recipe("resnet6")


# The same setting for the network of the paper, in twenty epochs a round.
_RESNET18 = dataclasses.replace(
    _RESNET6,
    name="resnet18",
    model="resnet18",
    steps=7_500,
    optimizer=SGD(learning_rate=0.1, weight_decay=5e-4, warmup=0.2),
    precision="mixed_bfloat16",
)


def _targets(
    dataset: str, sizes: dict[int | None, int], source: Recipe = _RESNET6
) -> tuple[Recipe, ...]:
    """Returns a recipe for each number of images per class, with its steps."""
    return tuple(
        dataclasses.replace(
            source,
            name=f"{dataset}_{size or 'all'}",
            dataset=dataset,
            images_per_class=size,
            steps=steps,
            optimizer=SGD(learning_rate=0.05, weight_decay=5e-4, warmup=0.2),
            validation=0.1 if size else 0.04,
        )
        for size, steps in sizes.items()
    )


_TRANSFER = Design(
    name="sparse_transfer",
    preset="paper",
    shows="Tickets of one task reach the dense network's accuracy on another "
    "(Mehta 2019, section 4).",
    # θk is from Frankle et al. (2020, figure 5); Mehta has only θ0 and θT.
    source=dataclasses.replace(_MEHTA, rewind_step=1_000),
    targets=(recipes.recipe("mehta_resnet18_fashion_mnist"),),
    prunings=15,
    rounds=tuple(range(1, 16)),
    arms=("trained", "rewind", "initial", "reinitialized", "randomly_masked"),
    regimes=REGIMES,
    heads=HEADS,
)
_STUDY = dataclasses.replace(
    _TRANSFER,
    preset="cpu",
    source=_RESNET6,
    targets=_targets("fashion_mnist", {50: 200, 500: 540, None: 900}),
    prunings=6,
    rounds=tuple(range(1, 7)),
    arms=_SANITY,
    frozen_arms=("trained", "trained_longer"),
)
_NEAR_STUDY = dataclasses.replace(
    _TRANSFER,
    name="few_shot_transfer",
    preset="cpu",
    shows="With few labels, tickets of five classes of CIFAR-10 beat dense "
    "networks on the other five (T et al. 2022).",
    source=dataclasses.replace(_RESNET6, steps=1_128),
    targets=_targets("cifar10", {50: 160, 500: 432}),
    prunings=6,
    rounds=tuple(range(1, 7)),
    arms=_SANITY,
    frozen_arms=("trained", "trained_longer"),
    source_classes=(0, 1, 2, 3, 4),
    target_classes=(5, 6, 7, 8, 9),
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
    targets=(),
    prunings=16,
    rounds=tuple(range(1, 17)),
    arms=("initial", "reinitialized", "randomly_masked"),
    seeds=5,
)
# The rates drop, or rewinding the learning rate would rewind nothing.
_COST = Design(
    name="cost_accuracy",
    preset="cpu",
    shows="What a ticket costs, and what else the same training buys.",
    source=_changed(
        _LENET,
        name="cost_lenet",
        batch_size=128,
        steps=1_440,
        optimizer=SGD(learning_rate=5e-2, drops=((0.6, 5e-3), (0.8, 5e-4))),
        scope="global",
        layer_fractions={},
        rewind_step=144,
    ),
    targets=(),
    prunings=15,
    rounds=(7, 10, 13, 15),  # Sparsities of 80.5, 90.3, 95.2 and 97 %.
    arms=(),
    methods=METHODS,
    images=20_000,
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
        targets=(recipes.recipe("mehta_resnet18_smallnorb"),),
    ),
    dataclasses.replace(
        _TRANSFER,
        name="sparse_transfer_vgg19",
        source=dataclasses.replace(recipes.recipe("mehta_vgg19"), rewind_step=1_000),
        targets=(recipes.recipe("mehta_vgg19_fashion_mnist"),),
    ),
    _STUDY,
    _NEAR_STUDY,
    dataclasses.replace(
        _STUDY,
        preset="gpu",
        source=_RESNET18,
        targets=_targets(
            "fashion_mnist", {50: 400, 500: 1_080, None: 1_800}, _RESNET18
        ),
    ),
    dataclasses.replace(
        _NEAR_STUDY,
        preset="gpu",
        source=dataclasses.replace(_RESNET18, steps=3_760),
        targets=_targets("cifar10", {50: 320, 500: 864}, _RESNET18),
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
        targets=(
            _changed(
                _DIGITS,
                name="digits_5_to_9",
                steps=60,
                optimizer=Adam(learning_rate=5e-3),
            ),
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
        targets=(
            _changed(
                _LENET_SOURCE, name="lenet_fashion_mnist", dataset="fashion_mnist"
            ),
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
    _COST,
    dataclasses.replace(
        _COST,
        preset="smoke",
        source=_changed(
            _COST.source,
            dataset="digits",
            model="lenet_small",
            batch_size=60,
            steps=200,
            rewind_step=10,
        ),
        prunings=3,
        rounds=(2, 3),
        images=600,
    ),
    dataclasses.replace(
        _COST,
        name="cost_accuracy_conv",
        source=_changed(
            _COST.source,
            name="cost_conv4_narrow",
            model="conv4_narrow",
            dataset="cifar10",
            batch_size=64,
            steps=1_128,
            standardized=True,
            input_shape=(16, 16, 3),
            validation=0.1,
            rewind_step=141,
        ),
        images=10_000,
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
