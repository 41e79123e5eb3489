"""Transfer: a ticket on another task, with a new head and the same masks.

Mehta 2019, "Sparse Transfer Learning via Winning Lottery Tickets", section 2.
"""

import contextlib
import dataclasses
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from tflottery import ticket as ticket_lib
from tflottery.core import paths
from tflottery.core.checks import is_whole
from tflottery.core.masks import Weights
from tflottery.engines import data as data_lib
from tflottery.engines import network
from tflottery.ticket import Ticket
from tflottery.transfer import graph, heads

_FROZEN_TOO_SPARSE = 0.8
_MOST_CLASSES = 2**24  # More would take all memory, and none to tell why.


def transfer_ticket(
    source: Any,
    num_classes: int | None = None,
    *,
    head: Any = None,
    backbone: Any = None,
    weights: Literal["trained", "rewind", "initial"] = "trained",
    freeze_backbone: bool = False,
    input_shape: Sequence[int] | None = None,
    seed: int | None = None,
) -> Any:
    """Moves a ticket to another task: a new head, the same masks, held as before.

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
        source: a Keras 3 or tf_keras model that carries a ticket; or a `Ticket` or
            the path of a ticket file, with `backbone`. It is left untouched.
        num_classes: puts one Dense layer of so many units, at least 2, in the place
            of the classifier, which is the last Dense or 1x1 convolution to the
            output, with its name and the activation that the output had.
        head: instead, a new layer or a list of new layers. They get what the old
            classifier got. With a `seed` those that draw random numbers are copied.
        backbone: a built model to fill: of the ticket's paths, or of all but the
            classifier's. Subclassed models need it, without the classifier. The
            student is made of its layers.
        weights: what to start from: `"trained"` (θT; of a model, the weights that it
            has now), `"rewind"` (θk) or `"initial"` (θ0). The head starts fresh.
        freeze_backbone: whether only the head trains, with batch normalization in
            inference mode; else everything does.
        input_shape: the shape of an example of the new task, without the batch, where
            it differs. A network can take another shape where its weights do not
            depend on it, as with global pooling.
        seed: makes the head the same each time, at least 0.

    Returns:
        The student, of the same Keras as the source; of a functional or Sequential
        source of a class of your own a plain functional model. It is not compiled, as
        the new task has its own loss and learning rate. Its `ticket` holds the masks
        and weights with the new head's; `ticket.origin` says where it came from.

    Raises:
        TypeError: where `source` or `backbone` is not one of the above.
        ValueError: for a head that cannot be made, a backbone that does not fit
            (naming the first paths that differ) or shares weights with the source,
            or an `input_shape` that the weights do not allow.
    """
    _check_head(num_classes, head, seed)
    _check_how(backbone, freeze_backbone, input_shape)
    num_classes = None if num_classes is None else int(num_classes)
    seed = None if seed is None else int(seed)
    if weights not in ticket_lib.WEIGHTS:
        raise ValueError(
            f"`weights` must be one of {ticket_lib.WEIGHTS}. "
            f"Received: weights={weights!r}"
        )
    ticket, model = _source(source)
    body = model if backbone is None else backbone
    if body is None:
        raise ValueError(
            "`backbone` is needed where `source` is a ticket: a built model to put it "
            "in, such as the one that it was found on, made anew."
        )
    keras = network.keras_of(body)
    if model is not None and network.keras_of(model) is not keras:
        raise ValueError(
            f"`backbone` must be of the source's Keras, "
            f"{network.keras_of(model).__name__}. Received a model of {keras.__name__}."
        )
    if model is not None and backbone is not None:
        _check_apart(model, backbone)
    elif graph.is_graph(body):
        _warn_of_train_step(body, keras)
    with _scope(body):
        body, layers = _parts(ticket, body, backbone, keras, num_classes, head)
        if graph.is_graph(body) and (backbone is None or input_shape is not None):
            body = graph.clone(body, keras, input_shape)
        known = _known(ticket, network.read(network.variables(body)), input_shape)
        layers = [heads.seeded(x, seed, i) for i, x in enumerate(layers)]
        heads.check_names(layers, body)
        try:
            student = graph.attach(body, layers, keras, input_shape)
        except (TypeError, ValueError) as error:
            if head is None or not graph.is_graph(body):
                raise
            raise ValueError(
                "`head` must take what the old classifier got, which has the shape "
                f"{tuple(body.outputs[0].shape)}. {' '.join(str(error).split())}"
            ) from error
    if input_shape is not None:
        graph.check_runs(student, input_shape)
    names = {id(v): path for path, v in network.variables(body).items()}
    mapping = {
        path: known[names[id(v)]]
        for path, v in network.variables(student).items()
        if id(v) in names
    }
    fresh = network.read(network.variables(student))
    origin = {"weights": weights, "seed": seed}
    grafted(ticket, fresh, mapping, origin).apply(student, weights=weights)
    # Each one inside, too: on Keras 3 a layer that is set to what it already is
    # leaves those inside it as they are.
    for layer in network.all_layers(student)[1:]:
        layer.trainable = not freeze_backbone
    for layer in layers:
        layer.trainable = True
    if freeze_backbone and ticket.sparsity > _FROZEN_TOO_SPARSE:
        _warn_of_frozen()
    _check_at_fit(student)
    return student


