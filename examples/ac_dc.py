"""Trains a sparse network in a single run: AC/DC, on `tflottery.hold`.

    python examples/ac_dc.py

Dense and sparse epochs alternate, and the last third is sparse (Peste et al. 2021,
"AC/DC: Alternating Compressed/DeCompressed Training of Deep Neural Networks"). It is
what one would try before a search: `tflottery reproduce cost_accuracy` compares them.
"""

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import tflottery

EPOCHS = 15
SPARSITY = 0.9


def main() -> None:
    keras.utils.set_random_seed(0)
    images, labels = load_digits(return_X_y=True)
    split = train_test_split(images / 16, labels, test_size=0.25, random_state=0)
    x_train, x_test, y_train, y_test = split
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(100, activation="relu", name="hidden1"),
            keras.layers.Dense(50, activation="relu", name="hidden2"),
            keras.layers.Dense(10, activation="softmax", name="output"),
        ]
    )
    model.compile(
        keras.optimizers.Adam(2e-3),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    for epoch in range(EPOCHS):
        sparse = epoch % 2 == 1 or epoch >= EPOCHS * 2 / 3
        # Masks that keep everything let the pruned weights grow again, from zero.
        tflottery.hold(model, largest(model, SPARSITY if sparse else 0.0))
        model.fit(x_train, y_train, batch_size=32, verbose=0)
    accuracy = model.evaluate(x_test, y_test, verbose=0, return_dict=True)["accuracy"]
    kernels = [keras.ops.convert_to_numpy(layer.kernel) for layer in model.layers]
    zero = np.mean(np.concatenate([k.ravel() for k in kernels]) == 0)
    print(f"Test accuracy {accuracy:.4f} with {100 * zero:.1f} % of the weights zero.")


def largest(model: keras.Model, sparsity: float) -> dict[str, np.ndarray]:
    """Returns masks of the largest weights of each layer."""
    masks = {}
    for layer in model.layers:
        size = np.abs(keras.ops.convert_to_numpy(layer.kernel))
        masks[f"{layer.name}/kernel"] = size >= np.quantile(size, sparsity)
    return masks


if __name__ == "__main__":
    main()
