"""Packing: a model's objects to `.tflite` bytes, aligned, without what nothing uses."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import flatbuffers
import numpy as np

ALIGNMENT = 16  # bytes; the schema demands it of every buffer


@functools.cache
def schema() -> Any:
    """Returns the generated schema: from LiteRT if installed, else TensorFlow."""
    try:
        from ai_edge_litert import schema_py_generated as module
    except ImportError:
        from tensorflow.lite.python import schema_py_generated as module
    return module


def inputs(op: Any) -> list[int]:
    """Returns the tensors that the operator reads; -1 for an absent one."""
    return [] if op.inputs is None else [int(tensor) for tensor in op.inputs]


def outputs(op: Any) -> list[int]:
    """Returns the tensors that the operator writes."""
    return [] if op.outputs is None else [int(tensor) for tensor in op.outputs]


def raw(data: Any) -> bytes:
    """Returns a buffer's data as bytes, whatever the parser made of it."""
    return data.tobytes() if isinstance(data, np.ndarray) else bytes(data)


def to_bytes(model: Any, *, keep_names: bool) -> bytes:
    """Returns the file's content; tidies `model` on the way.

    Args:
      model: A `ModelT` of the schema.
      keep_names: Keep tensor names, the description and the metadata.
    """
    _drop_unused(model, keep_names=keep_names)
    builder = _SharingBuilder(1 << 16)
    plain = model.buffers
    model.buffers = [_AlignedBuffer(buffer.data) for buffer in plain]
    try:
        builder.Finish(model.Pack(builder), b"TFL3")
    finally:
        model.buffers = plain
    return bytes(builder.Output())


def _drop_unused(model: Any, *, keep_names: bool) -> None:
    """Removes tensors, buffers, operator codes and names that nothing uses."""
    if not keep_names:
        model.metadata, model.metadataBuffer, model.description = None, None, None
    for subgraph in model.subgraphs:
        _drop_tensors(model, subgraph, keep_names=keep_names)
    every = [op for subgraph in model.subgraphs for op in subgraph.operators]
    codes, new = _keep(model.operatorCodes, [op.opcodeIndex for op in every])
    for op in every:
        op.opcodeIndex = new[op.opcodeIndex]
    model.operatorCodes = codes
    users = [t for subgraph in model.subgraphs for t in subgraph.tensors]
    users += list(model.metadata or [])
    # Buffer 0 is by convention the empty one; tensors without data share it.
    empty = {
        index
        for index, buffer in enumerate(model.buffers)
        if buffer.data is None or len(buffer.data) == 0
    }
    for user in users:
        user.buffer = 0 if user.buffer in empty else user.buffer
    buffers, new = _keep(model.buffers, [0, *(user.buffer for user in users)])
    for user in users:
        user.buffer = new[user.buffer]
    model.buffers = buffers


def _drop_tensors(model: Any, subgraph: Any, *, keep_names: bool) -> None:
    edge = [int(t) for t in [*subgraph.inputs, *subgraph.outputs]]
    used = list(edge)
    for op in subgraph.operators:
        lists = [inputs(op), outputs(op)]
        if op.intermediates is not None:
            lists.append([int(t) for t in op.intermediates])
        used += [tensor for tensors in lists for tensor in tensors if tensor >= 0]
    tensors, new = _keep(subgraph.tensors, sorted(used))
    new[-1] = -1

    def renumber(old: Iterable[int]) -> np.ndarray:
        return np.array([new[int(tensor)] for tensor in old], np.int32)

    for op in subgraph.operators:
        op.inputs, op.outputs = renumber(inputs(op)), renumber(outputs(op))
        if op.intermediates is not None:
            op.intermediates = renumber(op.intermediates)
    for signature in model.signatureDefs or []:
        if model.subgraphs[signature.subgraphIndex] is subgraph:
            for entry in [*(signature.inputs or []), *(signature.outputs or [])]:
                entry.tensorIndex = new[entry.tensorIndex]
    subgraph.inputs = renumber(subgraph.inputs)
    subgraph.outputs = renumber(subgraph.outputs)
    subgraph.tensors = tensors
    if keep_names:
        return
    subgraph.name = None
    for index, tensor in enumerate(subgraph.tensors):
        if index not in set(subgraph.inputs) | set(subgraph.outputs):
            tensor.name = None
        quantization = tensor.quantization
        if quantization is not None:
            quantization.min = quantization.max = None
            if quantization.scale is None or not len(quantization.scale):
                tensor.quantization = None


def _keep(entries: list[Any], used: Iterable[int]) -> tuple[list[Any], dict[int, int]]:
    """Returns the used entries by first use, and old index -> new index."""
    kept: list[Any] = []
    new: dict[int, int] = {}
    for old in used:
        if old not in new:
            new[old] = len(kept)
            kept.append(entries[old])
    return kept, new


class _SharingBuilder(flatbuffers.Builder):
    """Writes what is equal once: vectors, strings, tables with the same fields."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._written: dict[tuple[Any, ...], int] = {}
        self._fields: list[tuple[Any, ...]] = []

    # A table is written as a whole at its end, when it is known whether one like it is
    # there: options of operators, the dense dimensions of sparse weights.

    def StartObject(self, numfields: int) -> None:
        self._fields = [(numfields,)]

    def PrependSlot(self, flags: Any, o: int, x: Any, d: Any) -> None:
        self._fields.append((flags, o, x, d))

    def PrependUOffsetTRelativeSlot(self, o: int, x: int, d: int) -> None:
        self._fields.append((o, x, d))

    def EndObject(self) -> int:
        key = ("table", *self._fields)
        if key not in self._written:
            super().StartObject(*self._fields[0])
            for field in self._fields[1:]:
                if len(field) == 4:
                    super().PrependSlot(*field)
                else:
                    super().PrependUOffsetTRelativeSlot(*field)
            self._written[key] = super().EndObject()
        return self._written[key]

    def CreateNumpyVector(self, x: np.ndarray) -> int:
        key = (x.dtype.str, x.tobytes())
        if key not in self._written:
            self._written[key] = super().CreateNumpyVector(x)
        return self._written[key]

    def CreateString(
        self, s: str | bytes, encoding: str = "utf-8", errors: str = "strict"
    ) -> int:
        key = ("string", s if isinstance(s, bytes) else s.encode(encoding, errors))
        if key not in self._written:
            self._written[key] = super().CreateString(s, encoding, errors)
        return self._written[key]

    def aligned(self, data: bytes) -> int:
        """Writes a byte vector whose first byte lies on a multiple of `ALIGNMENT`."""
        key = ("aligned", data)
        if key not in self._written:
            self.StartVector(1, len(data), ALIGNMENT)
            self.head = self.head - len(data)
            self.Bytes[self.head : self.head + len(data)] = data
            self._written[key] = self.EndVector()
        return self._written[key]


class _AlignedBuffer:
    """Packs as the schema's buffer does, but aligned: the generated one is not."""

    def __init__(self, data: Any) -> None:
        self._data = data

    def Pack(self, builder: _SharingBuilder) -> int:
        generated = schema()
        data = None if self._data is None else builder.aligned(raw(self._data))
        generated.BufferStart(builder)
        if data is not None:
            generated.BufferAddData(builder, data)
        return generated.BufferEnd(builder)