def grafted(
    ticket: Ticket,
    fresh: Weights,
    mapping: Mapping[str, str],
    origin: Mapping[str, Any],
) -> Ticket:
    """Returns a ticket for a student: the source's masks and weights, a fresh head.

    Args:
        ticket: the source's.
        fresh: the student's weights by path, of which the head's are taken.
        mapping: for each path of the student that is not the head's, the path in
            `ticket` that it stands for.
        origin: plain data to keep with where the ticket comes from.
    """
    parts = {
        name: {
            path: getattr(ticket, name)[mapping[path]] if path in mapping else w
            for path, w in fresh.items()
        }
        for name in ticket_lib.WEIGHTS
    }
    masks = {path: ticket.masks[p] for path, p in mapping.items() if p in ticket.masks}
    return dataclasses.replace(
        ticket,
        masks=masks,
        **parts,
        origin={
            "architecture": ticket.architecture,
            "density": ticket.density,
            "round": ticket.round,
            **origin,
            "origin": None if ticket.origin is None else dict(ticket.origin),
        },
    )


def _check_head(num_classes: Any, head: Any, seed: Any) -> None:
    if (num_classes is None) == (head is None):
        raise ValueError(
            "Give the student's head either by `num_classes` or by `head`. Received: "
            f"num_classes={num_classes!r}, head={head!r}"
        )
    if num_classes is not None and (
        not is_whole(num_classes) or not 2 <= int(num_classes) <= _MOST_CLASSES
    ):
        raise ValueError(
            f"`num_classes` must be a whole number from 2 to {_MOST_CLASSES}. For one "
            f"output pass a layer, as head=Dense(1). "
            f"Received: num_classes={num_classes!r}"
        )
    if seed is not None and not is_whole(seed):
        raise ValueError(
            f"`seed` must be a whole number of at least 0. Received: seed={seed!r}"
        )


def _check_how(backbone: Any, freeze_backbone: Any, input_shape: Any) -> None:
    if backbone is not None:
        try:
            network.keras_of(backbone)
        except TypeError as error:
            raise TypeError(
                "`backbone` must be a built Keras 3 or tf_keras model. "
                f"Received: {backbone!r} of type {type(backbone).__name__}"
            ) from error
    if not isinstance(freeze_backbone, bool):
        raise TypeError(
            "`freeze_backbone` must be True or False. "
            f"Received: freeze_backbone={freeze_backbone!r}"
        )
    if input_shape is not None and not (
        isinstance(input_shape, Iterable)
        and all(n is None or (is_whole(n) and n > 0) for n in input_shape)
    ):
        raise ValueError(
            "`input_shape` must be the shape of one example, as (32, 32, 3). "
            f"Received: input_shape={input_shape!r}"
        )


def _source(source: Any) -> tuple[Ticket, Any]:
    """Returns the ticket, and the model that carries it or `None`."""
    if isinstance(source, Ticket):
        return source, None
    if isinstance(source, str | os.PathLike):
        return ticket_lib.load_ticket(source), None
    try:
        network.keras_of(source)
    except TypeError as error:
        raise TypeError(
            "`source` must be a model that carries a ticket, a `Ticket` or the path of "
            f"a ticket file. Received: {source!r} of type {type(source).__name__}"
        ) from error
    ticket = getattr(source, "ticket", None)
    if ticket is None:
        raise ValueError(
            f"`source` {source.name!r} carries no ticket. Make one with "
            "`tflottery.find_ticket(source, ...)`, or put one in with "
            "`ticket.apply(source)`."
        )
    now = network.read(network.variables(source))
    mapping = paths.align(ticket.trained, now)
    trained = {path: now[mapping[path]] for path in ticket.trained}
    return dataclasses.replace(ticket, trained=trained), source


