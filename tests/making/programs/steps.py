"""Steps: what a user does with a program's ticket, and whether it went well."""

import importlib
import pathlib
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

import tflottery
from making.programs import catalogue, generative, supervised  # noqa: F401
from making.programs.catalogue import OK, PROGRAMS, Program
from tflottery.engines import data as data_lib
from tflottery.engines import holding, network

SPARSITY = 0.5


class Bench:
    """A program under test: searched once, and then used in several ways."""

    def __init__(self, which: Program, keras: Any, folder: pathlib.Path):
        self.program, self.keras, self.folder = which, keras, folder
        self.model, self.arguments = catalogue.made(which, keras)

    def search(self) -> None:
        """Searches, and checks the ticket."""
        found = tflottery.find_ticket(
            self.model,
            **self.arguments,
            epochs=1,
            rounds=1,
            target_sparsity=SPARSITY,
            select="last",
            verbose=0,
        )
        assert found is self.model
        size = sum(mask.size for mask in found.ticket.masks.values())
        assert abs(found.ticket.sparsity - SPARSITY) <= 1 / size
        self.check(found, found.ticket)

    def hold(self) -> None:
        """Trains on by `fit`."""
        self.model.run_eagerly = True  # Quicker than a trace, for a step.
        self.train(self.model, self.model.ticket)

    def ticket(self) -> None:
        """Saves the ticket, loads it, and applies it to the program built again."""
        self.model.ticket.save(self.folder / "ticket.safetensors")
        ticket = tflottery.load_ticket(self.folder / "ticket.safetensors")
        again, _ = catalogue.made(self.program, self.keras)
        again.run_eagerly = True  # Quicker than a trace, for a step.
        if not again.built:
            self.fit(again)  # As a user would build it.
        ticket.apply(again)
        self.train(again, ticket)

    def reload(self) -> None:
        """Saves the model, loads it by Keras, holds its zeros and trains on."""
        path = self.folder / "model.keras"
        ticket = self.model.ticket
        self.model.save(path)
        custom = {
            type(layer).__name__: type(layer)
            for layer in network.all_layers(self.model)
            if type(layer).__module__.split(".")[0] != self.keras.__name__
        }
        arguments = {"custom_objects": custom, "compile": False}
        if self.keras.__name__ == "keras":
            arguments["safe_mode"] = False  # For Lambda.
        loaded = self.keras.models.load_model(path, **arguments)
        catalogue.compiled(self.program, loaded, self.keras)
        loaded.run_eagerly = True  # Quicker than a trace, for a step.
        tflottery.hold(loaded, include=self.arguments.get("include", ()))
        self.train(loaded, ticket)

    def transfer(self) -> None:
        """Moves the ticket to another task and trains a step there."""
        given = dict(self.program.transfer)
        if "backbone" in given:
            given["backbone"] = given["backbone"](self.model)
        student = tflottery.transfer_ticket(self.model, **given)
        x = self.x()
        outputs = student(x)
        assert outputs.shape[-1] == 3, f"its output has the shape {outputs.shape}"
        student.compile("adam", "mse", run_eagerly=True)
        student.train_on_batch(x, np.zeros(outputs.shape, "float32"))
        self.check(student, student.ticket)
        masks = student.ticket.masks, self.model.ticket.masks
        least = 1 if {"backbone", "output"} & set(given) else len(masks[1]) - 1
        assert len(masks[0]) >= least, "masks were left behind"

    def export(self) -> None:
        """Writes a `.tflite` file, which is run and compared to the model."""
        samples = None
        if not getattr(self.model, "inputs", None):
            samples = data_lib.map_arrays(np.asarray, self.x())
        tflottery.export_tflite(
            self.model, self.folder / "model.tflite", samples=samples
        )

    def fit(self, model: Any) -> None:
        """Trains a step by Keras' own `fit`."""
        given, ds = dict(self.arguments), self.arguments["ds"]
        for name in ("ds", "include", "monitor", "validation_data"):
            given.pop(name, None)
        given |= {"steps_per_epoch": 1, "validation_split": 0.0}
        if isinstance(ds, tuple):
            given |= dict(zip(("x", "y"), ds, strict=True))
        else:
            given["x"] = ds
        if self.program.evaluate_first:
            model.evaluate(given["x"], given["y"], verbose=0)
        model.fit(**given, verbose=0)

    def train(self, model: Any, ticket: Any) -> None:
        """Trains by `fit`, and checks that the ticket's zeros stay."""
        before = network.read(network.variables(model))
        self.fit(model)
        after = network.read(network.variables(model))
        moved = [np.any(before[path] != after[path]) for path in before]
        assert any(moved), "nothing was trained"
        self.check(model, ticket)

    def check(self, model: Any, ticket: Any) -> None:
        """Checks that pruned weights are zero and most others are not."""
        weights = network.read(network.variables(model))
        held = holding.masks_held(model)
        assert len(held) == len(ticket.masks), f"{len(held)} masks are held"
        for path, mask in held.items():
            assert not np.any(weights[path][~mask]), f"{path} is not held"
        pruned = sum(int((~mask).sum()) for mask in held.values())
        least = sum(int((~mask).sum()) for mask in ticket.masks.values())
        assert pruned >= least, f"{pruned} zeros are held, not {least}"

    def x(self) -> Any:
        """Returns the inputs of a few examples, as the model takes them."""
        ds = self.arguments["ds"]
        if "y" in self.arguments or isinstance(ds, np.ndarray | dict):
            ds = (ds,)
        x, _ = data_lib.first_batch(ds)
        return data_lib.map_arrays(lambda a: np.asarray(a)[:8], x)


STEPS: dict[str, Callable[[Bench], None]] = {
    "search": Bench.search,
    "hold": Bench.hold,
    "ticket": Bench.ticket,
    "reload": Bench.reload,
    "transfer": Bench.transfer,
    "export": Bench.export,
}
# What a search says of some programs, and Keras of some calls, rightly.
_SAID = (
    "can be pruned",
    "Without `validation_data`",
    "`build.*` was called on layer",
    "`shuffle=True` was passed",
    "You are saving a model that has not yet been built",
)


def outcomes(
    name: str, generation: str, folder: pathlib.Path, steps: Any = tuple(STEPS)
) -> dict[str, str]:
    """Returns for each step "ok", or the message that came instead."""
    bench = Bench(PROGRAMS[name], importlib.import_module(generation), folder)
    found = {}
    for step in ("search", *(s for s in steps if s != "search")):
        found[step] = _outcome(lambda step=step: STEPS[step](bench))
        if found["search"] != OK:
            break
    return found


def _outcome(step: Callable[[], None]) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for text in _SAID:
            warnings.filterwarnings("ignore", f"(?s).*{text}")
        try:
            step()
        except Exception as error:
            return plain(f"{type(error).__name__}: {error}")
    return OK


def plain(text: str) -> str:
    """Returns a message without colors, and without the numbers of layers.

    >>> plain("`model` 'functional_12' is not built.")
    "`model` 'functional' is not built."
    """
    return re.sub(r"_\d+'", "'", re.sub(r"\x1b\[[0-9;]*m", "", text))
