"""Tickets: masks, the weights to start from, and how they were found; in one file."""

import dataclasses
import hashlib
import io
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from tflottery import files
from tflottery import masks as masks_lib
from tflottery.config import LotteryConfig
from tflottery.masks import Masks, Weights

_FORMAT = "tflottery ticket 1"
WEIGHTS = ("initial", "rewind", "trained")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Round:
    """What one round of training came to.

    Attributes:
        round: its number; round 0 is the dense network.
        sparsity: the share of masked weights that are zero, in [0, 1].
        density_per_layer: the share kept by path, each in [0, 1].
        metrics: the metrics after the round by name, with `val_` before those on
            validation data.
        history: the logs of each epoch by name, as `keras.callbacks.History`.
        steps: optimizer steps trained.
        seconds: time taken; `None` in a ticket read from a file, as equal searches
            write equal files.
        failure: why the round does not count, or `None`.
    """

    round: int
    sparsity: float
    density_per_layer: Mapping[str, float]
    metrics: Mapping[str, float]
    history: Mapping[str, Sequence[float]]
    steps: int
    seconds: float | None = None
    failure: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ticket:
    """A winning ticket: a sparse network and how it was found.

    Attributes:
        masks: boolean arrays by path.
        initial: θ0, the weights at initialization, by path: all of the model's, with
            the pruned ones at zero.
        rewind: θk, the weights at step k, likewise.
        trained: θT, the weights after training, likewise.
        config: how it was searched for.
        monitor: the metric that winning was judged by.
        rounds: what each round came to, the dense round 0 first.
        round: the number of the round whose network this is.
        versions: the versions of the libraries that found it.
        origin: where the ticket came from, where it was derived from another.
    """

    masks: Masks
    initial: Weights
    rewind: Weights
    trained: Weights
    config: LotteryConfig
    monitor: str
    rounds: Sequence[Round]
    round: int
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    origin: Mapping[str, Any] | None = None

    def __post_init__(self):
        for name in WEIGHTS:
            weights = getattr(self, name)
            object.__setattr__(self, name, masks_lib.apply(self.masks, weights))

    @property
    def sparsity(self) -> float:
        """The share of masked weights that are zero, in [0, 1]."""
        return masks_lib.sparsity(self.masks)

    @property
    def density(self) -> float:
        """The share of masked weights that are kept, in [0, 1]."""
        return masks_lib.density(self.masks)

    @property
    def architecture(self) -> str:
        """A SHA-256 of the paths, shapes and types of all weights, in order."""
        return architecture(self.trained)

    def apply(
        self,
        model: Any,
        *,
        weights: Literal["initial", "rewind", "trained"] = "trained",
    ) -> Any:
        """Puts the ticket's weights into `model` and holds its masks there.

        Args:
            model: a built Keras 3 or tf_keras model whose weights have the ticket's
                paths and shapes. Numbers that Keras gave its layers need not agree.
            weights: `"trained"` (θT), `"rewind"` (θk) or `"initial"` (θ0).

        Returns:
            `model` itself, now sparse; its `ticket` is this one.

        Raises:
            ValueError: naming the first path that does not fit.
        """
        # The one door from the core to the engines; it opens when it is called.
        from tflottery import engines

        return engines.apply_ticket(self, model, weights=weights)

    def save(self, path: Any) -> None:
        """Writes the ticket to `path`, one safetensors file without code in it.

        Masks are stored as bits and of masked weights only the kept values. The
        times of the rounds are left out, so equal searches write equal files.

        Raises:
            OSError: where the file cannot be written; what it held before stays.
        """
        arrays = {}
        for mask_path, mask in self.masks.items():
            arrays[f"masks/{mask_path}"] = masks_lib.pack(mask)
        for name in WEIGHTS:
            for weight_path, w in getattr(self, name).items():
                kept = w[self.masks[weight_path]] if weight_path in self.masks else w
                arrays[f"{name}/{weight_path}"] = kept
        rounds = [dataclasses.asdict(r) for r in self.rounds]
        for record in rounds:
            del record["seconds"]
        files.write_arrays(
            path,
            arrays,
            {
                "format": _FORMAT,
                "shapes": {p: list(w.shape) for p, w in self.trained.items()},
                "masked": list(self.masks),
                "architecture": self.architecture,
                "config": self.config.to_dict(),
                "monitor": self.monitor,
                "rounds": rounds,
                "round": self.round,
                "versions": dict(self.versions),
                "origin": self.origin,
            },
        )

    def summary(self, print_fn: Callable[[str], Any] = print) -> None:
        """Prints the ticket: the layers' densities and what each round came to."""
        from rich import box, console, table

        layers = table.Table("weight", "shape", "kept", "of", "left %", box=box.SIMPLE)
        for path, mask in self.masks.items():
            layers.add_row(*_layer_row(path, mask.shape, {path: mask}))
        layers.add_section()
        layers.add_row(*_layer_row("all masked", (), self.masks))
        dense = self.rounds[0].metrics.get(self.monitor) if self.rounds else None
        rounds = table.Table(
            "round", "left %", self.monitor, "to dense", "seconds", "", box=box.SIMPLE
        )
        for r in self.rounds:
            metric = r.metrics.get(self.monitor)
            known = metric is not None and dense is not None
            rounds.add_row(
                str(r.round),
                f"{100 * (1 - r.sparsity):.2f}",
                "" if metric is None else f"{metric:.4f}",
                f"{metric - dense:+.4f}" if known else "",
                "" if r.seconds is None else f"{r.seconds:.1f}",
                r.failure or ("<- this ticket" if r.round == self.round else ""),
            )
        for column in (*layers.columns[2:], *rounds.columns[:5]):
            column.justify = "right"
        page = console.Console(file=io.StringIO(), width=88, markup=False)
        page.print(f"Ticket: {100 * self.density:.2f} % of the prunable weights left")
        page.print(layers, rounds)
        print_fn(page.file.getvalue().rstrip())  # type: ignore[attr-defined]


