"""Fingerprints: a change is told from what differs though nothing was changed."""

import functools
import linecache
import types

import keras
import ml_dtypes
import numpy as np
import pytest

import tflottery
from tflottery.search import fingerprint, run_dir

RNG = np.random.default_rng(0)
X = RNG.normal(size=(400, 6)).astype("float32")
Y = RNG.integers(0, 3, 400)
layers = keras.layers


def make_model(activation="relu", rate=0.1, more=(), **compiled):
    model = keras.Sequential(
        [
            layers.Input((6,)),
            layers.Dense(8, activation=activation),
            layers.Dropout(rate),
            *more,
            layers.Dense(3, activation="softmax"),
        ]
    )
    options = {"optimizer": "sgd", "loss": "sparse_categorical_crossentropy"}
    options |= {"metrics": ["accuracy"]}
    model.compile(**{**options, **compiled})
    return model


def find(folder, model=None, ds=(X, Y), **options):
    options = {"epochs": 1, "rounds": 1, "select": "last", "seed": 1, **options}
    model = make_model() if model is None else model
    return tflottery.find_ticket(
        model, ds, validation_data=(X, Y), run_dir=folder, verbose=0, **options
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    find(folder)
    return folder


def losses():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def other_rows():
    other = X.copy()
    other[1] += 1.0
    return other, Y


CHANGES = {
    "activation": (lambda: {"model": make_model(activation="tanh")}, ["network.dense"]),
    "a lambda": (
        lambda: {"model": make_model(activation=lambda x: x)},
        ["network.dense"],
    ),
    "dropout rate": (lambda: {"model": make_model(rate=0.5)}, ["network.dropout"]),
    "a layer more": (
        lambda: {"model": make_model(more=[layers.Dropout(0.1)])},
        ["network.(model)", "network.dropout_1"],
    ),
    "loss": (
        lambda: {"model": make_model(loss=losses())},
        ["training.loss"],
    ),
    "metrics": (lambda: {"model": make_model(metrics=None)}, ["training.metrics"]),
    "one row": (lambda: {"ds": other_rows()}, ["ds"]),
    "callbacks": (
        lambda: {"callbacks": [keras.callbacks.TerminateOnNaN()]},
        ["callbacks"],
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_search_is_refused_with_a_line_that_names_the_change(folder, change):
    options, names = CHANGES[change]
    with pytest.raises(run_dir.RunError) as caught:
        find(folder, **options())
    lines = str(caught.value).splitlines()[1:]
    assert [line.split(":")[0].strip() for line in lines] == names


def test_another_criterion_of_the_same_name_is_refused(tmp_path):
    def make(function):
        def criterion(trained, rewind):
            return {path: function(w) for path, w in trained.items()}

        def other(trained, rewind):
            return {path: -function(w) for path, w in trained.items()}

        other.__name__ = "criterion"
        return criterion, other

    criterion, other = make(np.abs)
    find(tmp_path, criterion=criterion)
    find(tmp_path, criterion=make(np.abs)[0])
    with pytest.raises(run_dir.RunError) as caught:
        find(tmp_path, criterion=other)
    (line,) = str(caught.value).splitlines()[1:]
    assert line.startswith("  criterion: 'criterion ")


def connected(skip, prefix=""):
    inputs = layers.Input((6,))
    first = layers.Dense(6)(inputs)
    second = layers.Dense(6)(first)
    added = layers.Add()([second, inputs if skip else first])
    return keras.Model(inputs, layers.Softmax()(added), name=f"{prefix}net")


class Own(layers.Layer):
    """A layer with no config, that holds others."""

    def __init__(self, dense, rate=0.1):
        super().__init__()
        self.dense, self.drop = dense, layers.Dropout(rate)

    def call(self, x):
        return self.drop(self.dense(x))

    def get_config(self):
        raise NotImplementedError


class Whole(keras.Model):
    def __init__(self, rate=0.1):
        super().__init__()
        self.own = Own(layers.Dense(3), rate)

    def call(self, x):
        return self.own(x)


def test_a_network_built_again_under_other_numbers_is_the_same():
    for build in (make_model, lambda: connected(True), lambda: connected(False)):
        first, second = build(), build()
        assert [x.name for x in first.layers] != [x.name for x in second.layers]
        assert fingerprint.of_network(first) == fingerprint.of_network(second)


def test_a_network_by_another_name_is_the_same():
    assert fingerprint.of_network(connected(True)) == fingerprint.of_network(
        connected(True, prefix="other_")
    )


def test_other_connections_are_another_network():
    first, second = map(fingerprint.of_network, (connected(True), connected(False)))
    assert {k for k in first if first[k] != second[k]} == {"(model)"}


def test_layers_without_a_config_are_told_apart_by_those_inside():
    first, second, third = map(fingerprint.of_network, map(Whole, (0.1, 0.1, 0.2)))
    assert first == second
    assert {k for k in first if first[k] != third[k]} == {"own/dropout"}


def test_mixed_precision_is_another_network():
    made = [
        fingerprint.of_network(keras.Sequential([layers.Dense(3, dtype=dtype)]))
        for dtype in ("float32", "mixed_bfloat16", "mixed_bfloat16")
    ]
    assert made[0] != made[1] == made[2]


SOURCE = """
def criterion(trained, rewind):
    "Documented."
    assert trained
    return {scale} * trained


score = [lambda x: {scale} * x{more}]
"""


def made(path, scale, optimize, more=""):
    """Returns a function and a lambda of a file, compiled as by another Python."""
    path.write_text(SOURCE.format(scale=scale, more=more))
    linecache.clearcache()
    names = {}
    code = compile(path.read_text(), str(path), "exec", optimize=optimize)
    exec(code, names)
    return names["criterion"], names["score"][0]


def test_a_function_is_its_source_whatever_byte_code_python_makes_of_it(tmp_path):
    of, told = fingerprint.of_function, []
    for folder, scale, optimize in (("a", 2, 0), ("b", 2, 2), ("c", 3, 0)):
        (tmp_path / folder).mkdir()
        criterion, score = made(tmp_path / folder / "x.py", scale, optimize)
        told.append((of(criterion), of(score), criterion.__code__.co_code))
    first, upgraded, changed = told
    assert first[2] != upgraded[2]
    assert first[:2] == upgraded[:2]
    assert first[0] != changed[0]
    assert first[1] != changed[1]


def test_a_lambda_is_told_by_itself_not_by_the_line_it_is_on(tmp_path):
    _, one = made(tmp_path / "x.py", 2, 0)
    one = fingerprint.of_function(one)
    _, same = made(tmp_path / "x.py", 2, 0, more=", print")
    assert fingerprint.of_function(same) == one
    _, other = made(tmp_path / "x.py", 2, 0, more=", print, lambda: 1")
    assert fingerprint.of_function(other) != one  # There it could be either.


def test_a_function_without_source_is_its_name():
    names = {}
    exec("def f(x):\n    return x\ng = lambda: 1", names)
    first = [fingerprint.of_function(names[name]) for name in "fg"]
    exec("def f(x):\n    return -x\ng = lambda: 2", names)
    assert [fingerprint.of_function(names[name]) for name in "fg"] == first
    assert first[0] != first[1]


def test_a_function_is_its_source_and_what_it_was_made_with():
    def make(scale, more=1):
        def score(x, offset=more):
            """Documented."""
            return scale * x + offset

        return score

    of = fingerprint.of_function
    assert of(make(2)) == of(make(2))
    assert len({of(make(2)), of(make(3)), of(make(2, 2))}) == 3
    assert of(functools.partial(make(2), 1)) != of(functools.partial(make(2), 2))
    assert of(np.abs) == "absolute"
    assert of(keras.losses.mean_squared_error) == "mean_squared_error"
    assert of(len) == "len"


@pytest.mark.parametrize(
    "dtype", ["float32", "bool", "datetime64[s]", object, ml_dtypes.bfloat16]
)
def test_every_value_of_an_array_counts(dtype):
    array = np.arange(20_000).astype(dtype)
    same, other = array.copy(), array.copy()
    other[[7, 8]] = other[[8, 7]] if dtype != "bool" else False
    of = fingerprint.of_data
    assert of((array, array[::2])) == of((same, same[::2]))
    assert of((array, array)) != of((array, other))


def test_large_arrays_are_read_in_parts(monkeypatch):
    whole = fingerprint.of_data((X, X.T))
    monkeypatch.setattr(fingerprint, "_AT_ONCE", 100)
    assert fingerprint.of_data((X, X.T)) == whole


def test_what_cannot_be_told_apart_is_no_error():
    class Odd:
        def get_config(self):
            raise RuntimeError

    model = make_model()
    odd = types.SimpleNamespace(optimizer=Odd(), loss={"a": object()})
    assert fingerprint.of_training(odd)["optimizer"] == {
        "class_name": "Odd",
        "config": None,
    }
    assert fingerprint.of_training(odd)["loss"] == {"a": "object"}
    model.layers[0].get_config = lambda: {"x": {1: object()}}
    assert fingerprint.of_network(model) == fingerprint.of_network(model)
