"""The lab loads, batches and trains on JAX where TensorFlow is not installed."""

import json
import os
import pathlib
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from tflottery.engines import shuffling

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).absolute().parents[2]

PROGRAM = textwrap.dedent("""
    import dataclasses, importlib.util, json, sys

    BLOCKED = ("tensorflow", "tf_keras", "tensorflow_datasets")

    class Block:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in BLOCKED:
                raise ModuleNotFoundError(f"{name} is blocked")

    # etils asks whether TensorFlow can be found, without importing it.
    ask = importlib.util.find_spec
    importlib.util.find_spec = lambda name, package=None: (
        None if name in BLOCKED else ask(name, package)
    )
    sys.meta_path.insert(0, Block())
    import keras, numpy as np
    from tflottery.lab import recipes, training
    from tflottery.lab.data import datasets, pipelines

    found = {"backend": keras.backend.backend()}

    # Datasets.
    images = datasets.load("digits")
    found["digits"] = len(images.x_train)
    found["mnist"] = len(datasets.load("mnist", data_dir=sys.argv[1]).x_train)
    try:
        datasets.load("cifar10", data_dir=sys.argv[1])
    except OSError as error:
        found["cifar10"] = str(error)

    # Pipelines.
    seen = []
    def spy(images, rng):
        seen.append(images.ravel().tolist())
        return images

    x = np.arange(10, dtype=np.uint8)[:, None, None, None]
    batches = pipelines.train_pipeline(
        x, np.arange(10), batch_size=4, seed=7, augment=spy
    )
    model = keras.Sequential([keras.Input((1, 1, 1)), keras.layers.Flatten()])
    model.add(keras.layers.Dense(10, activation="softmax"))
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    found["fits"] = []
    for _ in range(2):
        seen.clear()
        batches.epoch = 3
        model.fit(batches, epochs=2, verbose=0, shuffle=True)
        # Keras may look at a first batch to build the metrics.
        found["fits"].append({"epoch": batches.epoch, "seen": seen[-6:]})

    # Training.
    recipe = dataclasses.replace(recipes.recipe("digits"), steps=200)
    arrays = recipe.arrays(images, seed=0)
    model = recipe.build(images, seed=0)
    training.compile_model(model, recipe, steps_per_execution=2)
    ds = pipelines.train_pipeline(*arrays.train, batch_size=60, seed=0)
    found["epochs"] = recipe.epochs(len(arrays.train[0]))
    model.fit(ds, validation_data=arrays.validation, epochs=found["epochs"], verbose=0)
    found["epoch"] = ds.epoch
    found["accuracy"] = float(model.evaluate(*arrays.test, verbose=0)[1])
    print(json.dumps(found))
""")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    pytest.importorskip("jax")
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    parts = {"train": 20, "test": 6}
    arrays = {
        f"x_{part}": rng.integers(256, size=(count, 4, 4, 1), dtype=np.uint8)
        for part, count in parts.items()
    }
    arrays |= {f"y_{part}": np.arange(count) % 5 for part, count in parts.items()}
    np.savez(folder / "mnist.npz", **arrays)
    env = os.environ | {"KERAS_BACKEND": "jax", "PYTHONPATH": str(ROOT)}
    env.pop("TFDS_DATA_DIR", None)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, os.fspath(folder)],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_digits_and_files_load(found):
    assert (found["digits"], found["mnist"]) == (1438, 20)
    message = "'tflottery[tfds]', or give the file cifar10.npz in `data_dir`"
    assert message in found["cifar10"]


def test_fit_on_jax_counts_its_epochs(found):
    assert found["backend"] == "jax"
    orders = [shuffling.order(10, 7, epoch).tolist() for epoch in (3, 4)]
    wanted = [order[i : i + 4] for order in orders for i in (0, 4, 8)]
    assert found["fits"] == [{"epoch": 5, "seen": wanted}] * 2


def test_digits_are_trained_by_their_recipe(found):
    assert found["epoch"] == found["epochs"]
    assert 0.85 < found["accuracy"] <= 1
