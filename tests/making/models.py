"""Points to classify, small networks of any Keras for them, and callbacks that stop."""

import numpy as np


def points(count=64, classes=3):
    """Returns `(x, y)`: points of 6 numbers, and classes that a network can learn."""
    x = np.random.default_rng(0).normal(size=(count, 6)).astype("float32")
    y = (x[:, 0] + x[:, 1] > 0).astype("int64")
    return x, y + (x[:, 2] > 1) if classes == 3 else y


def dense(keras, *between, classes=3, names=("hidden", "output")):
    """Returns a network of two Dense layers, with the layers `between` them.

    With the names `(None, None)` Keras numbers its layers, by other numbers every time.
    """
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((6,)),
            layers.Dense(8, activation="relu", name=names[0]),
            *between,
            layers.Dense(classes, activation="softmax", name=names[1]),
        ]
    )


def interrupts(keras, at):
    """Returns a callback that interrupts each training as epoch `at` begins."""

    class Interrupts(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == at:
                raise KeyboardInterrupt

    return Interrupts()