def load_ticket(path: Any) -> Ticket:
    """Returns the ticket that `Ticket.save` wrote to `path`.

    Reading runs no code from the file. Everything is checked: checksums, shapes,
    types, the count of kept values, finite numbers, and the architecture's hash.

    Raises:
        FileError: (a ValueError) naming the file and the path that is damaged.
        FileNotFoundError: where there is no file.
    """
    arrays, header = files.read_arrays(path)
    try:
        if not isinstance(header, dict) or header.get("format") != _FORMAT:
            raise files.FileError(
                f"{path} is not a ticket that this version reads: its format is "
                f"{header.get('format') if isinstance(header, dict) else None!r}, not "
                f"{_FORMAT!r}."
            )
        shapes = {p: tuple(map(int, s)) for p, s in header["shapes"].items()}
        masks = {
            p: masks_lib.unpack(arrays.pop(f"masks/{p}"), shapes[p])
            for p in header["masked"]
        }
        weights = {
            name: {
                p: _fill(path, arrays.pop(f"{name}/{p}"), shape, masks.get(p))
                for p, shape in shapes.items()
            }
            for name in WEIGHTS
        }
        ticket = Ticket(
            masks=masks,
            **weights,
            config=LotteryConfig(**header["config"]),
            monitor=header["monitor"],
            rounds=tuple(Round(**r) for r in header["rounds"]),
            round=header["round"],
            versions=header["versions"],
            origin=header["origin"],
        )
    except files.FileError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise files.FileError(f"{path} is not a whole ticket: {error!r}.") from error
    if arrays:
        raise files.FileError(f"{path} holds arrays that no ticket has: {set(arrays)}.")
    if ticket.architecture != header["architecture"]:
        raise files.FileError(
            f"{path} is damaged: its weights do not fit its hash of the architecture."
        )
    return ticket


def architecture(weights: Weights) -> str:
    """Returns a SHA-256 of the paths, shapes and types of `weights`, in order.

    The numbers that Keras gives layers do not count: `dense_3` is `dense`.
    """
    names = canonical(weights)
    text = "".join(
        f"{name} {w.shape} {w.dtype.name}\n"
        for name, w in zip(names, weights.values(), strict=True)
    )
    return hashlib.sha256(text.encode()).hexdigest()


def canonical(paths: Iterable[str]) -> list[str]:
    """Returns the paths with the numbers that Keras gave their layers counted anew.

    Keras numbers layers by how many of their kind the process has made, so that one
    architecture has other names the second time that it is built.

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


def align(ticket: Ticket, weights: Weights) -> dict[str, str]:
    """Returns which of the model's paths each of the ticket's paths stands for.

    Args:
        ticket: a ticket.
        weights: the model's weights by path.

    Raises:
        ValueError: naming the first path or shape that does not fit.
    """
    theirs = list(weights)
    names = list(ticket.trained)
    if set(names) == set(theirs):
        mapping = {name: name for name in names}
    else:
        mapping = dict(zip(names, theirs, strict=False))
        for a, b in itertools.zip_longest(canonical(names), canonical(theirs)):
            if a != b:
                raise ValueError(
                    "The ticket does not fit the model: where the ticket has "
                    f"{a or 'no further weight'!r}, the model has "
                    f"{b or 'no further weight'!r}. Was the ticket found on another "
                    "network?"
                )
    for name, other in mapping.items():
        if ticket.trained[name].shape != weights[other].shape:
            raise ValueError(
                f"The ticket does not fit the model: {name!r} has shape "
                f"{ticket.trained[name].shape} in the ticket, and "
                f"{weights[other].shape} in the model. Was the ticket found on another "
                "network?"
            )
    return mapping


def _fill(
    file: Any, values: np.ndarray, shape: tuple[int, ...], mask: np.ndarray | None
) -> np.ndarray:
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise files.FileError(f"{file} holds a weight of shape {shape} that is NaN.")
    if mask is None:
        if values.shape != shape:
            raise ValueError(f"a weight has shape {values.shape}, not {shape}")
        return values
    full = np.zeros(shape, values.dtype)
    full[mask] = values
    return full


def _layer_row(name: str, shape: tuple[int, ...], masks: Masks) -> tuple[str, ...]:
    return (
        name,
        "x".join(map(str, shape)),
        f"{masks_lib.kept(masks):,}",
        f"{masks_lib.size(masks):,}",
        f"{100 * masks_lib.density(masks):.2f}",
    )
