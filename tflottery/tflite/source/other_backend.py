"""Another backend: a model that is not on TensorFlow, converted in a new process."""

from __future__ import annotations

import importlib
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from tflottery.tflite.file.inputs import Spec
from tflottery.tflite.run import worker
from tflottery.tflite.source import converter
from tflottery.tflite.source.generations import all_layers


def to_tflite(
    model: Any,
    specs: Sequence[Spec],
    outputs: Sequence[str],
    calibration: list[np.ndarray] | None,
) -> tuple[bytes, bytes]:
    """Does what `converter.to_tflite` does, in a process with Keras on TensorFlow.

    Raises:
        ValueError: If the model cannot be rebuilt there, or cannot be converted.
    """
    described = [(spec.shape, spec.dtype.name, spec.name, spec.key) for spec in specs]
    job = {"modules": _modules(model), "specs": described, "outputs": [*outputs]}
    with tempfile.TemporaryDirectory(prefix="tflottery-") as name:
        folder = pathlib.Path(name)
        model.save(folder / "model.keras")
        (folder / "job.json").write_text(json.dumps(job))
        if calibration is not None:
            np.savez(folder / "calibration.npz", *calibration)
        environment = {**worker.environment(), "KERAS_BACKEND": "tensorflow"}
        command = [sys.executable, "-W", "ignore", "-m", __name__, name]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if (folder / "error.txt").exists():
            raise ValueError((folder / "error.txt").read_text())
        if done.returncode:
            raise ValueError(
                "The model could not be rebuilt with the TensorFlow backend. Custom "
                "layers must be registered with keras.saving and written in keras.ops. "
                f"{done.stderr[-2000:]}"
            )
        float32 = (folder / "float32.tflite").read_bytes()
        return float32, (folder / "dense.tflite").read_bytes()


def _modules(model: Any) -> list[str]:
    """Returns the modules of the model's custom classes, which must be importable."""
    kinds = {type(layer) for layer in all_layers(model)}
    own = {k for k in kinds if k.__module__.partition(".")[0] != "keras"}
    for kind in own:
        module = sys.modules.get(kind.__module__)
        if kind.__module__ == "__main__" or getattr(module, "__spec__", None) is None:
            raise ValueError(
                f"{kind.__name__} is defined in {kind.__module__}, which another "
                "process cannot import, but a model that is not on the TensorFlow "
                "backend is converted in one. Move the class to a module."
            )
    return sorted({kind.__module__ for kind in own})


def _main(name: str) -> None:
    import keras

    folder = pathlib.Path(name)
    job = json.loads((folder / "job.json").read_text())
    for module in job["modules"]:
        importlib.import_module(module)
    model = keras.saving.load_model(folder / "model.keras", compile=False)
    calibration = None
    if (folder / "calibration.npz").exists():
        with np.load(folder / "calibration.npz") as stored:
            calibration = [stored[f"arr_{i}"] for i in range(len(stored.files))]
    specs = [
        Spec(tuple(s), np.dtype(dtype), name, key=key)
        for s, dtype, name, key in job["specs"]
    ]
    try:
        float32, dense = converter.to_tflite(model, specs, job["outputs"], calibration)
    except ValueError as error:
        (folder / "error.txt").write_text(str(error))
        return
    (folder / "float32.tflite").write_bytes(float32)
    (folder / "dense.tflite").write_bytes(dense)


if __name__ == "__main__":
    _main(sys.argv[1])
