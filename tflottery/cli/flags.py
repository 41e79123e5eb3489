"""Flags that several commands share: the recipe, its data, and counts."""

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any

from tflottery.lab import models, recipes
from tflottery.lab.data import datasets


def define_recipe(parser: Any, *, list_names: bool = False) -> None:
    """Defines the flags that choose a recipe and its data, in a parser or a group.

    The help lists all names, or else refers to that of `find`.
    """
    for name, what, known in (
        ("--recipe", "experiment", recipes.RECIPES),
        ("--model", "network", models.MODELS),
        ("--dataset", "images", datasets.SOURCES),
    ):
        hint = f"{what}; `tflottery find --help` lists them"
        text = ", ".join(known) if list_names else hint
        parser.add_argument(name, metavar="NAME", help=text)
    text = "folder of NAME.npz, or of TensorFlow Datasets"
    parser.add_argument("--data_dir", metavar="DIR", help=text)


def recipe(arguments: argparse.Namespace) -> Any:
    """Returns the recipe that `--recipe`, `--model` and `--dataset` choose."""
    given = {"model": arguments.model, "dataset": arguments.dataset}
    if arguments.recipe is None:
        return recipes.recipe_for(**given)
    changed = {name: value for name, value in given.items() if value}
    return dataclasses.replace(recipes.recipe(arguments.recipe), **changed)


def at_least(low: int) -> Callable[[str], int]:
    """Returns a parser of whole numbers from `low` up."""

    def number(text: str) -> int:
        if int(text) < low:
            raise argparse.ArgumentTypeError(f"must be at least {low}: {text!r}")
        return int(text)

    return number
