"""Tickets: masks, the weights to start from, and how they were found, in one file."""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from tflottery import engines
from tflottery.core import checks, files, paths
from tflottery.core import masks as masks_lib
from tflottery.core.config import LotteryConfig
from tflottery.core.masks import Masks, Weights
from tflottery.core.paths import architecture
from tflottery.core.records import Round
from tflottery.engines import network
from tflottery.showing import drawing, model_card, ticket_figures, ticket_tables

_FORMAT = "tflottery ticket 1"
WEIGHTS = ("initial", "rewind", "trained")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Ticket:
    """A winning ticket: a sparse network and how it was found.

    Attributes:
        masks: Boolean arrays by path.
        initial: θ0, the weights at initialization: all weights of the model by path,
            with the pruned ones at zero.
        rewind: θk, the same weights at step k.
        trained: θT, the same weights after training.
        config: How the ticket was searched for.
        monitor: The metric that decided which rounds won.
        rounds: The results of each round, starting with the dense round 0.
        round: The number of the round whose network this is.
        versions: The versions of the libraries that found the ticket, by name.
        origin: How the ticket was derived from another one, or `None`.

    Raises:
        ValueError: If masks and weights do not fit together (names the first path), or
            another value is of the wrong kind.
    """

    masks: Masks = dataclasses.field(repr=False)
    initial: Weights = dataclasses.field(repr=False)
    rewind: Weights = dataclasses.field(repr=False)
    trained: Weights = dataclasses.field(repr=False)
    config: LotteryConfig
    monitor: str
    rounds: Sequence[Round]
    round: int
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    origin: Mapping[str, Any] | None = None

    def __post_init__(self):
        paths.check(self.trained)
        for name in WEIGHTS:
            weights = getattr(self, name)
            _check_like(name, weights, self.trained)
            object.__setattr__(self, name, masks_lib.apply(self.masks, weights))
        checks.fields(
            self,
            {
                "monitor": checks.TEXT,
                "round": checks.WHOLE,
                "versions": checks.dict_of(checks.TEXT),
                "origin": checks.or_none(checks.DICT),
            },
        )
        _check_texts(self)

    @property
    def sparsity(self) -> float:
        """Share of masked weights that are zero, in [0, 1]."""
        return masks_lib.sparsity(self.masks)

    @property
    def density(self) -> float:
        """Share of masked weights that are kept, in [0, 1]."""
        return masks_lib.density(self.masks)

    @property
    def architecture(self) -> str:
        """SHA-256 of the paths, shapes and dtypes of all weights, in order."""
        return architecture(self.trained)

    def apply(
        self,
        model: Any,
        *,
        weights: Literal["initial", "rewind", "trained"] = "trained",
    ) -> Any:
        """Loads the ticket's weights into `model` and holds its masks there.

        A ticket has no vocabularies: those of lookup layers must already be there.

        Args:
            model: A built Keras 3 or tf_keras model whose weights have the ticket's
                paths and shapes. The numbers in Keras' layer names may differ.
            weights: `"trained"` (θT), `"rewind"` (θk) or `"initial"` (θ0).

        Returns:
            The same `model`, now sparse. Its `ticket` is this one.

        Raises:
            TypeError: If `model` is not a Keras model.
            ValueError: If `model` is not built, or does not fit the ticket. Names the
                first path that differs.
        """
        checks.choice("weights", weights, WEIGHTS)
        network.keras_of(model)  # Raises if it is not a Keras model.
        if not model.weights:
            raise ValueError(
                f"`model` {model.name!r} is not built, so it has no weights yet. Give "
                "it an `Input`, call `model.build(input_shape)`, or call it once on a "
                "batch."
            )
        variables = network.variables(model)
        mapping = paths.align(self.trained, network.read(variables))
        engines.hold(model, {mapping[path]: mask for path, mask in self.masks.items()})
        for path, value in getattr(self, weights).items():
            variables[mapping[path]].assign(value)
        network.finalize(model)
        model.ticket = self
        return model

    def save(self, path: Any) -> None:
        """Writes the ticket to `path`, a safetensors file that contains no code.

        Masks are stored as bits, and masked weights by their kept values only. The
        times of the rounds are left out, so that equal searches write equal files.

        Raises:
            TypeError, ValueError: If `path` is not a path.
            OSError: If the file cannot be written. Its old content stays.
        """
        path = files.path_of(path)
        arrays = {}
        for mask_path, mask in self.masks.items():
            arrays[f"masks/{mask_path}"] = masks_lib.pack(mask)
        for name in WEIGHTS:
            for weight_path, w in getattr(self, name).items():
                kept = w[self.masks[weight_path]] if weight_path in self.masks else w
                arrays[f"{name}/{weight_path}"] = kept
        rounds = [dict(vars(r)) for r in self.rounds]  # asdict() copies every number.
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
        """Prints the layers' densities and the results of each round."""
        print_fn(ticket_tables.as_text(self))

    def _repr_html_(self) -> str:
        return ticket_tables.as_html(self)

    def plot(self) -> Any:
        """Draws the metric over density, the layers' densities, and the first masks.

        Example:

        ```python
        model.ticket.plot().savefig("ticket.png")
        ```

        Returns:
            A `matplotlib.figure.Figure`, which a notebook shows. Tickets without rounds
            have no first panel.

        Raises:
            ImportError: If Matplotlib is not installed (`tflottery[plots]`).
        """
        title = f"{100 * self.density:.3g} % of all"
        per_layer = masks_lib.density_per_layer(self.masks)
        pictures = [
            ticket_figures.rounds_metric(self.rounds, self.monitor, self.round),
            ticket_figures.layers([per_layer], title),
            ticket_figures.first_masks(self.masks),
        ]
        return drawing.panels([picture for picture in pictures if picture])

    def model_card(self) -> str:
        """Returns Markdown for the README.md of the ticket's model repository.

        It starts with the metadata that the Hugging Face Hub reads. The license, the
        dataset and the results on test data are yours to add.

        Example:

        ```python
        import pathlib

        model.ticket.save("my.ticket")
        pathlib.Path("README.md").write_text(model.ticket.model_card())
        ```
        """
        return model_card.model_card(self)


