"""Prints the time of an epoch with our pipeline over one with a plain tf.data one.

    python benchmarks/pipeline.py [--data_dir DIR] [--pairs N]

LeNet-300-100 on MNIST, or on noise of its shape without --data_dir, batch 128, Keras on
TensorFlow, without XLA. "One batch" gives the same resident batch again and again: the
limit of any pipeline. Epochs of all alternate; ratios are of their medians.
Last, the processor time of a batch of 128 standardized images of 16x16x3, with and
without flip and crop.
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from tflottery.lab import models
from tflottery.lab.data import datasets, pipelines

BATCH = 128


def data(data_dir):
    if data_dir:
        images = datasets.load("mnist", data_dir=data_dir)
        x, y = images.x_train, images.y_train
    else:
        rng = np.random.default_rng(0)
        x = rng.integers(256, size=(60_000, 28, 28, 1), dtype=np.uint8)
        y = rng.integers(10, size=60_000)
    return (x / np.float32(255)).astype("float32"), y.astype("int32")


def compiled(steps_per_execution):
    model = models.lenet_300_100((28, 28, 1), 10, seed=0)
    model.compile(
        optimizer=keras.optimizers.Adam(1.2e-3),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=False,
        steps_per_execution=steps_per_execution,
    )
    return model


def seconds(model, ds):
    start = time.perf_counter()
    model.fit(ds, verbose=0, shuffle=False)
    return time.perf_counter() - start


def augmentation(pairs):
    """Prints the processor time of a batch, with flip and crop over without."""
    x = np.random.default_rng(0).normal(size=(100 * BATCH, 16, 16, 3))
    times = {None: [], pipelines.flip_and_crop: []}
    pipes = {
        augment: pipelines.train_pipeline(
            x, np.arange(len(x)), batch_size=BATCH, seed=0, augment=augment
        )
        for augment in times
    }
    for _ in range(pairs):
        for augment, ds in pipes.items():
            start = time.process_time()
            for _ in ds:
                pass
            times[augment].append((time.process_time() - start) / len(ds))
    plain, augmented = (1e3 * statistics.median(values) for values in times.values())
    print(f"a batch {plain:.2f} ms, with flip_and_crop {augmented:.2f} ms")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir")
    parser.add_argument("--pairs", type=int, default=9)
    arguments = parser.parse_args()
    x, y = data(arguments.data_dir)
    plain = tf.data.Dataset.from_tensor_slices((x, y))
    plain = plain.shuffle(len(x)).batch(BATCH).prefetch(tf.data.AUTOTUNE)
    ours = pipelines.train_pipeline(x, y, batch_size=BATCH, seed=0)
    one = tf.data.Dataset.from_tensors((tf.constant(x[:BATCH]), tf.constant(y[:BATCH])))
    one = one.repeat(-(-len(x) // BATCH))
    pipes = {"plain tf.data": plain, "train_pipeline": ours, "one batch": one}
    arms = {
        f"{name}, {steps} steps per execution": (ds, steps)
        for steps in (1, 20)
        for name, ds in pipes.items()
    }
    built = {name: compiled(steps) for name, (_, steps) in arms.items()}
    times = {name: [] for name in arms}
    for pair in range(arguments.pairs + 1):
        for name, (ds, _) in arms.items():
            elapsed = seconds(built[name], ds)
            if pair:  # The first epoch traces.
                times[name].append(elapsed)
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, median in medians.items():
        ratio = median / medians["plain tf.data, 1 steps per execution"]
        print(f"{name:40s} {median:6.3f} s  ratio {ratio:.2f}")
    augmentation(arguments.pairs)


if __name__ == "__main__":
    main()
