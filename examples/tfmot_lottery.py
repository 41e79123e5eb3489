"""Turns a tfmot program into a search, with one schedule and one callback.

    pip install -e '.[tfmot]' scikit-learn && python examples/tfmot_lottery.py

A small LeNet on scikit-learn's digits, pruned in five rounds within a single `fit`.
"""

import tensorflow_model_optimization as tfmot
import tf_keras
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import tflottery

BATCH = 32
EPOCHS_PER_ROUND = 10


def main() -> None:
    tf_keras.utils.set_random_seed(0)
    images, labels = load_digits(return_X_y=True)
    split = train_test_split(images / 16, labels, test_size=0.25, random_state=0)
    x_train, x_test, y_train, y_test = split
    model = tf_keras.Sequential(
        [
            tf_keras.layers.Input((64,)),
            tf_keras.layers.Dense(100, activation="relu", name="hidden1"),
            tf_keras.layers.Dense(50, activation="relu", name="hidden2"),
            tf_keras.layers.Dense(10, activation="softmax", name="output"),
        ]
    )

    # The schedule replaces PolynomialDecay or ConstantSparsity.
    steps_per_epoch = -(-len(x_train) // BATCH)
    schedule = tflottery.LotterySchedule(
        rounds=5,
        steps_per_round=EPOCHS_PER_ROUND * steps_per_epoch,
        target_sparsity=0.9,
        rewind_step=steps_per_epoch,  # The end of the first epoch.
    )
    wrapped = tfmot.sparsity.keras.prune_low_magnitude(model, schedule)
    wrapped.compile(
        tf_keras.optimizers.Adam(2e-3),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    # The callback prunes and rewinds at the end of each round.
    search = tflottery.RewindToInit(verbose=1)
    wrapped.fit(
        x_train,
        y_train,
        batch_size=BATCH,
        epochs=schedule.total_steps // steps_per_epoch,
        validation_data=(x_test, y_test),
        callbacks=[tfmot.sparsity.keras.UpdatePruningStep(), search],
        verbose=0,
    )
    search.ticket.summary()

    # Without wrappers, pruned weights still stay zero in later training.
    sparse = tfmot.sparsity.keras.strip_pruning(wrapped)
    sparse.compile(metrics=["accuracy"], loss="sparse_categorical_crossentropy")
    accuracy = sparse.evaluate(x_test, y_test, verbose=0, return_dict=True)["accuracy"]
    zeros = sum(int((w.numpy() == 0).sum()) for w in sparse.weights)
    print(
        f"Without wrappers: test accuracy {accuracy:.4f}, {zeros:,} weights are zero."
    )


if __name__ == "__main__":
    main()
