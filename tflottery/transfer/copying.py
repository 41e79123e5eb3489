"""Copying: a layer with weights and state of its own, without its connections.

Works on Keras 3 and tf_keras; `keras` is always the module that a layer belongs to.
"""

import copy
import gc
import types
from collections.abc import Callable
from typing import Any

from tflottery.engines import holding, network

_PLAIN = bool | str | int | float | tuple | None


def copied(layer: Any, keras: Any, memo: dict[int, Any], clone: Callable) -> Any:
    """Returns a copy of a layer.

    A layer of Keras' own is made anew from its config, whose weights have new values.
    Others are copied attribute by attribute: configs of custom layers may be incomplete
    and contain no vocabulary, and a Lambda's function may use names around it.

    Args:
        layer: A layer, or an operation of Keras 3.
        keras: The module that it belongs to.
        memo: All copies so far by the id of their original. Is added to.
        clone: A function that returns the copy of a nested functional model.

    Raises:
        ValueError: If neither is possible. Names the layer and what to do.
    """
    ways = [_of_config, _of_attributes]
    if not _is_told_by_config(layer, keras):
        ways.reverse()
    reasons = []
    for way in ways:
        known = dict(memo)
        try:
            memo[id(layer)] = memo.get(id(layer)) or way(layer, keras, memo, clone)
            return memo[id(layer)]
        except Exception as error:  # Whatever a custom layer raises.
            memo.clear()
            memo.update(known)
            reasons.append(f"{error}".strip().split("\n")[0].rstrip("."))
    raise ValueError(
        f"The layer {layer.name!r} ({type(layer).__name__}) cannot be copied. Give it "
        "a `get_config` that returns every argument of its `__init__`, or pass "
        f"`backbone=`, the model built anew. Its attributes and its config say: "
        f"{'; '.join(reasons)}."
    )


def _is_told_by_config(layer: Any, keras: Any) -> bool:
    """Returns whether a config says all about a layer but its weights' values."""
    ours = type(layer).__module__.split(".")[0] == keras.__name__
    return ours and not (
        isinstance(layer, keras.layers.Lambda) or hasattr(layer, "adapt")
    )


def _of_config(layer: Any, keras: Any, memo: Any, clone: Any) -> Any:
    return type(layer).from_config(layer.get_config())


def _of_attributes(layer: Any, keras: Any, memo: Any, clone: Any) -> Any:
    def moved(value: Any) -> Any:
        if id(value) not in memo:
            memo[id(value)] = new_for(value)
        return memo[id(value)]

    def new_for(value: Any) -> Any:
        if isinstance(value, keras.Model) and network.is_graph(value):
            return clone(value)
        if isinstance(value, keras.layers.Layer):
            plain = not value.weights and _is_told_by_config(value, keras)
            return type(value).from_config(value.get_config()) if plain else new(value)
        if isinstance(value, list | tuple | set):
            kind = type(value) if type(value) in (tuple, set) else list
            return getattr(value, "_make", kind)(moved(v) for v in value)
        if isinstance(value, dict):
            return {key: moved(v) for key, v in value.items()}
        if isinstance(value, types.MethodType):
            return types.MethodType(value.__func__, moved(value.__self__))
        if hasattr(value, "assign"):
            held = getattr(value, "constraint", None)
            inner = held.inner if isinstance(held, holding.Held) else held
            return copy.deepcopy(value, {id(held): inner})
        if hasattr(value, "from_config") and (
            hasattr(value, "state") or hasattr(value, "reset_state")
        ):  # A generator of seeds, or a metric.
            return type(value).from_config(value.get_config())
        return value

    def new(old: Any) -> Any:
        base = keras.Model if isinstance(old, keras.Model) else keras.layers.Layer
        kind: Any = type(old)
        made = memo[id(old)] = kind.__new__(kind)
        base.__init__(
            made, name=old.name, dtype=old.dtype_policy, trainable=old.trainable
        )
        tracked = {id(weight) for weight in old.weights}
        given = dict(vars(made))  # With Keras' own records, which it keeps itself.
        # Keras 2 asks for the generator at every other attribute.
        for name in sorted(vars(old), key=lambda name: name != "_random_generator"):
            if name.startswith("_self_") or name == "_adapt_function":
                continue
            value = moved(vars(old)[name])
            if hasattr(value, "assign") and id(vars(old)[name]) not in tracked:
                vars(made)[name] = value
            elif name not in given or isinstance(given[name], _PLAIN):
                setattr(made, name, value)
        vars(made)["_auto_config"] = vars(old).get("_auto_config")
        return made

    made = new(layer)
    if _reaches(made, {id(layer), *map(id, layer.weights)}):
        raise ValueError("A function in it uses the layer or its weights themselves.")
    return made


def _reaches(start: Any, ends: set[int]) -> bool:
    """Returns whether an object refers to one of those with the given ids."""
    seen: set[int] = set()
    queue = [start]
    while queue:
        value = queue.pop()
        if id(value) in seen or isinstance(value, type | types.ModuleType):
            continue
        if id(value) in ends:
            return True
        seen.add(id(value))
        if isinstance(value, types.FunctionType):  # Without its module's names.
            queue += [value.__closure__, value.__defaults__, value.__kwdefaults__]
        else:
            queue += gc.get_referents(value)
    return False
