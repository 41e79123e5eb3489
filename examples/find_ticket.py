"""Finds a winning ticket in a Keras 3 model, with one call instead of `fit`.

pip install scikit-learn && python examples/find_ticket.py
"""

import keras
from sklearn.datasets import load_digits

import tflottery

images, labels = load_digits(return_X_y=True)
images = images.astype("float32") / 16
train, validation = slice(0, 1200), slice(1200, None)

keras.utils.set_random_seed(0)
model = keras.Sequential(
    [
        keras.Input((64,)),
        keras.layers.Dense(100, activation="relu"),
        keras.layers.Dense(30, activation="relu"),
        keras.layers.Dense(10, activation="softmax", name="output"),
    ]
)
model.compile(
    keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"]
)

model = tflottery.find_ticket(
    model,
    (images[train], labels[train]),
    validation_data=(images[validation], labels[validation]),
    epochs=8,
    rounds=5,
    target_sparsity=0.9,
    tolerance=0.01,
    layer_fractions={"output": 0.1},
    scope="layer",
    seed=0,
)

model.ticket.summary()
model.ticket.save("digits.ticket")

# Pruned weights stay zero in later training, until `tflottery.release(model)`.
model.fit(images[train], labels[train], epochs=1, verbose=0)
kernel = model.layers[0].kernel.numpy()
print(f"The first layer has {100 * (kernel != 0).mean():.1f} % of its weights.")
