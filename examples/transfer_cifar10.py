"""Moves a ticket to another task: a new head, the same masks, and a small file.

    pip install scikit-learn && python examples/transfer_cifar10.py --full

With --full it goes from CIFAR-10 to FashionMNIST, which Keras downloads. Without, it
goes from the digits 0 to 4 to the digits 5 to 9, in half a minute.
"""

import argparse

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import tflottery


def digits(first):
    """Returns five digits in the form of `keras.datasets`: train and test images."""
    x, y = load_digits(return_X_y=True)
    chosen = (y >= first) & (y < first + 5)
    x, y = x[chosen].reshape(-1, 8, 8, 1) * 16, y[chosen] - first
    x_train, x_test, y_train, y_test = train_test_split(x, y, random_state=0)
    return (x_train, y_train), (x_test, y_test)


def fashion_mnist():
    """Returns FashionMNIST in the shape of CIFAR-10, 32x32 pixels in colour."""
    parts = keras.datasets.fashion_mnist.load_data()
    border = ((0, 0), (2, 2), (2, 2))
    return [(np.pad(x, border)[..., None].repeat(3, axis=-1), y) for x, y in parts]


def scaled(task):
    """Returns a task's images in [0, 1] and its labels."""
    return [(np.float32(x) / 255, y.reshape(-1)) for x, y in task]


def network(input_shape, classes, seed):
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Conv2D(32, 3, padding="same", activation="relu", name="conv1"),
            layers.MaxPooling2D(name="pool1"),
            layers.Conv2D(64, 3, padding="same", activation="relu", name="conv2"),
            layers.GlobalAveragePooling2D(name="pool2"),
            layers.Dense(64, activation="relu", name="hidden"),
            layers.Dense(classes, activation="softmax", name="output"),
        ]
    )


def compiled(model):
    model.compile(
        keras.optimizers.Adam(5e-3),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=False,
    )
    return model


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--full", action="store_true", help="CIFAR-10 to FashionMNIST.")
full = parser.parse_args().full
source = scaled(keras.datasets.cifar10.load_data() if full else digits(0))
target = scaled(fashion_mnist() if full else digits(5))
classes, epochs = (10, 20) if full else (5, 8)
shape = source[0][0].shape[1:]

# 1. Find a ticket of the source task.
model = tflottery.find_ticket(
    compiled(network(shape, classes, seed=0)),
    source[0],
    validation_data=source[1],
    epochs=epochs,
    rounds=3,
    target_sparsity=0.8,
    select="last",
    seed=0,
)

# 2. Train its masks on the target task, with its weights and with new ones.
fresh = tflottery.controls.weights_of(network(shape, classes, seed=1))
control = tflottery.controls.reinitialized(model.ticket, fresh, seed=1)
students = {}
for name, ticket in (("ticket", model.ticket), ("re-initialized", control)):
    student = tflottery.transfer_ticket(
        ticket, classes, backbone=network(shape, classes, seed=0), seed=0
    )
    compiled(student).fit(*target[0], epochs=epochs, verbose=0)
    accuracy = student.evaluate(*target[1], return_dict=True, verbose=0)["accuracy"]
    print(
        f"{name}: {100 * student.ticket.density:.1f} % of the weights, "
        f"test accuracy {100 * accuracy:.1f} %"
    )
    students[name] = student

# 3. Export the student.
report = tflottery.export_tflite(
    students["ticket"], "student.tflite", samples=target[1][0]
)
print(report)
