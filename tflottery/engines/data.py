"""Data: what `fit` takes, checked before a long search starts, and a loss that fits.

Serves Keras 3 and tf_keras. `keras` is always the module that the model belongs to.
"""

import contextlib
import dataclasses
import itertools
import math
import reprlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitSettings:
    """What `fit` takes besides the data, with its meaning and its defaults.

    Attributes:
        batch_size: Examples per batch of arrays; `None` is 32.
        shuffle: Whether to shuffle arrays before each epoch.
        class_weight: Weights of the classes in the loss, by class number.
        steps_per_epoch: Batches in an epoch, if it does not end with the data.
        validation_steps: Batches of the validation data to evaluate.
        validation_batch_size: Examples per batch of validation arrays; `None` is
            `batch_size`.
    """

    batch_size: int | None = None
    shuffle: bool | str = True
    class_weight: Mapping[int, float] | None = None
    steps_per_epoch: int | None = None
    validation_steps: int | None = None
    validation_batch_size: int | None = None


PLAIN = FitSettings()


def check(name: str, data: Any, settings: FitSettings = PLAIN) -> None:
    """Checks that `fit` can read a dataset again and again, and that it ends.

    Args:
        name: The argument's name, for the error.
        data: `(x,)`, `(x, y)` or `(x, y, sample_weight)` arrays, a `tf.data.Dataset`,
            a `keras.utils.PyDataset`, or anything else that `fit` can iterate anew.
        settings: How it is read.
    """
    if isinstance(data, (tuple, list)):
        if len(data) not in (1, 2, 3):
            raise ValueError(
                f"`{name}` must be (x, y) or (x, y, sample_weight) arrays, a dataset "
                f"or a PyDataset. Received a {type(data).__name__} of {len(data)}."
            )
        for part, value in zip(("x", "y", "sample_weight"), data, strict=False):
            _check_arrays(name, part, value)
        lengths = [leaf.shape[0] for part in data for leaf in arrays_in(part)]
        if len(set(lengths)) > 1:
            raise ValueError(
                f"The arrays in `{name}` must have the same length. Received the "
                f"lengths: {', '.join(map(str, lengths))}."
            )
        if lengths[0] == 0:
            raise ValueError(f"`{name}` is empty: its arrays have length 0.")
        return
    # Keras' own iterators over images can be read again.
    if hasattr(data, "__next__") and not hasattr(data, "__getitem__"):
        raise ValueError(
            f"`{name}` is a generator or iterator, which can be read only once, but "
            "every round reads the data again. Use a tf.data.Dataset, a "
            f"keras.utils.PyDataset or arrays. Received: {data!r}"
        )
    steps = "validation_steps" if name == "validation_data" else "steps_per_epoch"
    ends = getattr(settings, steps) is not None
    if hasattr(data, "cardinality"):
        if int(data.cardinality()) == -1 and not ends:
            raise ValueError(
                f"`{name}` is endless, so an epoch never ends. Remove its `.repeat()`, "
                f"or pass `{steps}`."
            )
    elif hasattr(data, "num_batches") and data.num_batches is None:
        if not ends:
            raise ValueError(
                f"`{name}` is endless, so an epoch never ends: its `num_batches` is "
                f"None. Give it a `__len__`, or pass `{steps}`."
            )
    elif (
        isinstance(data, Mapping | str | bytes)
        or getattr(data, "shape", None) == ()
        or (not hasattr(data, "__len__") and not hasattr(data, "__iter__"))
    ):
        raise ValueError(
            f"`{name}` must be (x, y) arrays, a tf.data.Dataset or a "
            "keras.utils.PyDataset. Received: "
            f"{reprlib.repr(data)} of type {type(data).__name__}"
        )
    if steps_per_epoch(data) == 0:
        raise ValueError(f"`{name}` is empty: it has no batches.")


