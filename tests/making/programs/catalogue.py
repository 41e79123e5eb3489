"""Programs: small Keras programs of many kinds, each of which `fit` trains.

A program is a function `(keras) -> (model, arguments)`: a compiled model and what
`find_ticket` is called with besides the number of rounds.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tflottery.engines import network

ROWS = 24
OK = "ok"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """A program, and what is expected of each step with it.

    Attributes:
        name: Its name.
        make: The function `(keras) -> (model, arguments)`.
        compile: Returns the arguments of `model.compile`.
        transfer: Arguments of `transfer_ticket`; `backbone` is a function of the model.
        expected: For each step a part of the message that is expected; a step that is
            not named is expected to go well.
        generations: The Kerases that it runs on.
        untested: Steps that only benchmarks/programs.py takes, as they last long and
            other programs and tests show the same; "search" leaves out all.
        evaluate_first: Whether Keras' `fit` needs metrics that an evaluation has built:
            the program's `train_step` leaves them alone.
    """

    name: str
    make: Callable[[Any], tuple[Any, dict[str, Any]]]
    compile: Callable[[Any], dict[str, Any]]
    transfer: Mapping[str, Any]
    expected: Mapping[str, str]
    generations: tuple[str, ...]
    untested: tuple[str, ...]
    evaluate_first: bool


PROGRAMS: dict[str, Program] = {}


def program(
    compile: Callable[[Any], dict[str, Any]],
    *,
    transfer_ticket: Mapping[str, Any] | None = None,
    generations: tuple[str, ...] = ("keras",),
    untested: tuple[str, ...] = (),
    evaluate_first: bool = False,
    **expected: str,
) -> Callable:
    """Adds a function to `PROGRAMS`; see `Program`."""

    def add(make: Callable) -> Callable:
        PROGRAMS[make.__name__] = Program(
            name=make.__name__,
            make=make,
            compile=compile,
            transfer=transfer_ticket or {"num_classes": 3},
            expected=expected,
            generations=generations,
            untested=untested,
            evaluate_first=evaluate_first,
        )
        return make

    return add


def made(which: Program, keras: Any) -> tuple[Any, dict[str, Any]]:
    """Returns a program's compiled model and the arguments of `find_ticket`."""
    keras.utils.set_random_seed(0)
    model, arguments = which.make(keras)
    return compiled(which, model, keras), arguments


def compiled(which: Program, model: Any, keras: Any) -> Any:
    """Compiles a program's model."""
    model.compile(**which.compile(keras))
    return model


BOTH = ("keras", "tf_keras")
# After a search on data of a kind, an ordinary network is like any other.
ORDINARY = ("ticket", "reload", "transfer", "export")
# What is said of a model without a graph of layers.
NO_GRAPH = {"transfer": "is a subclassed model, so its classifier cannot be cut off"}
# Keras does not save the weights of such a model.
NO_CALL = {
    "reload": "Keras does not save the weights of a model without `call`",
    "export": r"has no `call`, .* Export a part of it: model\.",
}
NO_STRINGS = "is text, for which TFLite has no operators. That is for layer '%s'"


def part(name: str, *, cut: bool = False) -> dict[str, Any]:
    """Returns arguments of `transfer_ticket`: a part of the model as backbone.

    Args:
        name: The attribute that is the part.
        cut: Whether to leave out its last layer.
    """

    def backbone(model: Any) -> Any:
        found = getattr(model, name)
        if cut:
            keras = network.keras_of(found)
            found = keras.Model(found.inputs, found.layers[-2].output)
        return found

    return {"num_classes": 3, "backbone": backbone}


def momentum(keras: Any) -> dict[str, Any]:
    """Returns arguments of `compile` whose step is traced quickly.

    Adam's takes longer to trace. XLA takes longer to compile a step than these programs
    take to train.
    """
    return {"optimizer": keras.optimizers.SGD(0.01, momentum=0.9), "jit_compile": False}


def classifier(keras: Any) -> dict[str, Any]:
    """Returns the arguments of `compile` for class numbers."""
    return {
        **momentum(keras),
        "loss": "sparse_categorical_crossentropy",
        "metrics": ["accuracy"],
    }


def regression(keras: Any) -> dict[str, Any]:
    """Returns the arguments of `compile` for numbers."""
    return {**momentum(keras), "loss": "mse"}


def own_step(keras: Any) -> dict[str, Any]:
    """Returns the arguments of `compile` for a model that computes its own loss."""
    return {"optimizer": "adam", "jit_compile": False}


def numbers(*shape: int) -> np.ndarray:
    """Returns random numbers, one row per example."""
    return np.random.default_rng(0).random((ROWS, *shape), "float32")


def whole(most: int, *shape: int) -> np.ndarray:
    """Returns random whole numbers below `most`, one row per example."""
    return np.random.default_rng(1).integers(0, most, (ROWS, *shape))


def texts() -> np.ndarray:
    """Returns sentences."""
    words = np.array(["good", "bad", "film", "play", "very", "not"])
    return np.array([" ".join(row) for row in words[whole(6, 5)]])


def dataset(*parts: Any) -> Any:
    """Returns a dataset of batches of 8."""
    import tensorflow as tf

    slices = parts if len(parts) > 1 else parts[0]
    return tf.data.Dataset.from_tensor_slices(slices).batch(8)


def dense(keras: Any, *units: int, out: str | None = None) -> Any:
    """Returns a Sequential model of Dense layers without an input."""
    layers = [keras.layers.Dense(n, activation="relu") for n in units[:-1]]
    return keras.Sequential([*layers, keras.layers.Dense(units[-1], activation=out)])