def load_ticket(path: Any) -> Ticket:
    """Returns the ticket that `Ticket.save` wrote to `path`.

    No code from the file is run. Everything is checked: checksums, shapes, dtypes,
    names, the number of kept values, NaN and infinity, the architecture's hash, and
    that the rounds match the masks.

    Raises:
        TypeError, ValueError: If `path` is not the path of a file.
        FileError: (a ValueError) If the file is damaged. Names the damaged part.
        FileNotFoundError: If there is no such file.
    """
    place = files.path_of(path)
    if isinstance(place, pathlib.Path) and place.exists() and not place.is_file():
        raise ValueError(  # A pipe or a device may never end.
            "`path` must be a regular file, such as RUN_DIR/ticket.safetensors. "
            f"Received: path={str(path)!r}, which is "
            f"{'a folder' if place.is_dir() else 'a pipe or a device'}"
        )
    arrays, header = files.read_arrays(place)
    try:
        return _from_file(arrays, header)
    except KeyError as error:
        what = f"{path} is not a valid ticket: it lacks {error}."
        raise files.FileError(what) from error
    except (TypeError, ValueError, AttributeError) as error:
        raise files.FileError(f"{path} is not a valid ticket. {error}") from error


def _from_file(arrays: dict[str, np.ndarray], header: Any) -> Ticket:
    found = header.get("format") if isinstance(header, dict) else None
    if found != _FORMAT:
        raise ValueError(f"Its format is {found!r}; this version reads {_FORMAT!r}.")
    shapes = {name: _shape(name, shape) for name, shape in header["shapes"].items()}
    masks = {
        name: masks_lib.unpack(arrays.pop(f"masks/{name}"), shapes[name])
        for name in header["masked"]
    }
    weights = {
        part: {
            name: _fill(name, arrays.pop(f"{part}/{name}"), shape, masks.get(name))
            for name, shape in shapes.items()
        }
        for part in WEIGHTS
    }
    if arrays:
        raise ValueError(f"It has arrays that no ticket has: {', '.join(arrays)}.")
    ticket = Ticket(
        masks=masks,
        **weights,
        config=LotteryConfig(**header["config"]),
        monitor=header["monitor"],
        rounds=tuple(Round.read(record) for record in header["rounds"]),
        round=header["round"],
        versions=header["versions"],
        origin=header["origin"],
    )
    if ticket.architecture != header["architecture"]:
        raise ValueError("Its weights do not match its architecture hash.")
    _check_rounds(ticket)
    # A run also keeps the rounds that diverged.
    failed = {record.round for record in ticket.rounds if record.failure is not None}
    for part in WEIGHTS if ticket.round not in failed else ():
        for name, w in getattr(ticket, part).items():
            if np.any(w != w):
                raise ValueError(f"The {part} weight {name!r} contains NaN.")
            # Before training, a bias of -inf may be a mask for attention.
            if part == "trained" and np.any(np.abs(w) == np.inf):
                raise ValueError(f"The {part} weight {name!r} contains infinity.")
    return ticket