def is_array(leaf: Any) -> bool:
    """Returns whether `leaf` has a row per example, of numbers or of strings."""
    if hasattr(leaf, "element_spec") or len(getattr(leaf, "shape", None) or ()) == 0:
        return False
    if getattr(leaf, "dtype", None) != np.dtype(object):
        return True
    return isinstance(next(iter(np.ravel(leaf[:1])), ""), str | bytes)


def rows(array: Any, first: int, end: int | None = None) -> Any:
    """Returns the rows from `first` to `end` of an array or a SparseTensor."""
    if not hasattr(array, "dense_shape"):
        return array[first:end]
    import tensorflow as tf

    start = [first, *[0] * (len(array.shape) - 1)]
    size = [(end or array.shape[0]) - first, *array.shape[1:]]
    return tf.sparse.slice(array, start, size)


def _check_arrays(name: str, part: str, value: Any) -> None:
    leaves = arrays_in(value)
    if (leaves or part != "x") and all(map(is_array, leaves)):
        return
    listed = isinstance(value, list | tuple)
    received = f"a list of {len(value)}" if listed else reprlib.repr(value)
    raise ValueError(
        f"`{name}` must hold arrays with one row per example. Convert lists and "
        f'objects by `np.asarray(..., "float32")`. Received as {part}: {received}'
    )


def steps_per_epoch(data: Any, settings: FitSettings = PLAIN) -> int | None:
    """Returns the number of batches in an epoch, or `None` if that is not known."""
    if settings.steps_per_epoch is not None:
        return settings.steps_per_epoch
    if isinstance(data, (tuple, list)):
        return math.ceil(arrays_in(data[0])[0].shape[0] / (settings.batch_size or 32))
    if hasattr(data, "cardinality"):
        count = int(data.cardinality())
        return count if count >= 0 else None
    if hasattr(data, "num_batches"):
        return data.num_batches
    return len(data) if hasattr(data, "__len__") else None


def first_batch(data: Any, name: str = "ds") -> tuple[Any, Any]:
    """Returns `(x, y)` of the first batch, or of arrays all; `name` is for errors.

    Without labels, y is `None`.
    """
    if not isinstance(data, (tuple, list)):
        batch = data[0] if hasattr(data, "__getitem__") else next(iter(data), None)
        if batch is None:
            raise ValueError(
                f"`{name}` yields no batch. Is everything filtered out, or are the "
                "files missing that it reads?"
            )
        data = batch if isinstance(batch, (tuple, list)) else (batch,)
    return data[0], data[1] if len(data) > 1 else None


def batches(data: Any, size: int | None, steps: int | None) -> Iterator[Any]:
    """Yields the inputs x of the first `steps` batches; `None` is all.

    Arrays are cut into batches of `size` examples; `None` is 32.
    """
    if isinstance(data, (tuple, list)):
        x, count = data[0], size or 32
        firsts = range(0, arrays_in(x)[0].shape[0], count)
        parts = (map_arrays(lambda a, i=i: rows(a, i, i + count), x) for i in firsts)
        found = (p.toarray() if hasattr(p, "toarray") else p for p in parts)  # CSR.
    elif hasattr(data, "__getitem__"):  # A PyDataset or a Sequence.
        length = steps if steps is not None else steps_per_epoch(data)
        found = (data[index] for index in range(length or 0))
    else:
        found = data
    for batch in itertools.islice(found, steps):
        whole = isinstance(data, (tuple, list)) or not isinstance(batch, (tuple, list))
        yield batch if whole else batch[0]


def shape_of_examples(data: Any) -> tuple[Any, ...] | None:
    """Returns the shape of one example, or `None` if only reading would tell.

    >>> shape_of_examples(np.zeros((5, 28, 28, 1)))
    (28, 28, 1)
    """
    x, spec = data, getattr(data, "element_spec", None)
    if spec is not None:
        x = spec[0] if isinstance(spec, tuple) else spec
    elif hasattr(data, "__getitem__") and not (
        hasattr(data, "shape") or isinstance(data, dict | list | tuple)
    ):
        x = data[0][0]  # Of a PyDataset or a Sequence.
    try:
        shape = getattr(x, "shape", None)
        return None if shape is None else tuple(shape)[1:]
    except ValueError:  # A TensorFlow shape of unknown rank.
        return None


