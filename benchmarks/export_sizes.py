"""How small are the files, and do they answer alike? Beside dense and the converter.

    python benchmarks/export_sizes.py --data_dir DIR --networks lenet,resnet20

Finds a ticket at 95 % sparsity, exports it for every target, and evaluates the files on
the whole test set. `mobilenet` is not trained, only pruned: its sizes are real, and
it has neither an accuracy nor an int8 file. Prints the figures; --out keeps them.
"""

import json
import pathlib
import tempfile

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import tflottery
from tflottery.lab import datasets, models

DATA_DIR = flags.DEFINE_string("data_dir", None, "Where the images are, for TFDS.")
NETWORKS = flags.DEFINE_list(
    "networks", ["lenet", "resnet20", "conv6", "mobilenet"], "Which networks."
)
SPARSITY = flags.DEFINE_float("sparsity", 0.95, "Share of the weights to prune.")
EPOCHS = flags.DEFINE_integer("epochs", 3, "Epochs of a round.")
ROUNDS = flags.DEFINE_integer("rounds", 5, "How many times to prune.")
IMAGES = flags.DEFINE_integer("images", None, "Train on so many images; all if None.")
OUT = flags.DEFINE_string("out", None, "A JSON file to add the figures to.")

SOURCES = {
    "lenet": ("mnist", models.lenet_300_100),
    "conv6": ("cifar10", models.conv6),
    "resnet20": ("cifar10", models.resnet20),
}
EXPORTS = {
    "float32": {},
    "int8 weights": {"quantize": "weights"},
    "float16": {"target": "float16"},
    "int8": {"target": "int8"},
}


def main(_):
    figures = {}
    for name in NETWORKS.value:
        figures[name] = measure(name)
        if OUT.value:
            out = pathlib.Path(OUT.value)
            known = json.loads(out.read_text()) if out.exists() else {}
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps({**known, **figures}, indent=2) + "\n")


def measure(name):
    model, x, y = mobilenet() if name == "mobilenet" else ticket(name)
    calibration = x[:256]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.tflite"
        if y is not None:
            scores = np.concatenate(
                [model.predict_on_batch(x[i : i + 500]) for i in range(0, len(x), 500)]
            )
            right = float((scores.argmax(axis=-1) == y).mean())
        for title, options in EXPORTS.items():
            if title == "int8" and y is None:
                continue  # nothing to calibrate on
            data = calibration if options.get("target") == "int8" else None
            report = tflottery.export_tflite(
                model, path, samples=x[:16], representative_data=data, **options
            )
            row = {
                "file": title,
                "bytes": report.bytes,
                "gzip": report.gzip_bytes,
                "bound_ratio": round(report.bound_ratio, 3),
                "removed_units": report.removed_units,
                "converter": converter(model, title, calibration, sparse=True),
                "dense": converter(model, title, calibration, sparse=False),
            }
            if y is not None:
                row["accuracy_lost"] = right - accuracy(path, x, y)
                row["same_prediction"] = agreement(path, x, scores)
            rows.append(row)
            print(name, json.dumps(row), flush=True)
    return {"accuracy": right if y is not None else None, "files": rows}


def accuracy(path, x, y):
    return tflottery.evaluate_tflite(path, [(x, y)], progress=False)["accuracy"]


def agreement(path, x, scores):
    chosen = scores.argmax(axis=-1)
    return tflottery.evaluate_tflite(path, [(x, chosen)], progress=False)["accuracy"]


def converter(model, title, calibration, *, sparse):
    """Returns the bytes of the converter's own file; why it has none, if it fails."""
    plain = keras.models.clone_model(model)
    plain.set_weights(model.get_weights())
    converter = tf.lite.TFLiteConverter.from_keras_model(plain)
    optimizations = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY] if sparse else []
    if title != "float32":
        optimizations.append(tf.lite.Optimize.DEFAULT)
    if title == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if title == "int8":
        converter.representative_dataset = lambda: ([row[None]] for row in calibration)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.optimizations = optimizations
    try:
        return len(converter.convert())
    except Exception as error:
        return f"fails: {type(error).__name__}: {str(error)[:200]}"


def ticket(name):
    """Returns a trained ticket and the test set."""
    dataset, build = SOURCES[name]
    images = datasets.load(dataset, data_dir=DATA_DIR.value)
    keep = slice(0, IMAGES.value)
    x, y = np.float32(images.x_train[keep]) / 255, images.y_train[keep]
    x_test = np.float32(images.x_test) / 255
    model = build(x.shape[1:], images.num_classes, seed=0)
    model.compile(
        optimizer=keras.optimizers.Adam(1.2e-3),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=False,
    )
    train = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=0).batch(64)
    test = tf.data.Dataset.from_tensor_slices((x_test, images.y_test)).batch(500)
    model = tflottery.find_ticket(
        model,
        train,
        validation_data=test.take(2),
        epochs=EPOCHS.value,
        rounds=ROUNDS.value,
        target_sparsity=SPARSITY.value,
        select="last",
        seed=0,
        verbose=0,
    )
    tflottery.release(model)
    return model, x_test, images.y_test


def mobilenet():
    """Returns MobileNetV1 for 96x96 images, pruned by magnitude, and drawn inputs."""
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNet(
        (96, 96, 3), weights=None, classifier_activation=None
    )
    for layer in model.layers:
        if type(layer).__name__ in ("Conv2D", "Dense"):
            kernel, *rest = layer.get_weights()
            limit = np.quantile(np.abs(kernel), SPARSITY.value)
            layer.set_weights([kernel * (np.abs(kernel) > limit), *rest])
    x = np.random.default_rng(0).normal(size=(256, 96, 96, 3)).astype(np.float32)
    return model, x, None


if __name__ == "__main__":
    app.run(main)
