"""demo: finds, transfers, exports and reports a ticket, on digits."""

import argparse
import dataclasses
import pathlib
from typing import Any

import numpy as np

from tflottery.cli import report
from tflottery.core import files

# Arguments of `export_tflite` for each file.
_FILES: dict[str, dict[str, Any]] = {
    "size": {},
    "w8": {"quantize": "weights"},
    "float16": {"target": "float16"},
    "int8": {"target": "int8"},
    "sparse_speed": {"target": "sparse_speed"},
}
_LABELLED, _EPOCHS = 100, 60


def define(parser: argparse.ArgumentParser) -> None:
    text = "folder for the results; default: runs/demo"
    parser.add_argument("--run_dir", default="runs/demo", metavar="DIR", help=text)


def demo(arguments: argparse.Namespace) -> None:
    """Finds, transfers and exports a ticket, in less than three minutes.

    It finds a ticket in a small LeNet on ten digits, transfers it to a task with few
    labels, exports it for every target, and writes a report. Run again, it resumes the
    search.
    """
    import keras

    from tflottery import (
        controls,
        evaluate_tflite,
        export_tflite,
        find_ticket,
        load_ticket,
        transfer_ticket,
    )
    from tflottery.lab import recipes, training
    from tflottery.lab.data import datasets, pipelines

    folder = files.path_of(arguments.run_dir, "run_dir")
    is_local = isinstance(folder, pathlib.Path)
    if not is_local or (folder.exists() and not folder.is_dir()):
        raise ValueError(
            "`--run_dir` must be a folder on this machine, existing or new, but it is "
            f"a {'file' if is_local else 'URL'}. Choose another name. Received: "
            f"--run_dir={arguments.run_dir}"
        )
    files.make_folder(folder)
    recipe = dataclasses.replace(
        recipes.recipe("digits"),
        steps=400,
        optimizer=training.Adam(learning_rate=4e-3),
        prune_fraction=0.3,
    )
    images = datasets.load("digits")
    digits = recipe.arrays(images, seed=0)
    size = recipe.batch_size

    print("1. Find a ticket in a network that reads the digits 0 to 9.")
    keras.utils.set_random_seed(0)
    teacher = find_ticket(
        training.compile_model(recipe.build(images, seed=0), recipe),
        pipelines.train_pipeline(*digits.train, batch_size=size, seed=0),
        validation_data=digits.validation,
        seed=0,
        run_dir=folder / "find",
        **recipe.search_settings(len(digits.train[0])),
    )
    ticket = teacher.ticket

    print(
        f"\n2. Transfer it to another task, odd or even, with {_LABELLED} labelled "
        "images: a new head, the\n   same masks. Beside it the dense network, and "
        "random masks of the same density."
    )
    few = np.random.default_rng(0).permutation(len(digits.validation[0]))[:_LABELLED]
    x, y = digits.validation[0][few], digits.validation[1][few] % 2
    test = digits.test[0], digits.test[1] % 2
    fresh = controls.weights_of(recipe.build(images, seed=1))
    students, accuracies = {}, {}
    for name, source in {
        "dense network": load_ticket(folder / "find/rounds/000.ticket"),
        "ticket": ticket,
        "random masks": controls.randomly_masked(ticket, fresh, 0),
    }.items():
        network = recipe.build(images, seed=0)
        student = transfer_ticket(source, num_classes=2, backbone=network, seed=0)
        training.compile_model(student, recipe)
        student.fit(x, y, batch_size=20, epochs=_EPOCHS, verbose=0)
        accuracy = student.evaluate(*test, verbose=0, return_dict=True)["accuracy"]
        students[name], accuracies[name] = student, (source.density, accuracy)
        print(
            f"   {name:<14} {100 * source.density:>6.1f} % of the weights, "
            f"test accuracy {100 * accuracy:.2f} %",
            flush=True,
        )
    student = students["ticket"]
    student.ticket.save(folder / "student.ticket")

    print("\n3. Export the ticket's student for every target, and run each file.")
    found = []
    for name, options in _FILES.items():
        written = export_tflite(
            student,
            folder / f"student_{name}.tflite",
            representative_data=x if name == "int8" else None,
            samples=digits.validation[0],
            **options,
        )
        metrics = evaluate_tflite(written.path, [test], progress=False)
        found.append((written, metrics))
        print(
            f"   {name:<12} {written.bytes:>7,} bytes, test accuracy "
            f"{100 * metrics['accuracy']:.2f} %: {written.path}",
            flush=True,
        )

    if report.is_possible("tflottery demo"):
        from tflottery.lab.report import export_report, search_report

        parts = export_report.students(accuracies), export_report.exported(found)
        html = search_report.search_page(folder / "find", *parts)
        files.write(folder / "report.html", html)
        print(f"\nReport: {folder / 'report.html'}")
    small, metrics = min(found, key=lambda pair: pair[0].bytes)
    dense, random = (100 * accuracies[n][1] for n in ("dense network", "random masks"))
    print(
        f"\nFound:   a ticket with {100 * ticket.density:.1f} % of the weights.\n"
        f"Smaller: {small.bytes:,} bytes instead of {small.dense_float32_bytes:,}, "
        f"{small.dense_float32_bytes / small.bytes:.1f} times.\n"
        f"Kept:    {100 * metrics['accuracy']:.1f} % test accuracy; the dense network "
        f"has {dense:.1f} %, random masks {random:.1f} %.\n"
        f"Next:    tflottery show {folder / 'find'}"
    )
