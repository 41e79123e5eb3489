"""Prints the time of an epoch with held masks over one of plain tf_keras `fit`.

    python benchmarks/tfmot_step.py [--data_dir DIR] [--pairs N] [--images N]

LeNet-300-100 on MNIST, or on noise of its shape without --data_dir, at 90 % sparsity.
Ours is the step of `find_ticket`; tfmot's own wrapper stands beside it, with a
ConstantSparsity as tfmot's guide has it, and with a LotterySchedule. Epochs of all
alternate; a ratio is the median of those to the plain epoch of the same turn, by the
clock and by the processor's time, which other work on the machine disturbs less.
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from tflottery import LotterySchedule, RewindToInit
from tflottery.core import criteria, pruning
from tflottery.core import masks as masks_lib
from tflottery.engines.tfmot.imported import sparsity, tf_keras
from tflottery.lab.data import datasets
from tflottery.search.trainer import engine_for

SPARSITY = 0.9


def data(data_dir, batch, count):
    if data_dir:
        images = datasets.load("mnist", data_dir=data_dir)
        x, y = images.x_train, images.y_train
    else:
        rng = np.random.default_rng(0)
        x = rng.integers(256, size=(60_000, 28, 28, 1), dtype=np.uint8)
        y = rng.integers(10, size=60_000)
    x, y = x[:count], y[:count]
    x = (x / np.float32(255)).astype("float32").reshape(len(x), -1)
    ds = tf.data.Dataset.from_tensor_slices((x, y.astype("int32")))
    return ds.shuffle(len(x)).batch(batch).prefetch(tf.data.AUTOTUNE)


def lenet():
    layers = tf_keras.layers
    return tf_keras.Sequential(
        [
            layers.Input((784,)),
            layers.Dense(300, activation="relu"),
            layers.Dense(100, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )


def compiled(model):
    model.compile(
        tf_keras.optimizers.Adam(1.2e-3),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


class EachBatch(tf_keras.callbacks.Callback):
    """Asks for single batches, which keeps `steps_per_execution` at 1."""

    def on_train_batch_end(self, batch, logs=None):
        pass


def ours(ds, callbacks):
    model = compiled(lenet())
    engine = engine_for(model)
    engine.prepare(ds, rewind_step=0, callbacks=callbacks)
    masks = masks_lib.ones({p: engine.weights()[p] for p in engine.prunable})
    scores = criteria.magnitude(engine.weights(), {})
    engine.hold(pruning.prune(scores, masks, SPARSITY))
    return model, callbacks


def arms(ds):
    constant = sparsity.ConstantSparsity(SPARSITY, 0)
    schedule = LotterySchedule(
        rounds=1, steps_per_round=len(ds), target_sparsity=SPARSITY
    )
    update = sparsity.UpdatePruningStep()
    search = RewindToInit(verbose=0)
    search.on_train_end = lambda logs=None: None  # An epoch is not the whole search.
    return {
        "plain fit": (compiled(lenet()), []),
        "find_ticket's step, each alone": ours(ds, [EachBatch()]),
        "find_ticket's step": ours(ds, []),
        "tfmot, ConstantSparsity": (
            compiled(sparsity.prune_low_magnitude(lenet(), constant)),
            [update],
        ),
        "tfmot, LotterySchedule": (
            compiled(sparsity.prune_low_magnitude(lenet(), schedule)),
            [update, search],
        ),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--batch", type=int, default=60)
    parser.add_argument("--images", type=int, default=60_000)
    arguments = parser.parse_args()
    ds = data(arguments.data_dir, arguments.batch, arguments.images)
    built = arms(ds)
    times = {name: [] for name in built}
    for turn in range(arguments.pairs + 1):
        for name, (model, callbacks) in built.items():
            start, processor = time.perf_counter(), time.process_time()
            model.fit(ds, callbacks=callbacks, verbose=0)
            took = time.perf_counter() - start, time.process_time() - processor
            if turn:  # The first epoch traces.
                times[name].append(took)
    plain = times["plain fit"]
    for name, pairs in times.items():
        wall, processor = (
            statistics.median(a[i] / b[i] for a, b in zip(pairs, plain, strict=True))
            for i in range(2)
        )
        seconds = statistics.median(pair[0] for pair in pairs)
        print(f"{name:32s} {seconds:6.2f} s  ratio {wall:.2f}  CPU {processor:.2f}")


if __name__ == "__main__":
    main()
