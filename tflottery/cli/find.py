"""find: searches for a winning ticket in a published network, on real images."""

import argparse
import dataclasses
import itertools
import pathlib
from typing import Any

from tflottery.cli import flags
from tflottery.cli.report import print_report_of
from tflottery.core import config, criteria, files, pruning


def _verbosity(text: str) -> str | int:
    return text if text == "auto" else int(text)


# Flags that set the arguments of `find_ticket` of the same names.
_SETTINGS: dict[str, dict[str, Any]] = {
    "epochs": {"type": int, "metavar": "N"},
    "rounds": {"type": int, "metavar": "N"},
    "target_sparsity": {"type": float, "metavar": "SHARE"},
    "prune_fraction": {"type": float, "metavar": "SHARE"},
    "rewind_step": {"type": int, "metavar": "N"},
    "tolerance": {"type": float, "metavar": "X"},
    "settle": {"type": float, "metavar": "X"},
    "monitor": {"metavar": "METRIC"},
    "seed": {"type": flags.at_least(0), "metavar": "N", "default": 0},
    "criterion": {"choices": tuple(criteria.CRITERIA)},
    "retrain": {"choices": config.RETRAIN},
    "scope": {"choices": pruning.SCOPES},
    "select": {"choices": config.SELECT},
    "verbose": {"choices": ("auto", 0, 1, 2), "type": _verbosity, "default": "auto"},
}


def define(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s [--flag=value ...]"
    flags.define_recipe(parser, list_names=True)
    text = "keep the run here, or resume it; default: runs/find_001, ..."
    parser.add_argument("--run_dir", metavar="DIR", help=text)
    parser.add_argument("--dry_run", action="store_true", help="only print the cost")
    # One line for each would not fit on a screen.
    settings = parser.add_argument_group(
        "arguments of `find_ticket`, instead of the recipe's",
        " ".join(map(_shown, _SETTINGS)),
    )
    for name, options in _SETTINGS.items():
        settings.add_argument(f"--{name}", help=argparse.SUPPRESS, **options)


def _shown(name: str) -> str:
    options = _SETTINGS[name]
    choices = "|".join(map(str, options.get("choices", ())))
    return f"--{name}={choices or options['metavar']}"


def find(arguments: argparse.Namespace) -> None:
    """Finds a winning ticket in a published network.

    By default: LeNet on digits.
    """
    from tflottery import estimate_cost, find_ticket, load_ticket
    from tflottery.lab import training
    from tflottery.lab.data import datasets, pipelines

    recipe = flags.recipe(arguments)
    run_dir = arguments.run_dir or free_folder()
    folder = files.path_of(run_dir, "run_dir")
    images = datasets.load(recipe.dataset, data_dir=arguments.data_dir)
    seed, size = arguments.seed, recipe.batch_size
    data = recipe.arrays(images, seed=seed)
    if arguments.epochs is not None:
        steps = arguments.epochs * -(-len(data.train[0]) // size)
        recipe = dataclasses.replace(recipe, steps=max(steps, 1))
    settings = recipe.search_settings(len(data.train[0])) | {
        name: getattr(arguments, name)
        for name in _SETTINGS
        if getattr(arguments, name) is not None
    }
    fields = {field.name for field in dataclasses.fields(config.LotteryConfig)}
    # Checks the flags before a folder is named for them.
    config.LotteryConfig(**{n: v for n, v in settings.items() if n in fields})
    model = training.compile_model(recipe.build(images, seed=seed), recipe)
    train = pipelines.train_pipeline(
        *data.train, batch_size=size, seed=seed, augment=recipe.augment
    )
    settings |= {"validation_data": data.validation, "validation_batch_size": 512}
    if arguments.dry_run:
        print(f"A search would take {estimate_cost(model, train, **settings)}.")
        return

    epochs = settings["epochs"]
    print(
        f"{recipe.model} on {recipe.dataset} ({recipe.source}): "
        f"{len(data.train[0]):,} training, {len(data.validation[0]):,} validation and "
        f"{len(data.test[0]):,} test images; {epochs} epoch{'s' * (epochs != 1)} per "
        f"round.\nThe run is kept in {run_dir}; to resume it after a stop, pass "
        f"--run_dir={run_dir}."
    )
    model = find_ticket(model, train, run_dir=run_dir, **settings)
    model.ticket.summary()

    dense = training.compile_model(recipe.build(images, seed=0), recipe)
    load_ticket(folder / "rounds" / "000.ticket").apply(dense)
    dense_accuracy, sparse_accuracy = (
        100 * network.evaluate(*data.test, 512, verbose=0, return_dict=True)["accuracy"]
        for network in (dense, model)
    )
    print(
        f"Test accuracy: dense {dense_accuracy:.2f} %, ticket with "
        f"{100 * model.ticket.density:.1f} % of the weights {sparse_accuracy:.2f} %.\n"
        f"Ticket: {run_dir}/ticket.safetensors"
    )
    if isinstance(folder, pathlib.Path):
        model.save(folder / "model.keras")
        print(f"Model, for `tflottery export`: {run_dir}/model.keras")
    print_report_of(run_dir)


def free_folder() -> str:
    """Returns the first of runs/find_001, runs/find_002, ... that does not exist."""
    folders = map("runs/find_{:03d}".format, itertools.count(1))
    return next(folder for folder in folders if not files.path_of(folder).exists())