def _parts(
    ticket: Ticket, body: Any, backbone: Any, keras: Any, num_classes: Any, head: Any
) -> tuple[Any, list[Any]]:
    """Returns the network without its classifier, and the head's layers."""
    whole = backbone is None or len(network.variables(body)) >= len(ticket.trained)
    if whole and backbone is not None:
        paths.align(ticket.trained, network.read(network.variables(body)))
        if not graph.is_graph(body):
            raise ValueError(
                f"`backbone` {body.name!r} has a weight for each one of the ticket, "
                "the classifier's too, and nobody can take that off a subclassed "
                "model. Give it without its classifier."
            )
    found = graph.cut(body, keras) if whole else None
    if found is not None:
        body = found.features
    if head is not None:
        return body, heads.checked(head, keras)
    rank, pooling = None, {}
    if graph.is_graph(body):
        rank = len(body.outputs[0].shape)
    if found is None:
        units = keras.layers.Dense(num_classes, activation="softmax", name="head")
        output_rank = 2
    else:
        units = heads.classifier_like(found, keras, num_classes)
        output_rank = found.output_rank
        pooling = {"data_format": getattr(found.classifier, "data_format", None)}
    if rank is None or rank == output_rank or output_rank != 2:
        return body, [units]
    pool = getattr(keras.layers, f"GlobalAveragePooling{rank - 2}D")
    return body, [pool(name="head_pool", **pooling), units]


def _known(ticket: Ticket, ours: Weights, input_shape: Any) -> dict[str, str]:
    """Returns which of the ticket's paths each path of the backbone stands for."""
    known = paths.of_backbone(ticket.trained, ours)
    for path, other in known.items():
        there, here = ticket.trained[other].shape, ours[path].shape
        if there != here and input_shape is not None:
            raise ValueError(
                f"`input_shape` {tuple(input_shape)} does not go with the ticket: "
                f"{other!r} would have the shape {here}, and has {there}. Only a "
                "network whose weights do not depend on the size, as with global "
                "pooling, takes another; else resize the images."
            )
        if there != here:
            raise ValueError(
                f"`backbone` does not fit the ticket: {path!r} has the shape {here}, "
                f"and {other!r} in the ticket {there}."
            )
    return known


def _check_apart(source: Any, backbone: Any) -> None:
    """Checks that filling `backbone` leaves the source's weights alone."""
    theirs = {id(v) for v in network.variables(source).values()}
    for path, variable in network.variables(backbone).items():
        if id(variable) in theirs:
            raise ValueError(
                f"`backbone` shares weights with `source`, such as {path!r}, which "
                "would change as the student trains. Build the backbone anew."
            )


def _warn_of_train_step(source: Any, keras: Any) -> None:
    if type(source).train_step is not keras.Model.train_step:
        warnings.warn(
            f"`source` is a {type(source).__name__} with a `train_step` of its own, "
            f"but the student is a plain model of {keras.__name__}, which trains as "
            "those do.",
            stacklevel=3,
        )


def _warn_of_frozen() -> None:
    warnings.warn(
        "`freeze_backbone=True` with a ticket sparser than 80 %: frozen sparse "
        "features lose accuracy on other tasks, while fine-tuning all weights keeps it "
        "(Iofinova et al. 2021).",
        stacklevel=3,
    )


def _check_at_fit(student: Any) -> None:
    """Has `fit` check that the examples are of the student's shape."""
    fit = type(student).fit

    def checked_fit(x: Any = None, *args: Any, **kwargs: Any) -> Any:
        found = data_lib.shape_of_examples(x)
        wanted = student.input_shape
        if found is not None and isinstance(wanted, tuple):
            _check_shape(found, wanted[1:])
        return fit(student, x, *args, **kwargs)

    vars(student)["fit"] = checked_fit


def _check_shape(found: tuple[Any, ...], wanted: tuple[Any, ...]) -> None:
    def as_images(shape: tuple[Any, ...]) -> tuple[Any, ...]:
        # Keras adds and takes off a last dimension of 1 by itself.
        return shape[:-1] if len(shape) > 1 and shape[-1] == 1 else shape

    a, b = as_images(found), as_images(wanted)
    if len(a) == len(b) and all(
        x == y or x is None or y is None for x, y in zip(a, b, strict=True)
    ):
        return
    raise ValueError(
        f"`fit` got examples of the shape {found}, but the student takes {wanted}, as "
        "the network that its ticket was found on. Adapt them, as "
        f"`tflottery.lab.pixels.adapt(x, {wanted})` does with images; or, where the "
        f"network ends in global pooling, pass `input_shape={found}` to "
        "`transfer_ticket`."
    )


def _scope(model: Any) -> Any:
    strategy = getattr(model, "distribute_strategy", None)
    return strategy.scope() if strategy is not None else contextlib.nullcontext()
