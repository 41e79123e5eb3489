"""Recipes: the settings of the published experiments, as data."""

import dataclasses

from tflottery.lab.data.pipelines import flip_and_crop
from tflottery.lab.models import builder, unknown
from tflottery.lab.training import SGD, Adam, Recipe

_FRANKLE = "Frankle & Carbin 2019, figure 2"

_LENET = Recipe(
    name="frankle_lenet",
    source=_FRANKLE,
    model="lenet_300_100",
    dataset="mnist",
    batch_size=60,
    steps=50_000,
    optimizer=Adam(learning_rate=1.2e-3),
    validation=1 / 12,
    scope="layer",
    layer_fractions={"output": 0.1},
    target_sparsity=0.97,
)
_DIGITS = dataclasses.replace(
    _LENET,
    name="digits",
    source=f"{_FRANKLE}, made small",
    model="lenet_small",
    dataset="digits",
    steps=800,
    validation=0.2,
    target_sparsity=0.93,
    # One of the 288 validation images is 0.0035.
    tolerance=0.005,
)
_CONV2 = Recipe(
    name="frankle_conv2",
    source=_FRANKLE,
    model="conv2",
    dataset="cifar10",
    batch_size=60,
    steps=20_000,
    optimizer=Adam(learning_rate=2e-4),
    standardized=True,
    scope="layer",
    layer_fractions={"conv*": 0.1, "output": 0.1},
    target_sparsity=0.96,
)
_CONV4 = dataclasses.replace(
    _CONV2,
    name="frankle_conv4",
    model="conv4",
    steps=25_000,
    optimizer=Adam(learning_rate=3e-4),
    target_sparsity=0.95,
)
_CONV6 = dataclasses.replace(
    _CONV4,
    name="frankle_conv6",
    model="conv6",
    steps=30_000,
    layer_fractions={"conv*": 0.15, "output": 0.1},
)
_RESNET20 = Recipe(
    name="frankle_resnet20",
    source=f"{_FRANKLE} (Resnet-18 there)",
    model="resnet20",
    dataset="cifar10",
    batch_size=128,
    steps=30_000,
    optimizer=SGD(
        learning_rate=0.1, weight_decay=1e-4, drops=((2 / 3, 0.01), (5 / 6, 0.001))
    ),
    standardized=True,
    augment=flip_and_crop,
    # The paper also leaves the 2,560 weights of the shortcuts dense.
    skip=("output", "*_shortcut"),
)
# At this learning rate, a ticket of this network that starts at step 0 is no better
# than a random one (Frankle et al. 2020).
_REWOUND_RESNET20 = dataclasses.replace(
    _RESNET20,
    name="rewound_resnet20",
    source=f"{_RESNET20.source}, rewound as Frankle et al. 2020 did",
    rewind_step=1_000,
)
_VGG19 = dataclasses.replace(
    _RESNET20,
    name="frankle_vgg19",
    source=_FRANKLE,
    model="vgg19",
    batch_size=64,
    steps=112_000,
    optimizer=SGD(
        learning_rate=0.1, weight_decay=1e-4, drops=((1 / 2, 0.01), (3 / 4, 0.001))
    ),
    skip=("output",),
    target_sparsity=0.95,
)
_MEHTA_RESNET18 = dataclasses.replace(
    _RESNET20,
    name="mehta_resnet18",
    source="Mehta 2019, section 3",
    model="resnet18",
    # Drops at epochs 100 and 150 of 200.
    optimizer=SGD(
        learning_rate=5e-3, weight_decay=1e-4, drops=((1 / 2, 1e-3), (3 / 4, 1e-4))
    ),
    input_shape=(32, 32, 3),
    skip=("output",),
    retrain="fine_tune",
    target_sparsity=0.96,
    tolerance=0.005,
)
_MEHTA_VGG19 = dataclasses.replace(
    _MEHTA_RESNET18,
    name="mehta_vgg19",
    model="vgg19",
    batch_size=64,
    steps=112_000,
    optimizer=SGD(
        learning_rate=1e-2, weight_decay=1e-4, drops=((1 / 2, 1e-3), (3 / 4, 1e-4))
    ),
)
_RESNET6 = Recipe(
    name="resnet6",
    source="made for the study in docs/results/transfer.md",
    model="resnet6",
    dataset="cifar10",
    batch_size=128,
    steps=2_250,  # Six epochs.
    optimizer=SGD(learning_rate=0.2, weight_decay=5e-4, warmup=0.2),
    validation=0.04,
    standardized=True,
    input_shape=(32, 32, 3),
    augment=flip_and_crop,
    keep="last",
    skip=("output",),
    retrain="learning_rate",
    target_sparsity=0.95,
    tolerance=0.005,
)


def _target(source: Recipe, dataset: str, steps: int) -> Recipe:
    name = f"{source.name}_{dataset}"
    return dataclasses.replace(source, name=name, dataset=dataset, steps=steps)


RECIPES: dict[str, Recipe] = {
    entry.name: entry
    for entry in (
        _DIGITS,
        _LENET,
        _CONV2,
        _CONV4,
        _CONV6,
        _RESNET20,
        _REWOUND_RESNET20,
        _VGG19,
        _MEHTA_RESNET18,
        _target(_MEHTA_RESNET18, "fashion_mnist", 30_000),
        _target(_MEHTA_RESNET18, "smallnorb", 25_000),
        _MEHTA_VGG19,
        _target(_MEHTA_VGG19, "fashion_mnist", 112_000),
        _target(_MEHTA_VGG19, "smallnorb", 50_000),
        _RESNET6,
    )
}


def recipe(name: str) -> Recipe:
    """Returns the recipe of that name in `RECIPES`; ValueError if there is none."""
    if name not in RECIPES:
        raise ValueError(unknown("recipe", name, RECIPES))
    return RECIPES[name]


def recipe_for(model: str | None = None, dataset: str | None = None) -> Recipe:
    """Returns the first of `RECIPES` for a model and a dataset.

    If no recipe has both, it is the first for the model, or else for the dataset, with
    the other replaced.

    >>> recipe_for(model="conv2").name, recipe_for(dataset="mnist").name
    ('frankle_conv2', 'frankle_lenet')
    >>> other = recipe_for(model="conv2", dataset="fashion_mnist")
    >>> other.name, other.dataset
    ('frankle_conv2', 'fashion_mnist')
    """
    if model is not None:
        builder(model)
    known = RECIPES.values()
    # Of the best ones, the first.
    found = max(known, key=lambda r: 2 * (r.model == model) + (r.dataset == dataset))
    return dataclasses.replace(
        found, model=model or found.model, dataset=dataset or found.dataset
    )
