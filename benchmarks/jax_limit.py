"""How near is a search to the limit? LeNet's epoch over one jitted scan on JAX.

    KERAS_BACKEND=jax python benchmarks/jax_limit.py --data_dir DIR

Times an epoch of LeNet-300-100 on MNIST, batch 128, inside `find_ticket`, without the
first one of a run, which compiles; and an epoch as one jitted `jax.lax.scan` over the
same batches with the data on the device. Prints the median of the ratios pair by pair.
With KERAS_BACKEND=tensorflow it times `find_ticket` on TensorFlow against the scan.
"""

import itertools
import statistics
import time

import jax
import jax.numpy as jnp
import keras
import numpy as np
from absl import app, flags

import tflottery
from tflottery.lab import recipes, training
from tflottery.lab.data import datasets, pipelines

DATA_DIR = flags.DEFINE_string("data_dir", None, "Where MNIST is, for TFDS.")
PAIRS = flags.DEFINE_integer("pairs", 5, "Pairs of epochs.")
BATCH = 128


class Clock(keras.callbacks.Callback):
    """Notes when each epoch ends, and runs the other side's epoch in between."""

    def __init__(self, other):
        super().__init__()
        self.other = other
        self.ratios = []

    def on_epoch_begin(self, epoch, logs=None):
        self.limit = self.other()
        self.began = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.ratios.append((time.perf_counter() - self.began) / self.limit)


def main(_):
    recipe = recipes.recipe("frankle_lenet")
    images = datasets.load("mnist", data_dir=DATA_DIR.value)
    x, y = recipe.arrays(images, seed=0).train
    clock = Clock(scan_epoch(x, y))
    model = training.compile_model(recipe.build(images, seed=0), recipe)
    tflottery.find_ticket(
        model,
        pipelines.train_pipeline(x, y, batch_size=BATCH, seed=0),
        validation_data=(x[:500], y[:500]),
        validation_batch_size=500,
        epochs=PAIRS.value,
        rounds=1,
        select="last",
        callbacks=[clock],
        verbose=0,
    )
    ratios = clock.ratios[PAIRS.value :]  # Of the second round, all compiled.
    print(
        f"find_ticket on {keras.backend.backend()} over one scan: "
        f"{statistics.median(ratios):.2f} (at most 1.6), pairs: "
        f"{' '.join(f'{r:.2f}' for r in sorted(ratios))}"
    )


def scan_epoch(x, y):
    """Returns a function that trains one epoch in one call, and its seconds."""
    steps = len(x) // BATCH
    x = jnp.asarray(x.reshape(len(x), -1))
    y = jnp.asarray(y)
    rng = np.random.default_rng(0)
    sizes = [784, 300, 100, 10]
    weights = [
        (
            jnp.asarray(rng.normal(0, (2 / (a + b)) ** 0.5, (a, b)), jnp.float32),
            jnp.zeros(b),
        )
        for a, b in itertools.pairwise(sizes)
    ]
    slots = jax.tree.map(jnp.zeros_like, weights)
    state = (weights, slots, slots, jnp.zeros(()))

    def loss(weights, x, y):
        for w, b in weights[:-1]:
            x = jax.nn.relu(x @ w + b)
        w, b = weights[-1]
        logits = jax.nn.log_softmax(x @ w + b)
        return -jnp.take_along_axis(logits, y[:, None], 1).mean()

    def step(state, chosen):
        weights, m, v, t = state
        value, grads = jax.value_and_grad(loss)(weights, x[chosen], y[chosen])
        t = t + 1
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, grads)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, grads)
        rate = 1.2e-3 * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        weights = jax.tree.map(
            lambda w, m, v: w - rate * m / (jnp.sqrt(v) + 1e-7), weights, m, v
        )
        return (weights, m, v, t), value

    @jax.jit
    def epoch(state, order):
        return jax.lax.scan(step, state, order.reshape(steps, BATCH))

    held = {"state": state}

    def run() -> float:
        order = jnp.asarray(rng.permutation(len(x))[: steps * BATCH])
        began = time.perf_counter()
        held["state"], values = epoch(held["state"], order)
        values.block_until_ready()
        return time.perf_counter() - began

    run()
    return run


if __name__ == "__main__":
    app.run(main)