def check_examples(name: str, data: Any, model: Any) -> None:
    """Checks that a dataset's examples have the shape and type that a model takes.

    Models with several inputs, or whose input shape is unknown, are left to Keras.

    Raises:
        ValueError: If the data is not batched, or its examples have another shape or
            type.
    """
    x, _ = first_batch(data, name)
    yields = not isinstance(data, tuple | list) and hasattr(data, "__getitem__")
    if yields and any(hasattr(leaf, "tocsr") for leaf in arrays_in(x)):
        raise ValueError(
            f"`{name}` yields batches of SciPy matrices, which Keras takes as whole "
            "arrays only. Yield `matrix.toarray()`, or pass the whole matrix."
        )
    try:
        wanted = model.input_shape
    except (AttributeError, RuntimeError, ValueError):
        return
    if (
        not isinstance(wanted, tuple)
        or not wanted
        or any(isinstance(size, tuple | list) for size in wanted)
        or getattr(x, "shape", None) is None
    ):
        return
    wanted, shape = tuple(wanted)[1:], tuple(x.shape)
    inputs = getattr(model, "inputs", None) or ()
    kind = getattr(x, "dtype", None)
    texts = getattr(kind, "kind", "") in tuple("USO") or kind == "string"
    if texts and inputs and "string" not in str(inputs[0].dtype):
        raise ValueError(
            f"`{name}` has strings as examples, but `model` {model.name!r} takes "
            "numbers. Convert them first."
        )
    # The examples, or a single one if the data is not batched; Keras adds or removes a
    # last axis of 1.
    fits = {
        axes: any(
            len(s) == len(wanted)
            and all(w in (None, n) for n, w in zip(s, wanted, strict=True))
            for s in (s, (*s, 1), s[:-1] if s[-1:] == (1,) else s)
        )
        for axes, s in (("batched", shape[1:]), ("single", shape))
    }
    if fits["batched"]:
        return
    if fits["single"]:
        raise ValueError(
            f"`{name}` is not batched: it yields single examples of shape {shape}. "
            "Call `.batch(batch_size)` on it."
        )
    raise ValueError(
        f"`{name}` has examples of shape {shape[1:]}, but `model` {model.name!r} "
        f"takes {wanted}. Reshape the examples, or give the model another input."
    )


def check_labels(model: Any, data: Any, name: str) -> None:
    """Checks that class labels fit the model's output; `name` is the argument's.

    Raises:
        ValueError: If labels are out of range or are not whole numbers.
    """
    loss = model.loss
    loss_name = loss if isinstance(loss, str) else getattr(loss, "name", None)
    units = _output_units(model)
    if loss_name != "sparse_categorical_crossentropy" or units is None:
        return
    labels = first_batch(data, name)[1]
    labels = np.zeros(0) if labels is None else np.asarray(labels)
    if labels.size == 0:
        return
    if labels.dtype.kind not in "iub" and not np.all(labels == np.floor(labels)):
        raise ValueError(
            f"`{name}` has labels that are not whole numbers, such as "
            f"{labels.flat[0]}, but the loss sparse_categorical_crossentropy takes "
            'class numbers. Use "categorical_crossentropy" for probabilities, or a '
            "regression loss."
        )
    low, high = labels.min(), labels.max()
    if low < 0 or high >= units:
        raise ValueError(
            f"`{name}` has labels from {low} to {high}, but the model's output has "
            f"{units} units, for labels from 0 to {units - 1}. Give the model a head "
            f"of {high + 1 if low >= 0 else units} units, or map the labels."
        )


