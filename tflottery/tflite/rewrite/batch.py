"""Batch: a graph that was converted for one size of batches takes others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tflottery.tflite.file.graph import Graph

_BROADCASTING = ("ADD", "SUB", "MUL", "DIV")


def open_batch(graph: Graph) -> None:
    """Lets a runtime set the batch, the first size of inputs and outputs, in place.

    The file computes the same as before for its own batch. Whether it is right for
    others must be tried, as operators may hold the batch in ways not known here. The
    inputs are not declared open, as LiteRT.js does not run a file whose inputs are.
    """
    operators, readers = [], graph.consumers()
    for op in graph.operators:
        operators += (
            _opened(graph, op, readers) if graph.name(op) == "RESHAPE" else [op]
        )
    graph.subgraph.operators = operators


def _opened(graph: Graph, op: Any, readers: Mapping[int, Any]) -> list[Any]:
    """Returns what a RESHAPE becomes, which the converter wrote for one batch.

    With a batch of 1, it writes transposes as reshapes.
    """
    source, target = op.inputs[0], op.outputs[0]
    before, after = graph.shape(source), graph.shape(target)
    if not after:
        return [op]
    if before[:1] == (1,) != after[:1]:
        for place in range(1, len(before)):
            order = [*range(1, place + 1), 0, *range(place + 1, len(before))]
            if tuple(before[i] for i in order) == after:
                return [_transpose(graph, source, order, target)]
        if (
            before[1:] == after
            and target not in graph.outputs
            and all(
                graph.name(reader) in _BROADCASTING
                and len(graph.shape(reader.outputs[0])) == len(before)
                for reader, _ in readers[target]
            )
        ):
            for reader, position in readers[target]:
                reader.inputs[position] = source
            return []
    back = []
    if after[0] == 1 != before[0] and 1 in before:
        place = before.index(1)
        order = [place, *range(place), *range(place + 1, len(before))]
        moved = tuple(before[i] for i in order)
        if moved == after:
            return [_transpose(graph, source, order, target)]
        source = graph.add_tensor(moved, like=source)
        back = [_transpose(graph, op.inputs[0], order, source)]
    sizes = np.array([-1, *after[1:]], np.int32)
    op.inputs = [source, graph.add_const(sizes)]
    if op.builtinOptions is not None:
        op.builtinOptions.newShape = sizes
    return [*back, op]


def _transpose(graph: Graph, source: int, order: list[int], target: int) -> Any:
    permutation = graph.add_const(np.array(order, np.int32))
    return graph.op("TRANSPOSE", [source, permutation], [target])
