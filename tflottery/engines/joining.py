"""Joining: x, y and sample weights as `fit` gets them, in one value."""

import math
import reprlib
from collections.abc import Mapping
from typing import Any

from tflottery.core import checks
from tflottery.engines import data as data_lib
from tflottery.engines.data import FitSettings, arrays_in, is_array, map_arrays, rows

_COUNT = checks.or_none(checks.whole_from(1))
_KINDS = {
    **dict.fromkeys(("batch_size", "steps_per_epoch"), _COUNT),
    **dict.fromkeys(("validation_batch_size", "validation_steps"), _COUNT),
    "shuffle": checks.Kind(lambda v: isinstance(v, bool) or v == "batch", "a bool"),
    "class_weight": checks.or_none(
        checks.Kind(
            lambda v: isinstance(v, Mapping) and all(map(checks.is_number, v.values())),
            "a dict from class numbers to weights",
        )
    ),
}
_REFUSED = {
    "initial_epoch": "each round begins at the epoch that its rewind leads to. Use "
    "`rewind_step`",
    "validation_freq": "every round is judged after its last epoch. Use "
    "`validation_steps` to make that cheaper",
}


def check(settings: FitSettings, refused: Mapping[str, Any]) -> None:
    """Checks what `fit` takes besides the data, and arguments that a search refuses.

    Raises:
        TypeError: If there is an argument that `find_ticket` does not take.
        ValueError: If a setting is not what `fit` takes.
    """
    for name, value in refused.items():
        if name in _REFUSED:
            raise TypeError(
                f"`find_ticket` does not take `{name}`: {_REFUSED[name]}. Received: "
                f"{name}={value!r}"
            )
        raise TypeError(f"`find_ticket` has no argument {name!r}.")
    for name, kind in _KINDS.items():
        checks.check(name, getattr(settings, name), kind)


def joined(x: Any, y: Any = None, sample_weight: Any = None) -> Any:
    """Returns the data that `fit` gets as x, y and sample weights, in one value.

    That is a dataset, or a tuple `(x,)`, `(x, y)` or `(x, y, sample_weight)` of arrays
    in which pandas objects have become NumPy arrays, and SciPy matrices CSR.

    Raises:
        ValueError: If `y` or `sample_weight` is given beside a dataset, or weights
            without labels.
    """
    alone = is_array(x) or isinstance(x, Mapping)
    if y is None and sample_weight is None:
        return map_arrays(_plain, (x,) if alone else x)
    for name, value in (("y", y), ("sample_weight", sample_weight)):
        if value is not None and not alone and not isinstance(x, tuple | list):
            raise ValueError(
                f"`{name}` must be left out if `ds` is a dataset, which yields (x, y) "
                f"or (x, y, sample_weight) itself. Received: ds={reprlib.repr(x)}"
            )
    if y is None:
        raise ValueError("`sample_weight` needs labels. Received: y=None")
    parts = (x, y) if sample_weight is None else (x, y, sample_weight)
    return map_arrays(_plain, parts)


def split(data: Any, share: float) -> tuple[Any, Any]:
    """Splits the last `share` of the examples off arrays, as `fit` does.

    Raises:
        ValueError: If `data` is not arrays, or a part would be empty.
    """
    if not isinstance(data, (tuple, list)):
        raise ValueError(
            "`validation_split` needs arrays. Split the dataset yourself, for example "
            "with `ds.take(n)` and `ds.skip(n)`, and pass `validation_data`. Received: "
            f"ds={reprlib.repr(data)}"
        )
    checks.fraction("validation_split", share, "the share of the examples to split off")
    data_lib.check("ds", data)
    count = arrays_in(data)[0].shape[0]
    first = math.floor(count * (1 - share))
    if not 0 < first < count:
        raise ValueError(
            f"`validation_split` leaves no examples to train or to validate on: there "
            f"are {count}. Received: validation_split={share}"
        )
    return (
        map_arrays(lambda a: rows(a, 0, first), data),
        map_arrays(lambda a: rows(a, first), data),
    )


def _plain(leaf: Any) -> Any:
    # DataFrames and Series; Keras reads them by their values too.
    leaf = leaf.to_numpy() if hasattr(leaf, "to_numpy") else leaf
    if getattr(getattr(leaf, "dtype", None), "kind", "") == "U":
        return leaf.astype(object)  # As Keras 3 takes strings.
    return leaf.tocsr() if hasattr(leaf, "tocsr") else leaf  # Others have no rows.
