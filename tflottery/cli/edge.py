"""Commands for the edge: a ticket as a file, its answers and its speed."""

import contextlib
import os
import pathlib
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags

from tflottery.cli.commands import chosen_recipe, define_recipe
from tflottery.cli.main import Command, UsageError
from tflottery.core import files

_TARGETS = ("size", "int8", "sparse_speed", "float16")


def _define_export(values: flags.FlagValues) -> None:
    define_recipe(values)
    flags.DEFINE_enum(
        "target", "size", _TARGETS, "What the file is made for.", flag_values=values
    )
    flags.DEFINE_enum(
        "quantize",
        None,
        ["weights"],
        "Store the weights as int8, computing in float32.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "tolerance",
        None,
        "The largest output difference allowed, as a share of the largest output.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "json", None, "Where to write the report as JSON.", flag_values=values
    )


def export(values: Any, arguments: Sequence[str]) -> None:
    """Writes a sparse model as a small, verified TFLite file.

    SOURCE is the RUN_DIR of `tflottery find`, a .keras file or a dense .tflite file.
    --target=int8 calibrates with training images of --dataset (digits by default),
    made ready as --recipe says.
    """
    source, path = _source(arguments[0]), arguments[1]
    _check_outputs(source, path, values.json)
    from tflottery import export_tflite

    images = samples = None
    if values.target == "int8":
        images = _arrays(values).train[0][:256]
        samples = images[:64]
    report = export_tflite(
        source if source.suffix == ".tflite" else _model(source),
        path,
        target=values.target,
        quantize=values.quantize,
        tolerance=values.tolerance,
        representative_data=images,
        samples=samples,
    )
    print(report)
    if values.json is not None:
        files.write(values.json, report.to_json().encode())


def _source(source: str) -> pathlib.Path:
    """Returns the .keras or .tflite file that SOURCE means."""
    path = pathlib.Path(source)
    if path.is_dir():
        path = path / "model.keras"
    if not path.exists():
        raise FileNotFoundError(f"There is no {path} to export.")
    if path.suffix not in (".keras", ".tflite"):
        raise UsageError(
            "SOURCE must be the folder of a run, a .keras file or a .tflite file. "
            f"Received: {source}"
        )
    return path


def _check_outputs(source: pathlib.Path, path: str, json: str | None) -> None:
    """Checks where the file and the report go, before the work is done."""
    if os.path.exists(path) and os.path.samefile(source, path):
        raise UsageError(
            f"FILE is {source} itself, the model to export: it would be written over. "
            f"Choose another name, as model.tflite. Received: {path}"
        )
    if json is None:
        return
    report = files.path_of(json)
    local = isinstance(report, pathlib.Path)
    if local and (report.is_dir() or not report.parent.is_dir()):
        raise UsageError(
            "--json must name a file in a folder that exists. Make the folder, or "
            f"choose another. Received: --json={json}"
        )


def _model(path: pathlib.Path) -> Any:
    """Returns the model of a .keras file."""
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"{path} is damaged, or no file of Keras 3. Copy it again from its source, "
            "or load the model in Python where it was saved and call "
            "`tflottery.export_tflite`."
        )
    import keras

    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:  # There is one for each way to be damaged.
        reason = " ".join(str(error).rpartition("Exception encountered: ")[2].split())
        raise ValueError(
            f"{path} holds no model that Keras 3 can load here: it is damaged, "
            "tf_keras saved it, or it holds code of its own. Copy it again from its "
            "source, or load it in Python and call `tflottery.export_tflite`. "
            f"Keras says: {reason[:300]}"
        ) from error


def _arrays(values: Any) -> Any:
    from tflottery.lab.data import datasets

    recipe = chosen_recipe(values)
    images = datasets.load(recipe.dataset, data_dir=values.data_dir)
    return recipe.arrays(images, seed=values.seed)


def evaluate(values: Any, arguments: Sequence[str]) -> None:
    """Prints a TFLite file's accuracy on a dataset's test images.

    The images are those of --dataset (digits by default), made ready as --recipe says.
    """
    from tflottery import evaluate_tflite

    with _run_errors():
        metrics = evaluate_tflite(arguments[0], _batches(*_arrays(values).test))
    for name, value in metrics.items():
        print(f"{name}: {value:.4f}")


def _batches(x: Any, y: Any) -> list[tuple[Any, Any]]:
    return [(x[i : i + 100], y[i : i + 100]) for i in range(0, len(x), 100)]


def _define_benchmark(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "against", None, "Another file, such as the dense one.", flag_values=values
    )
    flags.DEFINE_integer(
        "threads", 1, "Threads to compute with.", flag_values=values, lower_bound=1
    )


def benchmark(values: Any, arguments: Sequence[str]) -> None:
    """Measures how fast a TFLite file is, beside another one."""
    from tflottery import benchmark_tflite

    with _run_errors():
        report = benchmark_tflite(
            arguments[0], threads=values.threads, against=values.against
        )
    print(report)


@contextlib.contextmanager
def _run_errors() -> Iterator[None]:
    """Makes a file that does not run an error like any other of the command."""
    from tflottery.tflite.run.worker import JobError

    try:
        yield
    except JobError as error:
        raise ValueError(f"The file does not run: {error}") from error


EDGE = (
    Command(export, _define_export, arguments=("SOURCE", "FILE")),
    Command(evaluate, define_recipe, arguments=("FILE",)),
    Command(benchmark, _define_benchmark, arguments=("FILE",)),
)
