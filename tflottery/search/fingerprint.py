"""Fingerprints: plain data that identifies a search's network, training and data.

A search that resumes compares them with those it started with. They leave out whatever
differs between two runs of the same program: the numbers in Keras' names, the seeds it
draws, addresses. What cannot be told apart counts as equal, and nothing here fails.
"""

import ast
import contextlib
import dataclasses
import functools
import hashlib
import inspect
import json
import linecache
import re
import textwrap
import types
import warnings
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tflottery.core import masks, paths, plan
from tflottery.engines import data as data_lib
from tflottery.engines import network
from tflottery.engines.data import arrays_in

# Seeds may be drawn at random, a layer's build arguments depend on the first batch, and
# a class's module depends on which file is run as the program.
_LEFT_OUT = ("seed", "build_config", "build_input_shape")
_LEFT_OUT += ("module", "registered_name", "shared_object_id")
_LIBRARIES = ("keras", "tf_keras", "tensorflow", "tflottery", "numpy", "jax")
_AT_ONCE = 1 << 24


def of_search(trainer: Any, score: Callable) -> dict[str, Any]:
    """Returns everything that must be equal for a search to be resumed."""
    config, model = trainer.config, trainer.engine.model
    weights = trainer.engine.weights()
    return {
        "config": config.to_dict(),
        "criterion": of_function(score),
        "architecture": paths.architecture(weights),
        "training": of_training(model),
        "callbacks": [type(each).__name__ for each in trainer.callbacks],
        "ds": of_data(trainer.ds),
        "validation_data": of_data(trainer.validation_data),
        "start": masks.density(trainer.masks),
        "fit": _plain(dataclasses.asdict(trainer.engine.settings)),
        "network": of_network(model),
        "paths": list(weights),
        # What a pattern matches may depend on the numbers in Keras' names.
        "pruned": {
            name: plan.fraction_of(path, config.layer_fractions) or "as the others"
            for name, path in zip(paths.canonical(weights), weights, strict=True)
            if path in trainer.paths
        },
    }


def of_network(model: Any) -> dict[str, str]:
    """Returns each layer's class and a digest of its settings, by path.

    The model itself is `"(model)"`; its digest covers how the layers are connected.
    """
    found: dict[str, str] = {}
    _walk(model, "", found, set())
    whole = found.pop("")
    names = (name.removesuffix("/") for name in paths.canonical(found))
    return {"(model)": whole, **dict(zip(names, found.values(), strict=True))}


def _walk(layer: Any, path: str, found: dict[str, str], seen: set[int]) -> None:
    seen.add(id(layer))
    while path in found:  # Layers without weights may share a name.
        path = f"{path[:-1]}'/"
    found[path] = f"{type(layer).__name__} {_digest(_settings(layer))}"
    for child in network.children(layer):
        if id(child) not in seen:
            _walk(child, f"{path}{child.name}/", found, seen)


def _settings(layer: Any) -> Any:
    """Returns a layer's config, without those of the layers inside it."""
    config: dict[str, Any] = {}
    # The user's own layers need not have a config, or may have one that fails.
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras warns of lambdas.
        config = dict(layer.get_config())
    config.pop("name", None)
    for key in config:
        with contextlib.suppress(Exception):
            # Keras stores the file and line number of a lambda.
            if isinstance(getattr(layer, key), types.FunctionType):
                config[key] = of_function(getattr(layer, key))
    inner, names = config.get("layers"), {}
    if isinstance(inner, list) and all(isinstance(part, dict) for part in inner):
        known = [str(p["name"]) for p in inner if "name" in p]
        numbered = paths.canonical(f"{name}/" for name in known)
        names = dict(zip(known, numbered, strict=True))
        kept = ("class_name", "inbound_nodes")
        config["layers"] = [{key: part.get(key) for key in kept} for part in inner]
    return _plain(config, names)


def of_training(model: Any) -> dict[str, Any]:
    """Returns a model's optimizer, loss and metrics as plain data."""
    given = getattr(getattr(model, "_compile_config", None), "config", None) or {}
    return {
        "optimizer": _plain(model.optimizer),
        "loss": _plain(model.loss),
        **{
            name: _plain(given.get(name))
            for name in ("loss_weights", "metrics", "weighted_metrics")
        },
    }


