"""Transfer: a ticket on another task, with a new head and the same masks.

Mehta 2019, "Sparse Transfer Learning via Winning Lottery Tickets", section 2.
"""

import dataclasses
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from tflottery import ticket as ticket_lib
from tflottery.core import checks, paths
from tflottery.core.masks import Weights
from tflottery.engines import data as data_lib
from tflottery.engines import holding, network
from tflottery.ticket import Ticket
from tflottery.transfer import graph, heads

_FROZEN_TOO_SPARSE = 0.8
_MOST_CLASSES = 2**24  # A larger head would use up all memory without an error.

_CLASSES = checks.Kind(
    lambda n: checks.is_whole(n) and 2 <= n <= _MOST_CLASSES,
    f"a whole number from 2 to {_MOST_CLASSES}. For one output pass a layer, as "
    "head=Dense(1)",
)
_SHAPE = checks.Kind(
    lambda shape: (
        isinstance(shape, Iterable)
        and all(n is None or (checks.is_whole(n) and n > 0) for n in shape)
    ),
    "the shape of one example, as (32, 32, 3)",
)


def transfer_ticket(
    source: Any,
    num_classes: int | None = None,
    *,
    head: Any = None,
    backbone: Any = None,
    output: str | None = None,
    weights: Literal["trained", "rewind", "initial"] = "trained",
    freeze_backbone: bool = False,
    input_shape: Sequence[int] | None = None,
    seed: int | None = None,
) -> Any:
    """Moves a ticket to another task: a new head on the same sparse backbone.

    The masks are held in the student as in the source.

    Example:

    ```python
    student = tflottery.transfer_ticket(model, num_classes=5)
    student.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    student.fit(x, y, epochs=3)

    # The two-layer head of Mehta 2019:
    layers = [keras.layers.Dense(100, "relu"), keras.layers.Dense(5, "softmax")]
    student = tflottery.transfer_ticket(model, head=layers)
    ```

    Args:
        source: A Keras 3 or tf_keras model that carries a ticket; or, together with
            `backbone`, a `Ticket` or the path of a ticket file. It does not change.
        num_classes: Number of classes of the new task, at least 2. The classifier (the
            last Dense layer or convolution before the output) is replaced by a new one
            with the same name and the output's activation.
        head: Instead of `num_classes`, a new layer or a list of new layers. They get
            the old classifier's input. With `seed`, layers that draw random numbers
            are copied.
        backbone: The part whose output the new head gets. Required if the source is a
            subclassed model. A model inside the source, such as
            `backbone=source.encoder`, is copied. Another built model is filled with
            the ticket, and the student shares its layers: it has the ticket's paths,
            with or without the classifier's.
        output: The output whose classifier is replaced, if the source has several. The
            student has this one only.
        weights: Where to start: `"trained"` (θT; for a model, its current weights),
            `"rewind"` (θk) or `"initial"` (θ0). The head is always new.
        freeze_backbone: Whether to train only the head, with batch normalization in
            inference mode.
        input_shape: The shape of one example of the new task, without the batch, if it
            is another. The weights must not depend on it, as with global pooling.
        seed: Random seed of the head, at least 0.

    Returns:
        The student, a model of the same Keras as the source, not compiled: the new task
        needs its own loss and learning rate. If `source` is your own subclass of a
        functional model, the student is a plain one. `student.ticket` has the masks and
        weights, the head's included; `student.ticket.origin` says where they come from.

    Raises:
        TypeError: If `source` or `backbone` is not one of the above.
        ValueError: If another argument is invalid, `backbone` does not fit the ticket
            (the error names the first paths that differ), a layer cannot be copied, or
            the weights depend on `input_shape`.
    """
    if (num_classes is None) == (head is None):
        raise ValueError(
            "Give the student's head either by `num_classes` or by `head`. Received: "
            f"num_classes={num_classes!r}, head={head!r}"
        )
    if num_classes is not None:
        checks.check("num_classes", num_classes, _CLASSES)
        num_classes = int(num_classes)
    if seed is not None:
        seed = checks.whole("seed", seed)
    if input_shape is not None:
        checks.check("input_shape", input_shape, _SHAPE)
        input_shape = tuple(input_shape)
    checks.check("freeze_backbone", freeze_backbone, checks.BOOL)
    checks.choice("weights", weights, ticket_lib.WEIGHTS)
    backbone = None if backbone is source else backbone
    ticket, theirs = _source(source)
    body, keras = _body(source, backbone)
    with holding.scope(body):
        shared = any(id(v) in theirs for v in body.weights)
        whole = not shared and len(network.variables(body)) >= len(ticket.trained)
        found = None
        if backbone is None or whole:
            found = _cut(ticket, body, backbone, keras, output)
            body = found.features
        elif output is not None:
            raise ValueError(
                "`output` is for models with a classifier, but `backbone` has none. "
                f"Received: output={output!r}"
            )
        if head is None:
            layers = heads.made(num_classes, body, found, keras)
        else:
            layers = heads.checked(head, keras)
        known = _known(ticket, theirs, body)
        if shared or input_shape is not None:
            body = graph.clone(body, keras, input_shape)
        _check_shapes(ticket, known, network.read(network.variables(body)), input_shape)
        layers = [heads.seeded(layer, seed, i) for i, layer in enumerate(layers)]
        heads.check_names(layers, body)
        try:
            student = graph.attach(body, layers, keras, input_shape)
        except (TypeError, ValueError) as error:
            if head is None or not network.is_graph(body):
                raise
            raise ValueError(
                "`head` must take what the old classifier got, which has the shape "
                f"{tuple(body.outputs[0].shape)}. {' '.join(str(error).split())}"
            ) from error
    if input_shape is not None:
        graph.check_runs(student, input_shape)
    names = {id(v): path for path, v in network.variables(body).items()}
    variables = network.variables(student)
    mapping = {
        path: known[names[id(v)]] for path, v in variables.items() if id(v) in names
    }
    origin = {"weights": weights, "seed": seed}
    moved = grafted(ticket, network.read(variables), mapping, origin)
    moved.apply(student, weights=weights)
    # Nested layers too: Keras 3 ignores a value that the outer layer already has.
    for layer in network.all_layers(student)[1:]:
        layer.trainable = not freeze_backbone
    for layer in layers:
        layer.trainable = True
    if freeze_backbone and ticket.sparsity > _FROZEN_TOO_SPARSE:
        warnings.warn(
            "`freeze_backbone=True` with a ticket sparser than 80 %: frozen sparse "
            "features lose accuracy on other tasks, while fine-tuning all weights "
            "keeps it (Iofinova et al. 2021).",
            stacklevel=2,
        )
    _check_at_fit(student)
    return student


