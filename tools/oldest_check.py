"""Checks a search on both Kerases and an export, in an environment of oldest versions.

python tools/oldest_check.py --requirements > oldest.txt  # The versions, pinned.
python tools/oldest_check.py  # The check, in an environment with them and tflottery.
"""

import pathlib
import re
import sys
import tempfile
import tomllib

PYPROJECT = pathlib.Path(__file__).absolute().parent.parent / "pyproject.toml"


def requirements() -> list[str]:
    """Returns the dependencies, with tfmot's, each pinned to its lower bound."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    lines = project["dependencies"] + project["optional-dependencies"]["tfmot"]
    return [re.sub(r">=([^,]+).*", r"==\1", line) for line in lines]


def check() -> None:
    """Searches, transfers and exports a small network on Keras 3 and on tf_keras."""
    import keras
    import numpy as np
    import tf_keras

    import tflottery

    x = np.random.default_rng(0).normal(size=(256, 8)).astype("float32")
    y = (x[:, :4].sum(axis=1) > x[:, 4:].sum(axis=1)).astype("int32")
    for library in (keras, tf_keras):
        library.utils.set_random_seed(0)
        layers = [library.layers.Dense(32, activation="relu"), library.layers.Dense(2)]
        model = library.Sequential([library.layers.Input((8,)), *layers])
        loss = library.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss, metrics=["accuracy"])
        with tempfile.TemporaryDirectory() as folder:
            model = tflottery.find_ticket(
                model,
                (x, y),
                validation_data=(x, y),
                epochs=3,
                rounds=2,
                target_sparsity=0.75,
                select="last",
                seed=0,
                run_dir=f"{folder}/run",
            )
            model.fit(x, y, verbose=0)
            kernels = [np.asarray(w) for w in model.get_weights() if np.ndim(w) == 2]
            kept = sum(np.count_nonzero(kernel) for kernel in kernels)
            assert kept == sum(kernel.size for kernel in kernels) // 4, kept
            student = tflottery.transfer_ticket(model, num_classes=3, seed=0)
            print(tflottery.export_tflite(student, f"{folder}/a.tflite", samples=x))
        print(f"{library.__name__} {library.__version__}: found, transferred, exported")


if __name__ == "__main__":
    if sys.argv[1:] == ["--requirements"]:
        print("\n".join(requirements()))
    else:
        check()