def of_function(function: Callable) -> str:
    """Returns a function's name and, for the user's own, a digest.

    The digest covers the source and the plain values that the function has as defaults
    or from the scope around it, not the functions that it calls.

    >>> of_function(np.sum)
    'sum'
    """
    with contextlib.suppress(ValueError):  # A cycle.
        function = inspect.unwrap(function)
    if isinstance(function, functools.partial):
        more = [*function.args, *sorted(function.keywords.items())]
        return f"{of_function(function.func)} {_digest(_plain(more))}"
    name = getattr(function, "__name__", type(function).__name__)
    if str(getattr(function, "__module__", "")).split(".")[0] in _LIBRARIES:
        return name
    if not hasattr(function, "__code__"):
        function = getattr(type(function), "__call__", function)  # noqa: B004
    if not hasattr(function, "__code__"):
        return name
    values = [*(getattr(function, "__defaults__", None) or ())]
    for cell in getattr(function, "__closure__", None) or ():
        with contextlib.suppress(ValueError):  # A name that has no value yet.
            values.append(cell.cell_contents)
    return f"{name} {_digest([_source(function), [_value(value) for value in values]])}"


def _source(function: Any) -> str:
    """Returns a function's source, or its qualified name if there is no source."""
    code = function.__code__
    with contextlib.suppress(Exception):  # No file, or one that is no longer the same.
        if code.co_name != "<lambda>":
            return textwrap.dedent(inspect.getsource(function))
        text = "".join(linecache.getlines(code.co_filename, function.__globals__))
        found = [
            ast.get_source_segment(text, node)
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Lambda) and node.lineno == code.co_firstlineno
        ]
        return "\n".join(filter(None, found)) or function.__qualname__
    return function.__qualname__


def _value(value: Any) -> Any:
    """Returns a number, string or array as plain data, and the type of other values."""
    known = (str, bool, int, float, type(None), np.generic, np.ndarray)
    return _plain(value) if isinstance(value, known) else type(value).__name__


def of_data(data: Any) -> Any:
    """Returns the sizes and types of a dataset, with checksums if it is of arrays."""
    if data is None:
        return None
    if isinstance(data, (tuple, list)):
        leaves = arrays_in(list(data))
        return [_of_array(np.asarray(leaf)) for leaf in leaves]
    spec = getattr(data, "element_spec", None)
    return {
        "type": type(data).__name__,
        "batches": data_lib.steps_per_epoch(data),
        "elements": None if spec is None else str(spec),
    }


def _of_array(array: np.ndarray) -> list[Any]:
    return [list(array.shape), array.dtype.name, _checksum(array)]


def _checksum(array: np.ndarray) -> int:
    if array.dtype.hasobject:  # Its bytes would be addresses.
        return zlib.crc32(repr(array.tolist()).encode())
    rows = array if array.ndim else array[None]
    step = max(1, _AT_ONCE * len(rows) // max(1, rows.nbytes))
    checksum = 0
    for start in range(0, len(rows), step):  # In parts: each may have to be copied.
        part = np.ascontiguousarray(rows[start : start + step])
        checksum = zlib.crc32(part.reshape(-1).view(np.uint8).data, checksum)
    return checksum


def _plain(value: Any, names: Mapping[str, str] | None = None) -> Any:
    """Returns `value` as plain data that JSON can hold, the same in every process.

    >>> _plain({"class_name": "Adam", "config": {"name": "adam_3", "beta_1": 0.9}})
    {'class_name': 'Adam', 'config': {'name': 'adam', 'beta_1': 0.9}}
    """
    if isinstance(value, dict):
        if value.get("class_name") == "__lambda__":
            return "a lambda"
        result = {
            str(key): _plain(each, names)
            for key, each in value.items()
            if key not in _LEFT_OUT
        }
        if isinstance(result.get("name"), str):
            result["name"] = re.sub(r"_\d+$", "", result["name"])
        return result
    if isinstance(value, list | tuple):
        return [_plain(each, names) for each in value]
    if isinstance(value, set | frozenset):
        return sorted((_plain(each, names) for each in value), key=repr)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str):
        return (names or {}).get(value, value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, np.ndarray):
        return _of_array(value)
    if hasattr(value, "get_config"):
        plain: Any = None
        with contextlib.suppress(Exception):
            plain = _plain(value.get_config(), names)
        return {"class_name": type(value).__name__, "config": plain}
    return of_function(value) if callable(value) else type(value).__name__


def _digest(plain: Any) -> str:
    text = json.dumps(plain, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
