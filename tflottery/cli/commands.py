"""Commands: what each word after `tflottery` does, in terms of the public API."""

import dataclasses
import importlib.util
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from absl import flags

from tflottery.cli.main import Command, UsageError
from tflottery.core import config, criteria, files, pruning
from tflottery.search import run_dir as run_dir_lib


def define_recipe(values: flags.FlagValues) -> None:
    """Defines the flags that name a recipe and its data."""
    from tflottery.lab import models, recipes
    from tflottery.lab.data import datasets

    for name, text in (
        ("recipe", f"{_any_of(recipes.RECIPES)}; --model and --dataset find one too."),
        ("model", f"{_any_of(models.MODELS)}."),
        ("dataset", f"{_any_of(datasets.SOURCES)}, or NAME for data_dir/NAME.npz."),
        ("data_dir", "Where the dataset is: NAME.npz, or a TFDS directory."),
    ):
        flags.DEFINE_string(name, None, text, flag_values=values)
    flags.DEFINE_integer(
        "seed", 0, "What makes two runs alike.", flag_values=values, lower_bound=0
    )


def _any_of(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}"


def _define_find(values: flags.FlagValues) -> None:
    def string(name: str, text: str) -> None:
        flags.DEFINE_string(name, None, text, flag_values=values)

    def number(name: str, text: str) -> None:
        flags.DEFINE_float(name, None, text, flag_values=values)

    def count(name: str, text: str) -> None:
        flags.DEFINE_integer(name, None, text, flag_values=values)

    def choice(name: str, choices: Sequence[str], text: str) -> None:
        flags.DEFINE_enum(name, None, list(choices), text, flag_values=values)

    define_recipe(values)
    string(
        "run_dir",
        "Where to keep the run; a run that is there goes on. By default the first free "
        "of runs/find_001, runs/find_002, ...",
    )
    string("monitor", "The metric that tells a winning ticket.")
    count("epochs", "Epochs of a round, in place of the recipe's steps.")
    count("rounds", "How many times to prune; the fraction follows.")
    count("rewind_step", "The optimizer step to rewind to.")
    number("target_sparsity", "The share of weights to prune in the end, in (0, 1).")
    number("prune_fraction", "The share of the rest to prune each round, in (0, 1).")
    number("tolerance", "How much worse than dense a winning ticket may be.")
    choice("scope", pruning.SCOPES, "What is ranked together.")
    choice("criterion", tuple(criteria.CRITERIA), "What tells the weights to keep.")
    choice("retrain", config.RETRAIN, "What goes back to the rewind step.")
    choice("select", config.SELECT, "Which round's ticket to return.")
    flags.DEFINE_boolean(
        "dry_run", False, "Only tell what the search would take.", flag_values=values
    )
    flags.DEFINE_enum(
        "verbose",
        "auto",
        ["auto", "0", "1", "2"],
        "What to print while a round trains, as Keras.",
        flag_values=values,
    )


def chosen_recipe(values: Any) -> Any:
    """Returns the recipe that --recipe, --model and --dataset ask for."""
    from tflottery.lab import recipes

    if values.recipe is None:
        return recipes.recipe_for(values.model, values.dataset)
    recipe = recipes.recipe(values.recipe)
    given = {"model": values.model, "dataset": values.dataset}
    return dataclasses.replace(recipe, **{k: v for k, v in given.items() if v})