def grafted(
    ticket: Ticket,
    fresh: Weights,
    mapping: Mapping[str, str],
    origin: Mapping[str, Any],
) -> Ticket:
    """Returns the student's ticket: the source's masks and weights, and a new head's.

    Args:
        ticket: The source's ticket.
        fresh: The student's weights by path, from which the head's are taken.
        mapping: For each of the student's paths, except the head's, the path in
            `ticket` that it corresponds to.
        origin: Plain data to record with the ticket's origin.
    """
    parts = {
        name: {
            path: getattr(ticket, name)[mapping[path]] if path in mapping else w
            for path, w in fresh.items()
        }
        for name in ticket_lib.WEIGHTS
    }
    return dataclasses.replace(
        ticket,
        masks={p: ticket.masks[q] for p, q in mapping.items() if q in ticket.masks},
        **parts,
        origin={
            "architecture": ticket.architecture,
            "density": ticket.density,
            "round": ticket.round,
            **origin,
            "origin": None if ticket.origin is None else dict(ticket.origin),
        },
    )


def _source(source: Any) -> tuple[Ticket, dict[int, str]]:
    """Returns the ticket, and its paths by the ids of the source's variables."""
    if isinstance(source, Ticket):
        return source, {}
    if isinstance(source, str | os.PathLike):
        return ticket_lib.load_ticket(source), {}
    _check_model(
        source,
        "`source` must be a model that carries a ticket, a `Ticket` or the "
        "path of a ticket file.",
    )
    ticket = getattr(source, "ticket", None)
    if ticket is None:
        raise ValueError(
            f"`source` {source.name!r} carries no ticket. Make one with "
            "`tflottery.find_ticket(source, ...)`, or put one in with "
            "`ticket.apply(source)`. If it is a part of a model that carries "
            "one, pass that model as `source` and this one as `backbone`."
        )
    variables = network.variables(source)
    now = network.read(variables)
    mapping = paths.align(ticket.trained, now)
    trained = {path: now[mapping[path]] for path in ticket.trained}
    theirs = {id(variables[mapping[path]]): path for path in trained}
    return dataclasses.replace(ticket, trained=trained), theirs


