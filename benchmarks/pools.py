"""What do pools gain on test data?

    python benchmarks/pools.py --data_dir DIR --searches 'RUN/searches/seed*-ticket15'

Pools rounds of the finished searches of `tflottery reproduce cost_accuracy_conv
--preset cpu --run_dir RUN`, the narrow Conv-4 on CIFAR-10. Prints for each seed and
round the test accuracy before and after, then for each round the mean change with its
95 % interval, in points. The searches are only read.
"""

import glob
import json
import re

from absl import app, flags

import tflottery
from tflottery.lab import training
from tflottery.lab.data import datasets
from tflottery.lab.experiment import designs
from tflottery.lab.report import intervals

DATA_DIR = flags.DEFINE_string("data_dir", None, "Where the images are, for TFDS.")
SEARCHES = flags.DEFINE_string("searches", None, "A pattern of run directories.")
DESIGN = flags.DEFINE_string("design", "cost_accuracy_conv", "Which experiment's.")
ROUNDS = flags.DEFINE_list("rounds", ["7", "10", "13"], "Which rounds' masks.")


def main(_):
    design = designs.design(DESIGN.value, "cpu")
    recipe = design.source
    images = datasets.load(recipe.dataset, data_dir=DATA_DIR.value)
    images = images.limited(design.images)
    changes = {int(number): [] for number in ROUNDS.value}
    for folder in sorted(glob.glob(SEARCHES.value)):
        seed = int(re.findall(r"seed(\d+)", folder)[-1])
        data = recipe.arrays(images, seed=seed)
        model = training.compile_model(recipe.build(images, seed=seed), recipe)
        for number, found in changes.items():
            before = tflottery.load_ticket(f"{folder}/rounds/{number:03d}.ticket")
            tested = [accuracy(before.apply(model), data)]
            tflottery.pool(
                model,
                folder,
                data.validation,
                ds=data.train[0],
                round=number,
                validation_batch_size=1000,
                verbose=0,
            )
            tested.append(accuracy(model, data))
            found.append(tested[1] - tested[0])
            told = {"seed": seed, "left": before.density, "test": tested}
            print(json.dumps(told | dict(model.ticket.origin)), flush=True)
    for number, found in changes.items():
        told = intervals.points(intervals.interval(found), signed=True, digits=2)
        print(number, [f"{100 * change:+.2f}" for change in found], told, flush=True)


def accuracy(model, data) -> float:
    return float(model.evaluate(*data.test, 1000, verbose=0)[1])


if __name__ == "__main__":
    app.run(main)
