"""Models and runtimes that the export's tests share."""

import json
import pathlib
import shutil
import subprocess

import pytest
from making.tflite_files import prune

WASM_CHECK = pathlib.Path(__file__).parents[2] / "tools" / "wasm_check"


@pytest.fixture(scope="session")
def lenet():
    """A pruned Keras 3 network of two dense layers, wide enough to be widened."""
    import keras

    layers = keras.layers
    return prune(
        keras.Sequential(
            [
                layers.Input((600,)),
                layers.Dense(300, activation="relu"),
                layers.Dense(10),
            ]
        ),
        0.95,
    )


@pytest.fixture(scope="session")
def convnet():
    """A pruned Keras 3 network with all that the rewriting for speed must handle."""
    import keras

    layers = keras.layers
    image = x = layers.Input((16, 16, 3))
    x = layers.Conv2D(16, 3, padding="same", use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.MaxPooling2D(2)(layers.Conv2D(32, 3, padding="same")(x))
    y = layers.Conv2D(32, 3, strides=2, padding="same", activation="relu")(x)
    y = layers.Conv2D(32, 3, padding="same")(y)
    x = layers.ReLU()(layers.Add()([y, layers.Conv2D(32, 1, strides=2)(x)]))
    x = layers.AveragePooling2D(2)(x)
    x = layers.Dense(24, activation="relu")(layers.Flatten()(x))
    return prune(keras.Model(image, layers.Dense(10)(x)), 0.97)


@pytest.fixture(scope="session")
def wasm():
    """Runs files in LiteRT.js, where XNNPACK's sparse kernels are on.

    Returns, per file after the first, the largest difference to the first.
    """
    if shutil.which("node") is None:
        pytest.skip("node is not installed: the sparse kernels were not run")
    if not (WASM_CHECK / "node_modules").is_dir():
        pytest.skip("`npm ci` in tools/wasm_check was not run")

    def run(*files):
        command = ["node", str(WASM_CHECK / "check.mjs"), "--rounds", "1", "--ms", "1"]
        done = subprocess.run(
            [*command, *map(str, files)], capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-1000:]
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert not any("error" in line for line in lines), lines
        return [float(line["difference"]) for line in lines[1:]]

    return run
