"""demo: finds, transfers, exports and reports a ticket, on digits."""

import argparse
import dataclasses
import pathlib
from typing import Any

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


def define(parser: argparse.ArgumentParser) -> None:
    text = "folder for the results; default: runs/demo"
    parser.add_argument("--run_dir", default="runs/demo", metavar="DIR", help=text)


def demo(arguments: argparse.Namespace) -> None:
    """Finds, transfers and exports a ticket, in less than three minutes.

    It finds a ticket in a small LeNet on the digits 0 to 4, transfers it to 5 to 9,
    exports it for every target, and writes a report. Run again, it resumes the search.
    """
    import keras

    from tflottery import evaluate_tflite, export_tflite, find_ticket, transfer_ticket
    from tflottery.lab import recipes, training
    from tflottery.lab.data import datasets, pipelines

    folder = pathlib.Path(arguments.run_dir).expanduser()
    if folder.exists() and not folder.is_dir():
        raise ValueError(
            "`--run_dir` must be a folder, existing or new, but it is a file. Choose "
            f"another name. Received: --run_dir={arguments.run_dir}"
        )
    files.make_folder(folder)
    recipe = dataclasses.replace(recipes.recipe("digits"), steps=300)
    digits = datasets.load("digits")
    low_images = digits.of_classes(range(5))
    low = recipe.arrays(low_images, seed=0)
    high = recipe.arrays(digits.of_classes(range(5, 10)), seed=0)
    size = recipe.batch_size

    print("1. Find a ticket for the digits 0 to 4.")
    keras.utils.set_random_seed(0)
    teacher = find_ticket(
        training.compile_model(recipe.build(low_images, seed=0), recipe),
        pipelines.train_pipeline(*low.train, batch_size=size, seed=0),
        validation_data=low.validation,
        seed=0,
        run_dir=folder / "find",
        **recipe.search_settings(len(low.train[0])),
    )

    print("\n2. Transfer it to the digits 5 to 9, with a new head and the same masks.")
    student = transfer_ticket(teacher, num_classes=5, seed=0)
    training.compile_model(student, recipe)
    student.fit(
        pipelines.train_pipeline(*high.train, batch_size=size, seed=0),
        epochs=recipe.epochs(len(high.train[0])),
        shuffle=False,
        verbose=0,
    )
    accuracy = student.evaluate(*high.test, verbose=0, return_dict=True)["accuracy"]
    student.ticket.save(folder / "student.ticket")
    print(f"Test accuracy of the student: {100 * accuracy:.2f} %.")

    print("\n3. Export it for every target, and run each file.")
    found = []
    for name, options in _FILES.items():
        written = export_tflite(
            student,
            folder / f"student_{name}.tflite",
            representative_data=high.train[0] if name == "int8" else None,
            samples=high.validation[0],
            **options,
        )
        metrics = evaluate_tflite(written.path, [high.test], progress=False)
        found.append((written, metrics))
        print(
            f"  {name:<12} {written.bytes:>7,} bytes of "
            f"{written.dense_float32_bytes:,} dense; test accuracy "
            f"{100 * metrics['accuracy']:.2f} %; {written.path}",
            flush=True,
        )

    if report.is_possible("tflottery demo"):
        from tflottery.lab.report import export_report, search_report

        parts = export_report.student(accuracy), export_report.exported(found)
        html = search_report.search_page(folder / "find", *parts)
        files.write(folder / "report.html", html)
        print(f"Report: {folder / 'report.html'}")
    print(f"Everything is in {folder}.")