def _output_units(model: Any) -> int | None:
    """Returns the units of a model's only output, or `None` if they are not known."""
    try:
        shape = model.output_shape
    except (AttributeError, RuntimeError, ValueError):
        return None
    if not isinstance(shape, tuple) or not shape or not isinstance(shape[-1], int):
        return None
    return shape[-1]


def compile_default(model: Any, keras: Any, data: Any) -> str:
    """Compiles a model with Adam(1.2e-3) and the cross-entropy that fits it.

    Returns:
        One line for the user that names what was chosen.

    Raises:
        ValueError: If it is not clear which loss fits. It says what to compile.
    """
    y = first_batch(data)[1]
    units = _output_units(model)
    # The activation of the layer that makes the output, if that is known.
    activation = None
    with contextlib.suppress(AttributeError, TypeError, IndexError):
        history = model.outputs[0]._keras_history
        layer = getattr(history, "operation", None) or history.layer
        activation = getattr(getattr(layer, "activation", None), "__name__", None)
        if isinstance(layer, keras.layers.Softmax):
            activation = "softmax"
    loss = None
    if units is not None and activation is not None and not isinstance(y, dict | None):
        loss = _cross_entropy(keras, np.asarray(y), units, activation)
    if loss is None:
        raise ValueError(
            f"`model` {model.name!r} is not compiled, and it is not clear which loss "
            f"fits its output (units: {units}, activation: {activation}) and its "
            f"{'data, which has no labels' if y is None else 'labels'}. Compile it "
            "first, for example `model.compile(optimizer, loss, "
            'metrics=["accuracy"])`.'
        )
    arguments: dict[str, Any] = {}
    # XLA is slow on CPUs; JAX always compiles.
    if keras.__name__ == "tf_keras" or keras.backend.backend() != "jax":
        import tensorflow as tf

        if not tf.config.list_physical_devices("GPU"):
            arguments["jit_compile"] = False
    model.compile(
        keras.optimizers.Adam(1.2e-3), loss, metrics=["accuracy"], **arguments
    )
    logits = ", from logits" if loss.get_config().get("from_logits") else ""
    return f"Not compiled: using Adam(1.2e-3) and {loss.name}{logits}, with accuracy."


def _cross_entropy(keras: Any, y: np.ndarray, units: int, activation: str) -> Any:
    logits = activation == "linear"
    whole = np.issubdtype(y.dtype, np.integer) or (
        y.dtype.kind == "f" and y.size and np.all(y == np.floor(y))
    )
    column = y.ndim == 1 or (y.ndim == 2 and y.shape[1] == 1)
    if units == 1:
        fits = whole and column and y.min() >= 0 and y.max() <= 1
        if fits and activation in ("linear", "sigmoid"):
            return keras.losses.BinaryCrossentropy(from_logits=logits)
    elif activation in ("linear", "softmax") and whole:
        if column and np.issubdtype(y.dtype, np.integer):
            return keras.losses.SparseCategoricalCrossentropy(from_logits=logits)
        if y.ndim == 2 and y.shape[1] == units and np.all(y.sum(1) == 1):
            return keras.losses.CategoricalCrossentropy(from_logits=logits)
    return None


def arrays_in(tree: Any) -> list[Any]:
    """Returns the arrays in nested tuples, lists and dicts, in order."""
    if tree is None:
        return []
    if isinstance(tree, dict):
        return [leaf for value in tree.values() for leaf in arrays_in(value)]
    if isinstance(tree, (tuple, list)):
        return [leaf for value in tree for leaf in arrays_in(value)]
    return [tree]


def map_arrays(function: Any, tree: Any) -> Any:
    """Returns nested tuples, lists and dicts with `function` applied to each array."""
    if tree is None:
        return None
    if isinstance(tree, dict):
        return {name: map_arrays(function, value) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        return tuple(map_arrays(function, value) for value in tree)
    return function(tree)
