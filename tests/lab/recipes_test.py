"""Recipes hold the settings of the papers, and fit the networks that they name."""

import functools
import pickle
import re

import pytest

from tflottery.core import plan
from tflottery.lab import models, recipes
from tflottery.lab.recipes import RECIPES
from tflottery.lab.training import SGD, Adam

SHAPES = {"digits": (8, 8, 1), "mnist": (28, 28, 1), "cifar10": (32, 32, 3)}


@pytest.mark.parametrize(
    ("name", "steps", "batch_size", "optimizer", "prune_fraction", "layer_fractions"),
    [
        ("frankle_lenet", 50_000, 60, Adam(learning_rate=1.2e-3), 0.2, (0.1,)),
        ("frankle_conv2", 20_000, 60, Adam(learning_rate=2e-4), 0.2, (0.1, 0.1)),
        ("frankle_conv4", 25_000, 60, Adam(learning_rate=3e-4), 0.2, (0.1, 0.1)),
        ("frankle_conv6", 30_000, 60, Adam(learning_rate=3e-4), 0.2, (0.15, 0.1)),
    ],
)
def test_frankle_and_carbins_table_is_here(
    name, steps, batch_size, optimizer, prune_fraction, layer_fractions
):
    recipe = RECIPES[name]
    assert (recipe.steps, recipe.batch_size) == (steps, batch_size)
    assert recipe.optimizer == optimizer
    assert recipe.prune_fraction == prune_fraction
    assert tuple(recipe.layer_fractions.values()) == layer_fractions
    assert recipe.layer_fractions["output"] == 0.1
    assert (recipe.scope, recipe.retrain, recipe.rewind_step) == ("layer", "rewind", 0)


@pytest.mark.parametrize(
    ("name", "steps", "batch_size", "rates"),
    [
        ("frankle_resnet20", 30_000, 128, (0.1, 0.01, 0.001)),
        ("frankle_vgg19", 112_000, 64, (0.1, 0.01, 0.001)),
        ("mehta_resnet18", 30_000, 128, (5e-3, 1e-3, 1e-4)),
        ("mehta_resnet18_smallnorb", 25_000, 128, (5e-3, 1e-3, 1e-4)),
        ("mehta_vgg19", 112_000, 64, (1e-2, 1e-3, 1e-4)),
        ("mehta_vgg19_smallnorb", 50_000, 64, (1e-2, 1e-3, 1e-4)),
    ],
)
def test_deep_networks_are_pruned_globally_and_never_in_the_output(
    name, steps, batch_size, rates
):
    recipe = RECIPES[name]
    assert (recipe.steps, recipe.batch_size) == (steps, batch_size)
    optimizer = recipe.optimizer
    assert isinstance(optimizer, SGD)
    assert (optimizer.momentum, optimizer.weight_decay) == (0.9, 1e-4)
    assert (optimizer.learning_rate, *(r for _, r in optimizer.drops)) == rates
    assert (recipe.scope, recipe.prune_fraction) == ("global", 0.2)
    assert "output" in recipe.skip
    assert recipe.augment is not None


@functools.cache
def kernel_paths(model, shape):
    layers = models.builder(model)(shape, 10).layers
    return [f"{layer.name}/kernel" for layer in layers if hasattr(layer, "kernel")]


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_patterns_match_weights_of_the_recipes_network(name):
    recipe = RECIPES[name]
    assert recipe.name == name
    shape = recipe.input_shape or SHAPES[recipe.dataset]
    paths = kernel_paths(recipe.model, shape)
    plan.check_patterns("skip", recipe.skip, paths)
    plan.check_patterns("layer_fractions", recipe.layer_fractions, paths)
    skipped = [p for p in paths if any(plan.matches(p, s) for s in recipe.skip)]
    assert ("output/kernel" in skipped) == (recipe.scope == "global")
    assert not any("conv" in path for path in skipped)


def test_every_published_model_has_a_recipe():
    known = {recipe.model for recipe in RECIPES.values()}
    assert known == set(models.MODELS) - {"conv4_narrow"}  # Of no paper.


def test_a_recipe_is_found_by_model_and_dataset():
    assert recipes.recipe_for() is not None
    assert recipes.recipe_for().name == "digits"
    assert (
        recipes.recipe_for("resnet18", "smallnorb")
        == (RECIPES["mehta_resnet18_smallnorb"])
    )
    assert recipes.recipe_for("vgg19", "cifar10").name == "frankle_vgg19"
    assert recipes.recipe_for(dataset="cifar10").name == "frankle_conv2"


def test_a_pair_without_a_recipe_takes_the_models_with_that_dataset():
    found = recipes.recipe_for("lenet_300_100", "fashion_mnist")
    assert (found.name, found.dataset) == ("frankle_lenet", "fashion_mnist")
    own = recipes.recipe_for(dataset="fruit")
    assert (own.model, own.dataset) == ("lenet_small", "fruit")


def test_an_unknown_name_lists_the_names_and_suggests_the_nearest():
    names = re.escape(", ".join(RECIPES))
    with pytest.raises(ValueError, match=f"{names}.*Did you mean 'frankle_conv6'"):
        recipes.recipe("frankle_conv66")
    with pytest.raises(ValueError, match=r"`model` must be one of.*'lenet'"):
        recipes.recipe_for("lenet", "mnist")


def test_recipes_can_be_sent_to_other_processes():
    for recipe in RECIPES.values():
        assert pickle.loads(pickle.dumps(recipe)) == recipe
