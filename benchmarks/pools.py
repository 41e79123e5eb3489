"""What do pools gain on test data?

    python benchmarks/pools.py --data_dir DIR --run_dir runs/pools

Searches like `tflottery reproduce cost_accuracy_conv --preset cpu`, with the narrow
Conv-4 on CIFAR-10, and pools rounds of each search. Prints for each seed and round the
test accuracy before and after, then for each round the mean change with its 95 %
interval, in points. It may be stopped and run again: what is searched is not searched
twice. The `searches` of a finished `reproduce` will do as `--run_dir`, too.
"""

import json
import pathlib

from absl import app, flags

import tflottery
from tflottery.lab import training
from tflottery.lab.data import datasets
from tflottery.lab.experiment import bench, designs
from tflottery.lab.report import intervals

DATA_DIR = flags.DEFINE_string("data_dir", None, "Where the images are, for TFDS.")
RUN_DIR = flags.DEFINE_string("run_dir", "runs/pools", "Where to keep the searches.")
DESIGN = flags.DEFINE_string("design", "cost_accuracy_conv", "Whose searches.")
SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Which seeds.")
ROUNDS = flags.DEFINE_list("rounds", ["7", "10", "13"], "Which rounds' masks.")


def main(_):
    design = designs.design(DESIGN.value, "cpu")
    recipe = design.source
    images = datasets.load(recipe.dataset, data_dir=DATA_DIR.value)
    images = images.limited(design.images)
    changes = {int(number): [] for number in ROUNDS.value}
    for seed in map(int, SEEDS.value):
        search = design.searches(seed)[0]
        folder = pathlib.Path(RUN_DIR.value) / search.name
        bench.search(recipe, images, search, folder, lambda: None)
        data = recipe.arrays(images, seed=seed)
        model = training.compile_model(recipe.build(images, seed=seed), recipe)
        for number, found in changes.items():
            before = tflottery.load_ticket(folder / f"rounds/{number:03d}.ticket")
            tested = [accuracy(before.apply(model), data)]
            tflottery.pool(
                model,
                folder,
                data.validation,
                ds=data.train[0],
                round=number,
                validation_batch_size=bench.EVALUATION_BATCH,
                verbose=0,
            )
            tested.append(accuracy(model, data))
            found.append(tested[1] - tested[0])
            told = {"seed": seed, "left": round(before.density, 4), "test": tested}
            print(json.dumps(told | dict(model.ticket.origin)), flush=True)
    for number, found in changes.items():
        told = intervals.points(intervals.interval(found), signed=True, digits=2)
        print(number, [f"{100 * change:+.2f}" for change in found], told, flush=True)


def accuracy(model, data) -> float:
    return float(model.evaluate(*data.test, bench.EVALUATION_BATCH, verbose=0)[1])


if __name__ == "__main__":
    app.run(main)
