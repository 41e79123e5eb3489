"""Trees: the variables of many networks as one, stacked along a first axis, in JAX."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tflottery.core import files


def over(function: Callable, count: int) -> Callable:
    """Returns a function over the first axis; a single network is not vectorized."""
    if count > 1:
        return jax.vmap(function)

    def alone(*given: Any) -> Any:
        given = jax.tree.map(lambda a: a[0], given)
        return jax.tree.map(lambda a: jnp.asarray(a)[None], function(*given))

    return alone


def save(path: Any, tree: Any, names: Sequence[str], header: dict[str, Any]) -> None:
    """Writes the trees of the networks `names`; `header["logs"]` has a log of each."""
    leaves = enumerate(jax.tree.leaves(tree))
    arrays = {f"{i:05d}": np.asarray(leaf) for i, leaf in leaves}
    files.write_arrays(path, arrays, header | {"names": list(names)})


def load(path: Any, like: Any, names: Sequence[str]) -> tuple[Any, list, int] | None:
    """Returns the tree, the logs and the number of epochs that `save` wrote.

    The file may hold other networks besides. As it only saves time, it does not matter
    if it is damaged or lacks one of these: then there is `None`.
    """
    leaves, shape = jax.tree.flatten(like)
    try:
        arrays, header = files.read_arrays(path)
    except (FileNotFoundError, files.FileError):
        return None
    if len(arrays) != len(leaves) or not set(names) <= set(header["names"]):
        return None
    rows = [header["names"].index(name) for name in names]
    found = [jnp.asarray(arrays[f"{i:05d}"][rows]) for i in range(len(leaves))]
    logs = [header["logs"][row] for row in rows]
    return jax.tree.unflatten(shape, found), logs, header["epoch"]


def copied(tree: Any) -> Any:
    """Returns copies, of which a step that is given the originals leaves alone."""
    return jax.tree.map(jnp.copy, tree)


def stacked(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *trees)


def apart(tree: Any, count: int) -> list[Any]:
    """Returns the trees that were stacked, in NumPy."""
    tree = jax.tree.map(np.asarray, tree)
    return [jax.tree.map(lambda a, i=i: a[i], tree) for i in range(count)]


@functools.partial(jax.jit, donate_argnums=2)
def where(chosen: Any, tree: Any, other: Any) -> Any:
    chosen = jnp.asarray(chosen)

    def either(a: Any, b: Any) -> Any:
        return jnp.where(chosen.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(either, tree, other)
