"""Packing: a model's tables as `.tflite` bytes, aligned, holding only what is used."""

from __future__ import annotations

import copy
import functools
import numbers
from collections.abc import Iterable
from typing import Any

import flatbuffers
import numpy as np
from flatbuffers.builder import BuilderSizeError

ALIGNMENT = 16  # bytes; the schema demands it of every buffer


@functools.cache
def library() -> Any:
    """Returns the `flatbuffer_utils` of LiteRT, or of TensorFlow without LiteRT."""
    try:
        from ai_edge_litert.tools import flatbuffer_utils
    except ImportError:
        from tensorflow.lite.tools import flatbuffer_utils
    return flatbuffer_utils


def schema() -> Any:
    """Returns the classes generated from the schema of `.tflite` files."""
    return library().schema_fb


def table(kind: str, **fields: Any) -> Any:
    """Returns a new table of the schema, such as a `TensorT`, with these fields."""
    result = getattr(schema(), kind)()
    for name, value in fields.items():
        if not hasattr(result, name):
            raise AttributeError(f"{kind} has no field {name!r}.")
        setattr(result, name, value)
    return result


def raw(data: Any) -> bytes:
    """Returns the data of a buffer as bytes, empty if it has none."""
    if data is None:
        return b""
    return data.tobytes() if isinstance(data, np.ndarray) else bytes(data)


def listed(vector: Any) -> list[Any]:
    """Returns a vector of a table as a list, empty if it is absent."""
    return [] if vector is None else list(vector)


def to_bytes(model: Any, *, keep_names: bool) -> bytes:
    """Returns the content of the file. Drops from a `ModelT` what nothing uses.

    Those are tensor names, the description and the metadata too unless `keep_names`.

    Raises:
        ValueError: If the file would be larger than 2 GB.
    """
    _drop_unused(model, keep_names=keep_names)
    packed = _with_arrays(model)
    packed.buffers = [_AlignedBuffer(buffer.data) for buffer in model.buffers]
    builder = _SharingBuilder(1 << 16)
    try:
        builder.Finish(packed.Pack(builder), b"TFL3")
    except BuilderSizeError as error:
        raise ValueError(
            "The file would be larger than 2 GB, the limit of the format. Export a "
            'smaller model, or store its weights with quantize="weights".'
        ) from error
    return bytes(builder.Output())


def _drop_unused(model: Any, *, keep_names: bool) -> None:
    """Removes unused tensors, buffers and operator codes, and names unless kept."""
    if not keep_names:
        model.metadata, model.metadataBuffer, model.description = None, None, None
    for subgraph in model.subgraphs:
        _drop_tensors(model, subgraph)
        if not keep_names:
            _drop_names(subgraph)
    operators = [op for subgraph in model.subgraphs for op in subgraph.operators]
    used = [op.opcodeIndex for op in operators]
    model.operatorCodes, new = _keep(model.operatorCodes, used)
    for op in operators:
        op.opcodeIndex = new[op.opcodeIndex]
    users = [t for subgraph in model.subgraphs for t in subgraph.tensors]
    users += list(model.metadata or [])
    for user in users:  # by convention, what has no data shares buffer 0
        if not raw(model.buffers[user.buffer].data):
            user.buffer = 0
    used = [0, *(user.buffer for user in users)]
    model.buffers, new = _keep(model.buffers, used)
    for user in users:
        user.buffer = new[user.buffer]


def _drop_tensors(model: Any, subgraph: Any) -> None:
    used = [*subgraph.inputs, *subgraph.outputs]
    for op in subgraph.operators:
        lists = op.inputs, op.outputs, listed(op.intermediates)
        used += [tensor for tensors in lists for tensor in tensors if tensor >= 0]
    subgraph.tensors, new = _keep(subgraph.tensors, sorted(used))
    new[-1] = -1  # an optional input that is absent

    def renumber(tensors: Iterable[int]) -> list[int]:
        return [new[tensor] for tensor in tensors]

    for op in subgraph.operators:
        op.inputs, op.outputs = renumber(op.inputs), renumber(op.outputs)
        if op.intermediates is not None:
            op.intermediates = renumber(op.intermediates)
    for signature in model.signatureDefs or []:
        if model.subgraphs[signature.subgraphIndex] is subgraph:
            for entry in [*(signature.inputs or []), *(signature.outputs or [])]:
                entry.tensorIndex = new[entry.tensorIndex]
    subgraph.inputs = renumber(subgraph.inputs)
    subgraph.outputs = renumber(subgraph.outputs)


def _drop_names(subgraph: Any) -> None:
    """Drops all names but those of inputs and outputs, and unused quantization."""
    subgraph.name = None
    for index, tensor in enumerate(subgraph.tensors):
        if index not in {*subgraph.inputs, *subgraph.outputs}:
            tensor.name = None
        quantization = tensor.quantization
        if quantization is not None:
            quantization.min = quantization.max = None
            if not listed(quantization.scale):
                tensor.quantization = None


def _keep(entries: list[Any], used: Iterable[int]) -> tuple[list[Any], dict[int, int]]:
    """Returns the used entries in order of first use, and old index -> new index."""
    new = {old: index for index, old in enumerate(dict.fromkeys(used))}
    return [entries[old] for old in new], new


def _with_arrays(value: Any) -> Any:
    """Returns a copy of the tables whose lists of integers are int32 arrays.

    The builder shares only arrays.
    """
    if isinstance(value, list):
        if all(isinstance(item, numbers.Integral) for item in value):
            return np.array(value, np.int32)
        return [_with_arrays(item) for item in value]
    if not hasattr(value, "__dict__"):
        return value
    result = copy.copy(value)
    for name, field in vars(value).items():
        setattr(result, name, _with_arrays(field))
    return result


class _SharingBuilder(flatbuffers.Builder):
    """Writes equal vectors, strings and tables only once."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._written: dict[tuple[Any, ...], int] = {}
        self._fields: list[tuple[Any, ...]] = []

    # A table is written at its end, once all of its fields are known: an equal one may
    # have been written before.

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
        """Writes bytes that start at a multiple of `ALIGNMENT`; returns the offset."""
        key = ("aligned", data)
        if key not in self._written:
            self.StartVector(1, len(data), ALIGNMENT)
            self.head = self.head - len(data)
            self.Bytes[self.head : self.head + len(data)] = data
            self._written[key] = self.EndVector()
        return self._written[key]


class _AlignedBuffer:
    """Packs like the schema's buffer, but aligned."""

    def __init__(self, data: Any) -> None:
        self._data = data

    def Pack(self, builder: _SharingBuilder) -> int:
        generated = schema()
        data = None if self._data is None else builder.aligned(raw(self._data))
        generated.BufferStart(builder)
        if data is not None:
            generated.BufferAddData(builder, data)
        return generated.BufferEnd(builder)