def _check_rounds(ticket: Ticket) -> None:
    """Checks that the records match the ticket's masks."""
    for number, record in enumerate(ticket.rounds):
        if record.round != number:
            raise ValueError(f"Record {number} is of round {record.round}.")
    if ticket.rounds and ticket.round >= len(ticket.rounds):
        raise ValueError(
            f"It is of round {ticket.round}, but has {len(ticket.rounds)} records."
        )
    # The masks of a control arm or a student differ from the round's.
    if ticket.rounds and ticket.origin is None:
        said = ticket.rounds[ticket.round].sparsity
        if not math.isclose(said, ticket.sparsity, abs_tol=1e-9):
            raise ValueError(
                f"Its masks have the sparsity {ticket.sparsity}, but the record of "
                f"its round says {said}."
            )


def _check_texts(ticket: Ticket) -> None:
    """Checks that names and messages have no control characters for a terminal."""
    texts = {ticket.monitor, *ticket.versions, *ticket.versions.values()}
    for r in ticket.rounds:
        texts |= {r.failure or "", *r.metrics, *r.history, *r.density_per_layer}
    for text in sorted(texts):
        if not text.isprintable():
            raise ValueError(
                f"A ticket's names must be printable text. Received: {text!r}"
            )


def _fill(
    name: str, values: np.ndarray, shape: tuple[int, ...], mask: np.ndarray | None
) -> np.ndarray:
    """Returns the weight with the kept values `values`, in order."""
    wanted = shape if mask is None else (int(np.count_nonzero(mask)),)
    if values.shape != wanted:
        raise ValueError(
            f"{name!r} has values of shape {values.shape} instead of {wanted}."
        )
    if mask is None:
        return values
    full = np.zeros(shape, values.dtype)
    full[mask] = values
    return full


def _shape(name: str, shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, list) or not all(map(checks.is_whole, shape)):
        raise ValueError(f"{name!r} has the shape {shape!r}.")
    return tuple(shape)


def _check_like(part: str, weights: Weights, trained: Weights) -> None:
    """Checks that `weights` has the same paths, shapes and dtypes as θT."""
    for name in [*trained, *weights]:
        mine, wanted = (
            (w[name].shape, w[name].dtype) if name in w else "none"
            for w in (weights, trained)
        )
        if mine != wanted:
            raise ValueError(
                f"The {part} weights differ from the trained ones at {name!r}: {mine} "
                f"instead of {wanted}."
            )