def _check_model(model: Any, message: str) -> None:
    try:
        network.keras_of(model)
    except TypeError as error:
        raise TypeError(
            f"{message} Received: {model!r} of type {type(model).__name__}"
        ) from error


def _body(source: Any, backbone: Any) -> tuple[Any, Any]:
    """Returns the model to make the student of, and the Keras that it belongs to."""
    model: Any = source
    if isinstance(source, Ticket | str | os.PathLike):
        model = None
    if backbone is None and model is None:
        raise ValueError(
            "`backbone` is needed if `source` is a ticket: a built model to fill, such "
            "as the network that it was found on, built again."
        )
    if backbone is None:
        keras = network.keras_of(model)
        own = type(model).train_step is not keras.Model.train_step
        if own and network.is_graph(model):
            warnings.warn(
                f"`source` is a {type(model).__name__} with its own `train_step`, but "
                f"the student is a plain {keras.__name__} model and trains like one.",
                stacklevel=3,
            )
        return model, keras
    _check_model(backbone, "`backbone` must be a built Keras 3 or tf_keras model.")
    keras = network.keras_of(backbone)
    if model is not None and network.keras_of(model) is not keras:
        raise ValueError(
            "`backbone` must be of the source's Keras, "
            f"{network.keras_of(model).__name__}. Received a model of "
            f"{keras.__name__}."
        )
    return backbone, keras


def _cut(ticket: Ticket, body: Any, backbone: Any, keras: Any, output: Any) -> Any:
    """Returns the network without its classifier, which it has."""
    if backbone is not None:
        paths.align(ticket.trained, network.read(network.variables(body)))
        if not network.is_graph(body):
            raise ValueError(
                f"`backbone` {body.name!r} has all of the ticket's weights, the "
                "classifier's included, which cannot be cut off a subclassed "
                "model. Pass it without its classifier."
            )
    return graph.cut(body, keras, output)


def _known(ticket: Ticket, theirs: dict[int, str], body: Any) -> dict[str, str]:
    """Returns the ticket's path for each path of the backbone."""
    variables = network.variables(body)
    known = {p: theirs[id(v)] for p, v in variables.items() if id(v) in theirs}
    if len(known) == len(variables):
        return known
    return paths.of_backbone(ticket.trained, variables)


def _check_shapes(
    ticket: Ticket, known: Mapping[str, str], ours: Weights, input_shape: Any
) -> None:
    for path, other in known.items():
        there, here = ticket.trained[other].shape, ours[path].shape
        if there != here and input_shape is not None:
            raise ValueError(
                f"`input_shape` {input_shape} does not fit the ticket: {other!r} would "
                f"have the shape {here} instead of {there}. The shape can only change "
                "if the weights do not depend on it, as with global pooling. "
                "Otherwise resize the images."
            )
        if there != here:
            raise ValueError(
                f"`backbone` does not fit the ticket: {path!r} has the shape {here}, "
                f"and {other!r} in the ticket {there}."
            )


def _check_at_fit(student: Any) -> None:
    """Makes `fit` check that the examples have the student's input shape."""
    fit = type(student).fit

    def checked_fit(x: Any = None, *args: Any, **kwargs: Any) -> Any:
        found = data_lib.shape_of_examples(x)
        if found is not None and isinstance(student.input_shape, tuple):
            _check_shape(found, student.input_shape[1:])
        return fit(student, x, *args, **kwargs)

    vars(student)["fit"] = checked_fit


def _check_shape(found: tuple[Any, ...], wanted: tuple[Any, ...]) -> None:
    # Keras adds and removes a last dimension of 1 by itself.
    a, b = (s[:-1] if len(s) > 1 and s[-1] == 1 else s for s in (found, wanted))
    if len(a) != len(b) or any(
        None not in (x, y) and x != y for x, y in zip(a, b, strict=True)
    ):
        raise ValueError(
            f"`fit` got examples of the shape {found}, but the student takes {wanted}, "
            "like the network that its ticket was found on. Adapt images with "
            f"`tflottery.lab.data.pixels.adapt(x, {wanted})`; or, if the network ends "
            f"in global pooling, pass `input_shape={found}` to `transfer_ticket`."
        )
