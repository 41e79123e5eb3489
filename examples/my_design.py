"""A comparison of your own: your network, your images, and the arms that you choose.

pip install scikit-learn && tflottery reproduce examples/my_design.py --dry_run
"""

import keras
from sklearn.datasets import load_digits

from tflottery.lab.data import datasets
from tflottery.lab.experiment.design import Design
from tflottery.lab.training import Adam, Recipe


def network(input_shape, num_classes):
    layers = [
        keras.Input(input_shape),
        keras.layers.Conv2D(16, 3, activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dense(32, activation="relu"),
        keras.layers.Dense(num_classes, activation="softmax"),
    ]
    return keras.Sequential(layers)


x, y = load_digits(return_X_y=True)
x = (x.reshape(-1, 8, 8, 1) * 15).astype("uint8")
# Or `tf.data` of (image, label), as tfds.load("beans", as_supervised=True) gives.
images = datasets.own("digits", (x[:1400], y[:1400]), (x[1400:], y[1400:]))

source = Recipe(
    name="source",
    model=network,
    dataset=images,
    batch_size=32,
    steps=60,  # Of each round.
    optimizer=Adam(learning_rate=3e-3),
    target_sparsity=0.9,
)
target = Recipe(
    name="ten_images_per_class",
    model=network,
    dataset=images,
    images_per_class=10,
    validation=0.2,
    batch_size=32,
    steps=30,
    optimizer=Adam(learning_rate=3e-3),
)
design = Design(
    name="my_design",
    source=source,
    targets=(target,),
    source_classes=(0, 1, 2, 3, 4),
    target_classes=(5, 6, 7, 8, 9),
    prunings=2,
    rounds=(1, 2),
    arms=("trained", "layer_shuffled", "from_scratch"),
    seeds=1,
)

if __name__ == "__main__":
    from tflottery.cli import main

    main.main(["reproduce", __file__])
