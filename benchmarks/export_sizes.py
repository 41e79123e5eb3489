"""How small are the files compared with the converter's, and do they answer alike?

    python benchmarks/export_sizes.py --data_dir DIR --networks lenet,resnet20

Finds a ticket of 95 % sparsity, exports it for every target, and evaluates the files on
the whole test set. MobileNetV1 is trained on CIFAR-10 at 96 x 96 pixels, and keeps the
1,000 classes of its head, so that its sizes are those of the published network. Prints
the figures; --out saves them, and --run_dir lets an interrupted search resume.
"""

import json
import pathlib
import tempfile

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import tflottery
from tflottery.lab import models
from tflottery.lab.data import datasets, pipelines

DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of the images, for TFDS.")
NETWORKS = flags.DEFINE_list(
    "networks", ["lenet", "resnet20", "conv6", "mobilenet"], "Networks to measure."
)
SPARSITY = flags.DEFINE_float("sparsity", 0.95, "Share of the weights to prune.")
EPOCHS = flags.DEFINE_integer("epochs", 3, "Epochs of a round.")
ROUNDS = flags.DEFINE_integer("rounds", 5, "Number of prunings.")
IMAGES = flags.DEFINE_integer(
    "images", None, "Number of images to train on; all if None."
)
OUT = flags.DEFINE_string("out", None, "JSON file to add the figures to.")
RUN_DIR = flags.DEFINE_string(
    "run_dir", None, "Folder for the searches, to resume them."
)


def mobilenet(shape, classes, *, seed):
    del classes
    keras.utils.set_random_seed(seed)
    model = keras.applications.MobileNet(shape, weights=None)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9  # so that its statistics settle in a short round
    return model


def wide(shape, classes, *, seed):
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    hidden = [layers.Dense(units, activation="relu") for units in (1000, 200)]
    head = layers.Dense(classes, activation="softmax")
    return keras.Sequential([keras.Input(shape), layers.Flatten(), *hidden, head])


# Data, network, and height and width of the images, or None for their own.
SOURCES = {
    "lenet": ("mnist", models.lenet_300_100, None),
    "wide": ("mnist", wide, None),
    "conv6": ("cifar10", models.conv6, None),
    "resnet20": ("cifar10", models.resnet20, None),
    "mobilenet": ("cifar10", mobilenet, 96),
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
    model, x, y = ticket(name)
    calibration = x[:256]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.tflite"
        scores = np.concatenate(
            [model.predict_on_batch(x[i : i + 500]) for i in range(0, len(x), 500)]
        )
        right = float((scores.argmax(axis=-1) == y).mean())
        for title, options in EXPORTS.items():
            data = calibration if title == "int8" else None
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
                "accuracy_lost": right - accuracy(path, x, y),
                "same_prediction": accuracy(path, x, scores.argmax(axis=-1)),
            }
            rows.append(row)
            print(name, json.dumps(row), flush=True)
    return {"accuracy": right, "files": rows}


def accuracy(path, x, y):
    return tflottery.evaluate_tflite(path, [(x, y)], progress=False)["accuracy"]


def converter(model, title, calibration, *, sparse):
    """Returns the size of the converter's own file, or why it fails."""
    try:
        return len(converted(model, title, calibration, sparse=sparse))
    except Exception as error:
        return f"fails: {type(error).__name__}: {str(error)[:200]}"


def converted(model, title, calibration, *, sparse):
    """Returns the converter's own file."""
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
    return converter.convert()


def ticket(name):
    """Returns a trained ticket and the test set."""
    dataset, build, size = SOURCES[name]
    images = datasets.load(dataset, data_dir=DATA_DIR.value)
    keep = slice(0, IMAGES.value)
    x, y = at_size(images.x_train[keep], size), images.y_train[keep]
    x_test = at_size(images.x_test, size)
    model = build(x.shape[1:], images.num_classes, seed=0)
    model.compile(
        optimizer=keras.optimizers.Adam(1.2e-3),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=False,
    )
    model = tflottery.find_ticket(
        model,
        pipelines.train_pipeline(x, y, batch_size=64, seed=0),
        validation_data=(x_test[:1000], images.y_test[:1000]),
        epochs=EPOCHS.value,
        rounds=ROUNDS.value,
        target_sparsity=SPARSITY.value,
        select="last",
        seed=0,
        run_dir=RUN_DIR.value and pathlib.Path(RUN_DIR.value) / name,
    )
    tflottery.release(model)
    return model, x_test, images.y_test


def at_size(images, size):
    """Returns images in [0, 1], resized to `size` pixels if it is given."""
    parts = []
    for start in range(0, len(images), 1000):
        part = np.float32(images[start : start + 1000]) / 255
        parts.append(tf.image.resize(part, (size, size)).numpy() if size else part)
    return np.concatenate(parts)


if __name__ == "__main__":
    app.run(main)