def find(values: Any, arguments: Sequence[str]) -> None:
    """Finds a winning ticket in a published network on real images.

    Without a flag: a small LeNet on the handwritten digits that scikit-learn brings,
    which takes less than two minutes.
    """
    del arguments
    from tflottery import estimate_cost, find_ticket, load_ticket
    from tflottery.lab import training
    from tflottery.lab.data import datasets, pipelines

    recipe = chosen_recipe(values)
    images = datasets.load(recipe.dataset, data_dir=values.data_dir)
    data = recipe.arrays(images, seed=values.seed)
    size = recipe.batch_size
    if values.epochs is not None:
        steps = values.epochs * -(-len(data.train[0]) // size)
        recipe = dataclasses.replace(recipe, steps=max(steps, 1))
    settings = recipe.search_settings(len(data.train[0])) | {
        key: getattr(values, key)
        for key in (
            "epochs",
            "rounds",
            "rewind_step",
            "target_sparsity",
            "tolerance",
            "prune_fraction",
            "scope",
            "criterion",
            "retrain",
            "select",
            "monitor",
        )
        if getattr(values, key) is not None
    }
    run_dir = values.run_dir or _free("runs/find_{:03d}")
    model = training.compile_model(recipe.build(images, seed=values.seed), recipe)
    train = pipelines.train_pipeline(
        *data.train, batch_size=size, seed=values.seed, augment=recipe.augment
    )
    validation = pipelines.eval_pipeline(*data.validation, batch_size=512)
    settings |= {"validation_data": validation, "seed": values.seed}
    if values.dry_run:
        print(f"A search would take {estimate_cost(model, train, **settings)}.")
        return
    print(
        f"{recipe.model} on {recipe.dataset} ({recipe.source}): "
        f"{len(data.train[0]):,} training, {len(data.validation[0]):,} validation and "
        f"{len(data.test[0]):,} test images; {_epochs(settings['epochs'])} a round.\n"
        f"Kept in {run_dir}; after a stop, go on with --run_dir={run_dir}."
    )
    model = find_ticket(
        model,
        train,
        run_dir=run_dir,
        verbose=values.verbose if values.verbose == "auto" else int(values.verbose),
        **settings,
    )
    model.ticket.summary()
    test = pipelines.eval_pipeline(*data.test, batch_size=512)
    sparse = model.evaluate(test, verbose=0, return_dict=True)["accuracy"]
    dense_model = training.compile_model(recipe.build(images, seed=0), recipe)
    folder = files.path_of(run_dir)
    load_ticket(folder / "rounds" / "000.ticket").apply(dense_model)
    dense = dense_model.evaluate(test, verbose=0, return_dict=True)["accuracy"]
    print(
        f"Test accuracy: dense {100 * dense:.2f} %, ticket with "
        f"{100 * model.ticket.density:.1f} % of the weights {100 * sparse:.2f} %.\n"
        f"The ticket: {run_dir}/ticket.safetensors"
    )
    if "://" not in run_dir:
        model.save(folder / "model.keras")
        print(f"The model, for `tflottery export`: {run_dir}/model.keras")
    _report_on(run_dir)


def show(values: Any, arguments: Sequence[str]) -> None:
    """Prints a ticket: its layers, and what each round came to.

    TICKET is a file that `Ticket.save` wrote, such as RUN_DIR/ticket.safetensors.
    """
    del values
    from tflottery import load_ticket

    path = files.path_of(arguments[0])
    if path.is_dir():
        path = _ticket_of(path)
    load_ticket(path).summary()


def _ticket_of(folder: Any) -> Any:
    """Returns the path of the ticket of a run.

    Raises:
        FileNotFoundError: where the folder has none; it says why.
    """
    path = folder / "ticket.safetensors"
    if path.exists():
        return path
    if run_dir_lib.is_run(folder):
        raise FileNotFoundError(
            f"The search in {folder} has not ended, so it has no ticket yet. To go on, "
            f"give its `tflottery find` again with --run_dir={folder}; its finished "
            f"rounds are {folder / 'rounds'}/000.ticket, 001.ticket, ..."
        )
    raise FileNotFoundError(
        f"{folder} holds no ticket.safetensors. Give a file that `Ticket.save` wrote, "
        "or the --run_dir of a `tflottery find`."
    )


def _define_data(values: flags.FlagValues) -> None:
    flags.DEFINE_string("to", None, "The folder to write to.", flag_values=values)
    flags.DEFINE_string(
        "data_dir", None, "Where the dataset is now, for TFDS.", flag_values=values
    )


def data(values: Any, arguments: Sequence[str]) -> None:
    """Writes a dataset as NAME.npz, to be read without TensorFlow.

    NAME is one of those that `tflottery find --help` lists for --dataset. Any
    --data_dir of the other commands may be the folder that it is written to.
    """
    from tflottery.lab.data import datasets

    if values.to is None:
        raise UsageError("`tflottery data` needs a folder to write to: --to=FOLDER.")
    print(datasets.save_npz(arguments[0], values.to, data_dir=values.data_dir))


def _define_reproduce(values: flags.FlagValues) -> None:
    def string(name: str, default: str | None, text: str) -> None:
        flags.DEFINE_string(name, default, text, flag_values=values)

    flags.DEFINE_enum(
        "preset",
        "cpu",
        ["smoke", "cpu", "paper"],
        "How much: minutes, hours on a few cores, or as published.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "seeds", None, "How many seeds.", flag_values=values, lower_bound=1
    )
    string("data_dir", None, "Where the datasets are, for the presets but smoke.")
    string("run_dir", None, "Where to keep it all, or runs/NAME-PRESET.")
    string("executor", "local", "local, or ray: one task a cell.")


def reproduce(values: Any, arguments: Sequence[str]) -> None:
    """Runs a published comparison with its control arms, and reports it.

    NAME is sparse_transfer (Mehta 2019) or, with the preset paper, its comparisons
    sparse_transfer_norb and sparse_transfer_vgg19; sparse_transfer_one_shot;
    lenet_transfer; lenet_mnist or conv_cifar10 (Frankle & Carbin 2019). Stopped and run
    again it goes on; with more --seeds it adds them.
    """
    from tflottery.lab.experiment import designs, run

    (name,), preset = arguments, values.preset
    results = run.run(
        designs.design(name, preset),
        seeds=values.seeds,
        data_dir=values.data_dir,
        run_dir=values.run_dir or f"runs/{name}-{preset}",
        executor=values.executor,
    )
    _report_on(results.parent)


def report(values: Any, arguments: Sequence[str]) -> None:
    """Makes a run's report anew: one HTML file with its plots and tables.

    RUN_DIR is a folder that `tflottery find` or `tflottery reproduce` made.
    """
    from tflottery.lab.report import write as report_lib

    print(report_lib.report(arguments[0], out=values.out))


def _define_report(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "out", None, "The file to write, or RUN_DIR/report.html.", flag_values=values
    )


def _report_on(run_dir: Any) -> None:
    from tflottery.lab.report import write as report_lib

    report_where_it_can_be(lambda: report_lib.report(run_dir), f"report {run_dir}")


def report_where_it_can_be(write: Callable[[], Any], command: str) -> None:
    """Writes a report, or says what to install for it.

    Args:
        write: writes it and returns its path.
        command: of tflottery, to have it later.
    """
    if importlib.util.find_spec("matplotlib"):
        print(f"The report: {write()}")
    else:
        print(
            "For a report with plots: pip install 'tflottery[plots]' && tflottery "
            f"{command}"
        )


def _free(pattern: str) -> str:
    """Returns the first path of a numbered pattern that is not there yet."""
    return next(
        path
        for path in map(pattern.format, itertools.count(1))
        if not files.path_of(path).exists()
    )


def _epochs(count: int) -> str:
    return "1 epoch" if count == 1 else f"{count} epochs"


BASIC = (
    Command(find, _define_find),
    Command(show, arguments=("TICKET",)),
    Command(data, _define_data, arguments=("NAME",)),
    Command(reproduce, _define_reproduce, arguments=("NAME",)),
    Command(report, _define_report, arguments=("RUN_DIR",)),
)
