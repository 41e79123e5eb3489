"""export, evaluate, benchmark: a model as a file, its accuracy and its speed."""

import argparse
import contextlib
import os
import pathlib
import zipfile
from collections.abc import Iterator
from typing import Any

from tflottery.cli import flags
from tflottery.core import files


def define_export(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s SOURCE FILE [--flag=value ...]"
    parser.set_defaults(error=parser.error)
    flag = parser.add_argument
    text = "folder of a `find`, .keras file or dense .tflite file"
    flag("source", metavar="SOURCE", help=text)
    flag("file", metavar="FILE", help="file to write")
    targets = ("size", "int8", "sparse_speed", "float16", "npu", "micro")
    text = f"{', '.join(targets)}; default: size"
    flag("--target", choices=targets, metavar="NAME", default="size", help=text)
    text = "store int8 weights, compute in float32"
    flag("--quantize", choices=["weights"], help=text)
    count, text = flags.at_least(2), "snap kept weights to N values, for --target=npu"
    flag("--clusters", type=count, metavar="N", help=text)
    text = "allowed difference, as a share of the largest output"
    flag("--tolerance", type=float, metavar="N", help=text)
    text = "sizes of a sample, if some are open; once per input"
    flag("--input_shape", type=_sizes, action="append", metavar="SIZES", help=text)
    text = "also write the report as JSON"
    flag("--json", type=_report_file, metavar="FILE", help=text)
    _define_data(parser, "images to calibrate integers, by default digits")


def define_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s FILE [--flag=value ...]"
    parser.add_argument("file", metavar="FILE", help="file to run")
    _define_data(parser, "images, by default digits")


def define_benchmark(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s FILE [--flag=value ...]"
    flag = parser.add_argument
    flag("file", metavar="FILE", help="file to run")
    flag("--against", metavar="FILE", help="file to compare with, such as a dense one")
    text = "ask the tool of a device, ethos-u55-128, ..., or tflite-micro"
    flag("--on", metavar="DEVICE", help=text)
    count, text = flags.at_least(1), "number of threads; default: 1"
    flag("--threads", type=count, default=1, metavar="N", help=text)


def _define_data(parser: argparse.ArgumentParser, title: str) -> None:
    group = parser.add_argument_group(title)
    flags.define_recipe(group)
    count, text = flags.at_least(0), "seed of the validation split; default: 0"
    group.add_argument("--seed", type=count, default=0, metavar="N", help=text)


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    """Turns the error of a file that does not run into one that `main` prints."""
    from tflottery.tflite.run.worker import JobError

    try:
        yield
    except JobError as error:
        raise ValueError(f"The file does not run: {error}") from error


def export(arguments: argparse.Namespace) -> None:
    """Writes a sparse model as a small, verified TFLite file."""
    source, path = pathlib.Path(arguments.source), arguments.file
    if source.is_dir():
        source = source / "model.keras"
    if not source.exists():
        raise FileNotFoundError(f"There is no file {str(source)!r} to export.")
    if source.suffix not in (".keras", ".tflite"):
        arguments.error(
            "SOURCE must be the folder of a run, a .keras file or a .tflite file. "
            f"Received: {source}"
        )
    if os.path.exists(path) and os.path.samefile(source, path):
        arguments.error(
            f"FILE is {source} itself, the model to export, which would be "
            f"overwritten. Choose another name, such as model.tflite. Received: {path}"
        )
    from tflottery import export_tflite

    images, calibrated = None, source.suffix == ".tflite"
    if arguments.target in ("int8", "npu", "micro") and not calibrated:
        images = _arrays(arguments).train[0][:256]
    report = export_tflite(
        source if calibrated else _model(source),
        path,
        target=arguments.target,
        quantize=arguments.quantize,
        clusters=arguments.clusters,
        tolerance=arguments.tolerance,
        representative_data=images,
        input_shape=arguments.input_shape,
    )
    print(report)
    if arguments.json is not None:
        files.write(arguments.json, report.to_json().encode())


@_one_line_errors()
def evaluate(arguments: argparse.Namespace) -> None:
    """Prints the accuracy of a TFLite file on test images."""
    from tflottery import evaluate_tflite

    x, y = _arrays(arguments).test
    batches = [(x[i : i + 100], y[i : i + 100]) for i in range(0, len(x), 100)]
    for name, value in evaluate_tflite(arguments.file, batches).items():
        print(f"{name}: {value:.4f}")


@_one_line_errors()
def benchmark(arguments: argparse.Namespace) -> None:
    """Measures the speed of a TFLite file."""
    from tflottery import benchmark_tflite

    options = {"threads": arguments.threads, "against": arguments.against}
    print(benchmark_tflite(arguments.file, on=arguments.on, **options))


def _sizes(sizes: str) -> tuple[int, ...]:
    """Returns the sizes in a text such as "224,224,3"."""
    try:
        return tuple(int(size) for size in sizes.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"must be whole numbers, such as 224,224,3. Received: --input_shape={sizes}"
        ) from error


def _report_file(json: str) -> str:
    """Returns the path of a report after checking that it can be written."""
    path = files.path_of(json)
    local = isinstance(path, pathlib.Path)
    if local and (path.is_dir() or not path.parent.is_dir()):
        raise argparse.ArgumentTypeError(
            "must name a file in a folder that exists. Make the folder, or choose "
            f"another. Received: --json={json}"
        )
    return json


def _model(path: pathlib.Path) -> Any:
    """Returns the model of a .keras file."""
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"{path} is damaged, or not a file of Keras 3. Copy it again from its "
            "source, or load the model in Python where it was saved and call "
            "`tflottery.export_tflite`."
        )
    import keras

    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:  # Each kind of damage raises another one.
        reason = " ".join(str(error).rpartition("Exception encountered: ")[2].split())
        raise ValueError(
            f"Keras 3 cannot load {path} here: it is damaged, was saved by tf_keras, "
            "or contains custom code. Copy it again from its source, or load it in "
            "Python and call `tflottery.export_tflite`. "
            f"Keras says: {reason[:300]}"
        ) from error


def _arrays(arguments: argparse.Namespace) -> Any:
    from tflottery.lab.data import datasets

    recipe = flags.recipe(arguments)
    images = datasets.load(recipe.dataset, data_dir=arguments.data_dir)
    return recipe.arrays(images, seed=arguments.seed)
