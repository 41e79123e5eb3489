"""Every Python block of README, a page or a docstring runs as it stands there."""

import ast
import pathlib
import re
import textwrap
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tflottery
from tflottery.engines.tfmot.imported import tf_keras, tfmot

ROOT = pathlib.Path(__file__).absolute().parent.parent
PACKAGE = pathlib.Path(tflottery.__file__).parent

X = np.random.default_rng(0).normal(size=(469, 8)).astype("float32")
Y = np.argmax(X[:, :5], axis=1)


def blocks() -> list[Any]:
    """Returns the code of each block, under the name of its file."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs" / "explained").glob("*.md"))]
    texts = [(page.stem, page.read_text(encoding="utf-8")) for page in pages]
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node) or ""
                texts.append((file.relative_to(PACKAGE).as_posix(), text))
    return [
        pytest.param(name, textwrap.dedent(code), id=name)
        for name, text in texts
        for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    ]


def tutorials() -> list[Any]:
    """Returns the pages with code that the site does not run, all of it joined.

    Such a page says that it goes on from the first block of another.
    """
    folder = ROOT / "docs" / "tutorials"
    text = (folder / "own_model.md").read_text(encoding="utf-8")
    first = re.findall(r"```\{code-cell\} python\n(.*?)```", text, re.DOTALL)[0]
    return [
        pytest.param(page.stem, "\n".join([first, *found]), id=page.stem)
        for page in sorted(folder.glob("*.md"))
        if (found := re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
    ]


def compiled(library: Any) -> Any:
    layers = [library.layers.Dense(32, "relu"), library.layers.Dense(5, "softmax")]
    model = library.Sequential([library.layers.Input((8,)), *layers])
    rate = library.optimizers.Adam(1e-2)
    model.compile(rate, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def names(block: str) -> dict[str, Any]:
    """Returns what a block may use without making it.

    `model` is a compiled model, with a ticket where the block transfers or holds it at
    once, and of tf_keras for tfmot; `new_model` has its architecture; `x` and `y` are
    arrays of five classes, `ds`, `val` and `test_ds` are datasets of them.
    """
    library = tf_keras if "tfmot" in block else keras
    model = compiled(library)
    batch = 1 if library is tf_keras else 128  # Of 469 steps an epoch, or of 4.
    ds = tf.data.Dataset.from_tensor_slices((X, Y)).batch(batch)
    student = compiled(keras)
    uses = ("transfer_ticket", "hold(", "model.ticket.")
    needs_ticket = any(use in block for use in uses)
    if "find_ticket" not in block and needs_ticket:
        model = tflottery.find_ticket(
            model, ds, validation_data=ds, epochs=1, rounds=1, select="last", verbose=0
        )
    return {
        "tflottery": tflottery,
        "keras": keras,
        "tfmot": tfmot,
        "model": model,
        "new_model": compiled(library),
        "student": student,
        "x": X,
        "y": Y,
        "ds": ds,
        "val": ds,
        "test_ds": ds,
    }


def test_every_public_name_is_in_the_reference():
    page = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    named = re.findall(r"^\.\. auto\w+:: ([\w.]+)$", page, re.MULTILINE)
    assert sorted(named) == sorted([*tflottery.__all__, "tflottery.transfer.controls"])


# Keras tells every `fit` on a dataset so.
@pytest.mark.filterwarnings("ignore:.shuffle=True. was passed:UserWarning")
@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), blocks())
def test_the_block_runs(tmp_path, monkeypatch, name, code):
    monkeypatch.chdir(tmp_path)
    keras.utils.set_random_seed(0)
    given = names(code)
    if "evaluate_tflite" in code:
        tflottery.export_tflite(given["student"], "student.tflite")
    exec(compile(code, name, "exec"), given)


@pytest.mark.filterwarnings("ignore:.shuffle=True. was passed:UserWarning")
@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), tutorials())
def test_the_tutorial_runs_after_the_block_it_goes_on_from(
    tmp_path, monkeypatch, name, code
):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, name, "exec"), {})
