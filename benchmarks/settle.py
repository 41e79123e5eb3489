"""What do rounds that end when their masks have settled cost, and what do they lose?

    python benchmarks/settle.py --data_dir DIR --run_dir runs/settle

Searches with `settle` and in full, with the same seeds, and prints for each seed the
steps of the one over those of the other, the test accuracy of both tickets, and the
share of the CPU time that drawing masks took. `--network lenet` is LeNet-300-100 on
MNIST, Frankle & Carbin's recipe with 10 epochs a round, to 3.6 %; `--network conv` is
the narrow Conv-4 of the design `cost_accuracy_conv` on CIFAR-10, to 5 %.
`--rounds` prunes less often, and more each time.
It may be stopped and run again: what is finished is not done twice.
"""

import json
import pathlib
import time

import keras
from absl import app, flags

import tflottery
from tflottery.lab import recipes, training
from tflottery.lab.data import datasets, pipelines
from tflottery.lab.experiment import designs
from tflottery.search import settling

DATA_DIR = flags.DEFINE_string("data_dir", None, "Where the images are, for TFDS.")
RUN_DIR = flags.DEFINE_string("run_dir", "runs/settle", "Where to keep the runs.")
NETWORK = flags.DEFINE_enum("network", "lenet", ["lenet", "conv"], "What to search.")
SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Which seeds.")
SETTLE = flags.DEFINE_float("settle", 0.1, "The argument of `find_ticket`.")
ROUNDS = flags.DEFINE_integer("rounds", None, "Prunings, if not as many as by 0.2.")
ARMS = flags.DEFINE_list("arms", ["settle", "full"], "Which searches.")

CONV = designs.design("cost_accuracy_conv", "cpu")
# Recipe, most training images, and settings of the search.
NETWORKS = {
    "lenet": (
        recipes.recipe("frankle_lenet"),
        None,
        {"epochs": 10, "target_sparsity": 0.9641},
    ),
    "conv": (CONV.source, CONV.images, {"target_sparsity": 0.95}),
}


def main(_):
    recipe, most, settings = NETWORKS[NETWORK.value]
    images = datasets.load(recipe.dataset, data_dir=DATA_DIR.value).limited(most)
    for seed in map(int, SEEDS.value):
        found = {arm: result(arm, seed, images, recipe, settings) for arm in ARMS.value}
        print(json.dumps({"seed": seed, **found}), flush=True)


def result(arm, seed, images, recipe, settings) -> dict:
    """Returns what a search took, and the test accuracy of its ticket."""
    name = f"{NETWORK.value}_{seed}_{arm}"
    if ROUNDS.value:
        name += f"_{ROUNDS.value}"
    folder = pathlib.Path(RUN_DIR.value) / name
    data = recipe.arrays(images, seed=seed)
    train = pipelines.train_pipeline(
        *data.train, batch_size=recipe.batch_size, seed=seed, augment=recipe.augment
    )
    keras.utils.set_random_seed(seed)
    model = training.compile_model(recipe.build(images, seed=seed), recipe)
    spent = drawing_time()
    began = time.process_time()
    tflottery.find_ticket(
        model,
        train,
        validation_data=data.validation,
        validation_batch_size=1000,
        **recipe.search_settings(len(data.train[0])) | settings,
        settle=SETTLE.value if arm == "settle" else None,
        rounds=ROUNDS.value,
        select="last",
        seed=seed,
        run_dir=folder,
    )
    seconds = time.process_time() - began
    accuracy = model.evaluate(*data.test, 1000, verbose=0)[1]
    ticket, kept = model.ticket, folder / "result.json"
    if not kept.exists():  # Else the search was only read.
        kept.write_text(json.dumps({"drawing": spent[0] / seconds}))
    return {
        "steps": sum(r.steps for r in ticket.rounds),
        "rounds": [r.steps for r in ticket.rounds],
        "left": round(ticket.density, 4),
        "test_accuracy": round(float(accuracy), 4),
        **json.loads(kept.read_text()),
    }


def drawing_time() -> list[float]:
    """Returns a list whose number is the CPU seconds spent on drawing from now on."""
    spent, make = [0.0], settling.ends_when_settled

    def timed(*given):
        callback = make(*given)
        draws = callback.on_train_batch_end

        def on_train_batch_end(batch, logs=None):
            began = time.process_time()
            draws(batch, logs)
            spent[0] += time.process_time() - began

        callback.on_train_batch_end = on_train_batch_end
        return callback

    settling.ends_when_settled = timed
    return spent


if __name__ == "__main__":
    app.run(main)
