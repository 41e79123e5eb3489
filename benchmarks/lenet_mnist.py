"""Does tflottery find winning tickets? LeNet-300-100 on MNIST, against its controls.

    python benchmarks/lenet_mnist.py --data_dir DIR --run_dir runs/lenet_mnist

Frankle & Carbin's recipe, 10 epochs a round. For each seed it searches for tickets,
then trains the same masks on fresh weights and random masks of the same density.
Writes docs/results/lenet_mnist.json and .png, and prints the means at 3.6 % left. It
may be stopped and run again: what is finished is not done twice.
"""

import json
import pathlib

import keras
import numpy as np
from absl import app, flags

import tflottery
from tflottery.lab import recipes, training
from tflottery.lab.data import datasets, pipelines
from tflottery.transfer import controls

DATA_DIR = flags.DEFINE_string("data_dir", None, "Where MNIST is, for TFDS.")
RUN_DIR = flags.DEFINE_string("run_dir", "runs/lenet_mnist", "Where to keep the runs.")
OUT = flags.DEFINE_string("out", "docs/results/lenet_mnist", "What to write.")
SEEDS = flags.DEFINE_integer("seeds", 3, "How many seeds.", lower_bound=2)
EPOCHS = flags.DEFINE_integer("epochs", 10, "Epochs of a round.", lower_bound=1)

ARMS = {
    "reinitialized": controls.reinitialized,
    "randomly_masked": controls.randomly_masked,
}
CONTROLLED_ROUNDS = (3, 6, 9, 12, 15, 16)


def main(_):
    images = datasets.load("mnist", data_dir=DATA_DIR.value)
    recipe = recipes.recipe("frankle_lenet")
    rows = []
    for seed in range(SEEDS.value):
        rows += run_seed(seed, images, recipe)
        write(rows)
    for density in (0.036, 0.029):
        print(summary(rows, density))


def run_seed(seed: int, images: datasets.Images, recipe: training.Recipe) -> list:
    """Returns a row for every arm and round of one seed."""
    folder = pathlib.Path(RUN_DIR.value) / f"seed_{seed}"
    data = recipe.arrays(images, seed=seed)
    train = pipelines.train_pipeline(
        *data.train, batch_size=recipe.batch_size, seed=seed
    )
    keras.utils.set_random_seed(seed)
    model = training.compile_model(recipe.build(images, seed=seed), recipe)
    settings = recipe.search_settings(len(data.train[0])) | {"epochs": EPOCHS.value}
    tflottery.find_ticket(
        model,
        train,
        validation_data=data.validation,
        validation_batch_size=1000,
        **settings,
        select="last",
        seed=seed,
        run_dir=folder,
    )
    rows, done = [], sorted((folder / "rounds").glob("*.ticket"))
    # Another model, as the one that was searched holds its ticket.
    tester = training.compile_model(recipe.build(images, seed=seed), recipe)
    for path in done:
        ticket = tflottery.load_ticket(path)
        ticket.apply(tester)
        rows.append(
            row(seed, "ticket", ticket, tester.evaluate(*data.test, 1000, verbose=0)[1])
        )
    for number in CONTROLLED_ROUNDS:
        if number >= len(done):
            continue
        ticket = tflottery.load_ticket(done[number])
        for name, arm in ARMS.items():
            result = folder / f"{name}_{number:03d}.json"
            if not result.exists():
                # Fresh weights of the initializers' own draw, another for each arm.
                other = recipe.build(images, seed=1000 + 100 * seed + len(name))
                control = arm(ticket, controls.weights_of(other), seed)
                control.apply(other, weights="initial")
                training.compile_model(other, recipe, steps_per_execution=20)
                train.epoch = 0
                other.fit(train, epochs=EPOCHS.value, shuffle=False, verbose=0)
                accuracy = other.evaluate(*data.test, 1000, verbose=0)[1]
                result.write_text(json.dumps(row(seed, name, control, accuracy)))
                print(
                    f"seed {seed}, round {number}, {name}: {accuracy:.4f}", flush=True
                )
            rows.append(json.loads(result.read_text()))
    return rows


def row(seed: int, arm: str, ticket: tflottery.Ticket, accuracy: float) -> dict:
    return {
        "seed": seed,
        "arm": arm,
        "density": ticket.density,
        "test_accuracy": float(accuracy),
    }


def accuracies(rows: list, arm: str, density: float) -> np.ndarray:
    """Returns the accuracies of an arm, a value per seed, nearest to a density."""
    mine = [r for r in rows if r["arm"] == arm]
    nearest = min({r["density"] for r in mine}, key=lambda d: abs(np.log(d / density)))
    return 100 * np.array([r["test_accuracy"] for r in mine if r["density"] == nearest])


def summary(rows: list, density: float) -> str:
    arms = {"dense": accuracies(rows, "ticket", 1.0)}
    arms |= {arm: accuracies(rows, arm, density) for arm in ("ticket", *ARMS)}
    text = ", ".join(f"{arm} {a.mean():.2f}" for arm, a in arms.items())
    return f"{100 * density:.1f} % left, {len(arms['dense'])} seeds: {text}"


def write(rows: list) -> None:
    """Writes the rows, and the plot of accuracy over density."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from scipy import stats

    out = pathlib.Path(OUT.value)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    styles = {
        "ticket": ("#0072B2", "o", "winning ticket"),
        "reinitialized": ("#D55E00", "s", "same masks, re-initialized"),
        "randomly_masked": ("#009E73", "^", "random masks"),
    }
    for arm, (colour, marker, label) in styles.items():
        densities = sorted({r["density"] for r in rows if r["arm"] == arm})
        values = [accuracies(rows, arm, d) for d in densities]
        means = [v.mean() for v in values]
        errors = [
            stats.t.ppf(0.975, len(v) - 1) * v.std(ddof=1) / len(v) ** 0.5
            if len(v) > 1
            else 0
            for v in values
        ]
        axes.errorbar(
            [100 * d for d in densities],
            means,
            errors,
            color=colour,
            marker=marker,
            label=label,
            capsize=3,
            markersize=5,
        )
    dense = accuracies(rows, "ticket", 1.0)
    axes.axhline(dense.mean(), color="grey", linestyle=":", label="dense network")
    axes.set_xscale("log")
    axes.invert_xaxis()
    ticks = [100, 50, 20, 10, 5, 3]
    axes.set_xticks(ticks, [f"{t}" for t in ticks])
    axes.minorticks_off()
    axes.set(xlabel="weights left (%)", ylabel="test accuracy (%)")
    axes.set_title(
        f"LeNet-300-100 on MNIST, {len(dense)} seeds, mean and 95 % interval"
    )
    axes.legend(loc="lower left")
    figure.savefig(out.with_suffix(".png"), dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    app.run(main)
