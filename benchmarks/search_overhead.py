"""What does a search cost over plain training? Time and peak memory, as ratios.

    python benchmarks/search_overhead.py --data_dir DIR [--only lenet_keras3]

Each case trains the same epochs and evaluations twice in turn, by `fit` and by
`find_ticket`, and prints the median of the ratios pair by pair. Both start with a new
model, so both pay for their traces. `given` sets steps_per_execution for both; `left`
leaves it at 1, which `find_ticket` may raise. Of a busy machine the ratio of the
processor's time says more than the clock's. `tfmot` trains by `fit` with tfmot's own
pruning wrapper, as an epoch of it costs. Memory is the peak of a process of its own.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time

from absl import app, flags

DATA_DIR = flags.DEFINE_string("data_dir", None, "Where the datasets are, for TFDS.")
ONLY = flags.DEFINE_string("only", None, "One case by name.")
PAIRS = flags.DEFINE_integer("pairs", 5, "Pairs of runs of each case.")
ROUNDS = flags.DEFINE_integer("rounds", 2, "Prunings of the search.")
EPOCHS = flags.DEFINE_integer("epochs", 6, "Epochs of a round.")
MEMORY = flags.DEFINE_enum("memory", None, ["fit", "find"], "Run once and tell memory.")

# case: (Keras, recipe, training images, steps per execution, what is compared)
CASES = {
    "lenet_keras3_given": ("keras", "frankle_lenet", 30_000, 20, "find"),
    "lenet_keras3_left": ("keras", "frankle_lenet", 30_000, 1, "find"),
    "lenet_tf_keras_given": ("tf_keras", "frankle_lenet", 30_000, 20, "find"),
    "lenet_tf_keras_left": ("tf_keras", "frankle_lenet", 30_000, 1, "find"),
    "lenet_tfmot_itself": ("tf_keras", "frankle_lenet", 30_000, 1, "tfmot"),
    "conv2_keras3_given": ("keras", "frankle_conv2", 2_000, 20, "find"),
    "conv2_tf_keras_given": ("tf_keras", "frankle_conv2", 2_000, 20, "find"),
}
MOST = {
    "lenet_keras3_given": 1.10,
    "lenet_keras3_left": 0.85,
    "lenet_tf_keras_given": 1.25,
    "lenet_tf_keras_left": 0.85,
    "conv2_keras3_given": 1.05,
    "conv2_tf_keras_given": 1.05,
}


def main(_):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if MEMORY.value:
        runs = make(ONLY.value)
        runs[MEMORY.value]()
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps({"peak": most}))
        return
    for name in CASES:
        if ONLY.value in (None, name):
            print(f"{name:<22} {measure(name)}", flush=True)
    if ONLY.value in (None, "memory"):
        peaks = {way: peak("conv2_keras3_given", way) for way in ("fit", "find")}
        ratio = peaks["find"] / peaks["fit"]
        print(f"{'conv2 peak memory':<22} {ratio:.3f} (at most 1.3)")


def peak(name: str, way: str) -> float:
    command = [sys.executable, __file__, f"--only={name}", f"--memory={way}"]
    command += [f"--data_dir={DATA_DIR.value}", f"--rounds={ROUNDS.value}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])["peak"]


def measure(name: str) -> str:
    """Returns the median ratio of a case as text."""
    runs = make(name)
    ratios, cpu = [], []
    for pair in range(PAIRS.value + 1):
        seconds = {way: timed(runs[way]) for way in ("fit", "find")}
        if pair:  # The first one warms up what a process does once.
            ratios.append(seconds["find"][0] / seconds["fit"][0])
            cpu.append(seconds["find"][1] / seconds["fit"][1])
    limit = f" (at most {MOST[name]})" if name in MOST else ""
    return (
        f"{statistics.median(ratios):.3f}{limit}, pairs: "
        f"{' '.join(f'{r:.2f}' for r in sorted(ratios))}; of processor time "
        f"{statistics.median(cpu):.3f}"
    )


def timed(run) -> tuple[float, float]:
    """Returns the seconds on the clock and those of the processor."""
    began = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - began[0], time.process_time() - began[1]


def make(name: str) -> dict:
    """Returns the two ways to train a case: `fit` and what is compared to it."""
    import importlib

    import tflottery
    from tflottery.lab import recipes, training
    from tflottery.lab.data import datasets, pipelines

    kind, recipe_name, count, steps, compared = CASES[name]
    keras = importlib.import_module(kind)
    recipe = recipes.recipe(recipe_name)
    images = datasets.load(recipe.dataset, data_dir=DATA_DIR.value)
    data = recipe.arrays(images, seed=0)
    x, y = (part[:count] for part in data.train)
    size = recipe.batch_size
    train = pipelines.train_pipeline(x, y, batch_size=size, seed=0, keras=keras)
    validation = tuple(part[: count // 10] for part in data.validation)

    def new():
        keras.backend.clear_session()
        model = recipe.build(images, keras=keras, seed=0)
        return training.compile_model(model, recipe, steps_per_execution=steps)

    def fit(model=None, callbacks=()):
        model = model or new()
        for _ in range(ROUNDS.value + 1):
            extra = {"shuffle": False}
            model.fit(
                train,
                validation_data=validation,
                validation_batch_size=500,
                epochs=EPOCHS.value,
                verbose=0,
                callbacks=list(callbacks),
                **extra,
            )
            model.evaluate(*validation, 500, verbose=0)

    def find():
        tflottery.find_ticket(
            new(),
            train,
            validation_data=validation,
            validation_batch_size=500,
            epochs=EPOCHS.value,
            rounds=ROUNDS.value,
            select="last",
            verbose=0,
        )

    def tfmot():
        import tensorflow_model_optimization as tfmot

        sparsity = tfmot.sparsity.keras
        model = new()
        wrapped = sparsity.prune_low_magnitude(
            model, sparsity.ConstantSparsity(0.5, 0, frequency=100)
        )
        training.compile_model(wrapped, recipe)
        fit(wrapped, [sparsity.UpdatePruningStep()])

    return {"fit": fit, "find": {"find": find, "tfmot": tfmot}[compared]}


if __name__ == "__main__":
    app.run(main)
