"""Paths: the names of weights, and how those of two networks correspond."""

import hashlib
import itertools
import re
from collections.abc import Iterable

from tflottery.core.masks import Weights


def architecture(weights: Weights) -> str:
    """Returns a SHA-256 of the paths, shapes and dtypes of `weights`, in order.

    The numbers in Keras' layer names are ignored: `dense_3` counts as `dense`.
    """
    names = canonical(weights)
    text = "".join(
        f"{name} {w.shape} {w.dtype.name}\n"
        for name, w in zip(names, weights.values(), strict=True)
    )
    return hashlib.sha256(text.encode()).hexdigest()


def canonical(paths: Iterable[str]) -> list[str]:
    """Returns the paths with the numbers in Keras' layer names counted from zero.

    Keras numbers layers of each kind per process, so a network that is built a second
    time has different names.

    >>> canonical(["dense_4/kernel", "dense_4/bias", "dense_7/kernel", "head/kernel"])
    ['dense/kernel', 'dense/bias', 'dense_1/kernel', 'head/kernel']
    """
    names: dict[str, str] = {}
    counts: dict[str, int] = {}
    result = []
    for path in paths:
        new = old = ""
        *layers, variable = path.split("/")
        for layer in layers:
            old = f"{old}{layer}/"
            if old not in names:
                stem = new + re.sub(r"_\d+$", "", layer)
                number = counts.get(stem, 0)
                counts[stem] = number + 1
                names[old] = f"{stem}_{number}/" if number else f"{stem}/"
            new = names[old]
        result.append(new + variable)
    return result


def align(theirs: Weights, ours: Weights) -> dict[str, str]:
    """Returns a dict from the paths of a ticket's weights to those of the model's.

    Raises:
        ValueError: If they do not fit. Names the first path or shape that differs.
    """
    if set(theirs) == set(ours):
        mapping = {name: name for name in theirs}
    else:
        mapping = dict(zip(theirs, ours, strict=False))
        for a, b in itertools.zip_longest(canonical(theirs), canonical(ours)):
            if a != b:
                a, b = a or "no further weight", b or "no further weight"
                raise ValueError(
                    f"The ticket does not fit the model: where the ticket has {a!r}, "
                    f"the model has {b!r}. Was the ticket found on another network?"
                )
    for name, other in mapping.items():
        if theirs[name].shape != ours[other].shape:
            raise ValueError(
                f"The ticket does not fit the model: {name!r} has shape "
                f"{theirs[name].shape} in the ticket, and {ours[other].shape} in the "
                "model. Was the ticket found on another network?"
            )
    return mapping


def of_backbone(theirs: Iterable[str], ours: Iterable[str]) -> dict[str, str]:
    """Returns a dict from a backbone's paths to the ticket's.

    The ticket's remaining paths must come last, as they belong to its head. The
    ticket's network may also contain the backbone as its first layer.

    Raises:
        ValueError: If they do not fit. Names the first paths that differ.

    >>> of_backbone(["conv_3/kernel", "output/kernel"], ["conv/kernel"])
    {'conv/kernel': 'conv_3/kernel'}
    >>> of_backbone(["body/conv/kernel", "output/kernel"], ["conv/kernel"])
    {'conv/kernel': 'body/conv/kernel'}
    """
    theirs, ours = list(theirs), list(ours)
    first = theirs[0].split("/")[0] + "/"
    inside = [p for p in theirs if p.startswith(first)]
    for mine, names, originals in (
        (ours, theirs, theirs),
        (canonical(ours), canonical(theirs), theirs),
        (canonical(ours), canonical(p.removeprefix(first) for p in inside), inside),
    ):
        if set(mine) <= set(names):
            by_name = dict(zip(names, originals, strict=True))
            known = {path: by_name[m] for path, m in zip(ours, mine, strict=True)}
            break
    else:
        raise ValueError(_difference(canonical(ours), canonical(theirs)))
    left = set(theirs) - set(known.values())
    missing = [p for p in theirs if p in left]
    if missing != theirs[len(theirs) - len(missing) :]:
        raise ValueError(
            f"`backbone` does not fit the ticket: it lacks {missing[0]!r}, which is "
            "not part of a head at the ticket's end. Use one with the same paths."
        )
    return known


def _difference(ours: list[str], theirs: list[str]) -> str:
    pairs = [(a, b) for a, b in zip(theirs, ours, strict=False) if a != b][:3]
    pairs = pairs or [("no further weight", ours[len(theirs)])]
    listed = "; ".join(
        f"where the ticket has {a!r}, `backbone` has {b!r}" for a, b in pairs
    )
    return f"`backbone` does not fit the ticket: {listed}. Use one with the same paths."


def check(names: Iterable[str]) -> None:
    """Raises ValueError if a name is not a valid path of a weight.

    Names end up in terminals, reports and file names, so they must not contain control
    characters or lead out of a folder.

    >>> check(["../kernel"])
    Traceback (most recent call last):
    ...
    ValueError: '../kernel' is not the path of a weight.
    """
    for name in names:
        if (
            not isinstance(name, str)
            or not name.isprintable()
            or "\\" in name
            or any(part in ("", ".", "..") for part in name.split("/"))
        ):
            raise ValueError(f"{name!r} is not the path of a weight.")
