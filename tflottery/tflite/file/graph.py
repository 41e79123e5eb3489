"""The graph of a `.tflite` file: parsed and checked, to be read and rewritten."""

from __future__ import annotations

import collections
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from tflottery.tflite.file import packing
from tflottery.tflite.file.packing import schema, table

FLOAT32, FLOAT16, UINT8, INT8 = 0, 1, 3, 9  # TensorType

# TensorType -> NumPy, for the types that hold plain numbers.
_DTYPES: dict[int, type[np.generic]] = {
    FLOAT32: np.float32,
    FLOAT16: np.float16,
    2: np.int32,
    UINT8: np.uint8,
    4: np.int64,
    6: np.bool_,
    7: np.int16,
    INT8: np.int8,
    10: np.float64,
    15: np.uint32,
    16: np.uint16,
}
_TYPES = {np.dtype(dtype): code for code, dtype in _DTYPES.items()}


@functools.cache
def _op_names() -> dict[int, str]:
    operators = vars(schema().BuiltinOperator)
    return {code: name for name, code in operators.items() if not name.startswith("_")}


class Graph:
    """A model's main subgraph, to be read and rewritten in place.

    Tensors are identified by index; an operator's `inputs` and `outputs` are lists of
    them, with -1 for an optional input that is absent.
    """

    def __init__(self, data: bytes, name: str = "The file") -> None:
        """Parses the content of a `.tflite` file, which errors call `name`.

        Raises:
            ValueError: If `data` is not a complete and consistent `.tflite` model.
        """
        self.model = _parse(data, name)
        self.subgraph = self.model.subgraphs[0]
        _check(self, name)

    @property
    def operators(self) -> list[Any]:
        return self.subgraph.operators

    @property
    def tensors(self) -> list[Any]:
        return self.subgraph.tensors

    @property
    def inputs(self) -> list[int]:
        return self.subgraph.inputs

    @property
    def outputs(self) -> list[int]:
        return self.subgraph.outputs

    def name(self, op: Any) -> str:
        """Returns the name of the operator, such as `"CONV_2D"`, or a custom one's."""
        code = self.model.operatorCodes[op.opcodeIndex]
        if code.customCode:
            return code.customCode.decode(errors="replace")
        return _op_names().get(_code(code), f"UNKNOWN_{_code(code)}")

    def version(self, op: Any) -> int:
        return int(self.model.operatorCodes[op.opcodeIndex].version)

    def shape(self, tensor: int) -> tuple[int, ...]:
        shape = self.tensors[tensor].shape
        return () if shape is None else tuple(int(size) for size in shape)

    def dtype(self, tensor: int) -> np.dtype[Any]:
        """Returns the type of the tensor, which must be one of plain numbers."""
        code = self.tensors[tensor].type
        if code not in _DTYPES:
            raise ValueError(f"Tensor {tensor} has the unsupported type {code}.")
        return np.dtype(_DTYPES[code])

    def quantization(self, tensor: int) -> Any:
        """Returns what holds the scales of a tensor; None if it has none."""
        held = self.tensors[tensor].quantization
        return None if held is None or not packing.listed(held.scale) else held

    def const(self, tensor: int) -> np.ndarray | None:
        """Returns a dense constant; None if it has no data or is sparse."""
        entry = self.tensors[tensor]
        if tensor < 0 or entry.sparsity is not None or entry.type not in _DTYPES:
            return None
        if not self.is_const(tensor):
            return None
        return np.frombuffer(self.raw(tensor), self.dtype(tensor)).reshape(
            self.shape(tensor)
        )

    def is_const(self, tensor: int) -> bool:
        data = self._data(tensor)
        return data is not None and len(data) > 0

    def raw(self, tensor: int) -> bytes:
        """Returns the bytes of the tensor's buffer, empty if it has none."""
        return packing.raw(self._data(tensor))

    def _data(self, tensor: int) -> Any:
        return self.model.buffers[self.tensors[tensor].buffer].data

    def consumers(self) -> dict[int, list[tuple[Any, int]]]:
        """Returns, per tensor, the (operator, input position) pairs that read it."""
        result: dict[int, list[tuple[Any, int]]] = collections.defaultdict(list)
        for op in self.operators:
            for position, tensor in enumerate(op.inputs):
                result[tensor].append((op, position))
        return result

    def producers(self) -> dict[int, Any]:
        """Returns, per tensor, the operator that writes it."""
        return {tensor: op for op in self.operators for tensor in op.outputs}

    def add_tensor(
        self, shape: Sequence[int], like: int | None = None, *, type_: int = FLOAT32
    ) -> int:
        """Adds a tensor without name or data, of the type and scale of `like`."""
        tensor = table("TensorT", shape=list(shape), type=type_, hasRank=True)
        if like is not None:
            tensor.type = self.tensors[like].type
            tensor.quantization = self.tensors[like].quantization
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def add_const(self, array: np.ndarray) -> int:
        """Adds a constant tensor without a name."""
        tensor = self.add_tensor(array.shape, type_=_TYPES[array.dtype])
        self.tensors[tensor].buffer = self.add_buffer(array)
        return tensor

    def add_buffer(self, array: np.ndarray) -> int:
        data = np.frombuffer(array.tobytes(), np.uint8)
        self.model.buffers.append(table("BufferT", data=data))
        return len(self.model.buffers) - 1

    def set_const(self, tensor: int, array: np.ndarray) -> None:
        """Gives `tensor` a new constant and its shape; buffers are never changed."""
        self.set_shape(tensor, array.shape)
        self.tensors[tensor].type = _TYPES[array.dtype]
        self.tensors[tensor].buffer = self.add_buffer(array)

    def set_shape(self, tensor: int, shape: Sequence[int]) -> None:
        self.tensors[tensor].shape = list(shape)
        self.tensors[tensor].shapeSignature = None

    def op(
        self,
        name: str,
        inputs: Sequence[int],
        outputs: Sequence[int],
        *,
        version: int = 1,
        custom: bytes | None = None,
        **options: Any,
    ) -> Any:
        """Returns a new operator, which is not yet in `operators`.

        Runtimes check the version. `custom` is the name of a custom one. `options` are
        fields of the option table.
        """
        code = self.opcode(name, version, custom)
        op = table("OperatorT", opcodeIndex=code, inputs=[*inputs], outputs=[*outputs])
        if options:
            kind = _option_table(name)
            op.builtinOptionsType = getattr(schema().BuiltinOptions, kind)
            op.builtinOptions = table(kind + "T", **options)
        return op

    def opcode(self, name: str, version: int = 1, custom: bytes | None = None) -> int:
        """Returns the index of an operator code, which is added if it is new."""
        number = getattr(schema().BuiltinOperator, name)
        codes = self.model.operatorCodes
        for index, code in enumerate(codes):
            if (_code(code), code.version) == (number, version) and (
                custom in (None, code.customCode)
            ):
                return index
        fields = {"builtinCode": number, "deprecatedBuiltinCode": min(number, 127)}
        fields |= {"version": version, "customCode": custom}
        codes.append(table("OperatorCodeT", **fields))
        return len(codes) - 1

    def insert(self, before: Mapping[int, Sequence[Any]]) -> None:
        """Inserts operators before others, which are given by their `id`."""
        self.subgraph.operators = [
            new for op in self.operators for new in [*before.get(id(op), ()), op]
        ]

    def reshape(self, tensor: int, result: int) -> Any:
        """Returns a new RESHAPE of `tensor` to the shape of `result`."""
        shape = self.shape(result)
        held = self.add_const(np.array(shape, np.int32))
        return self.op("RESHAPE", [tensor, held], [result], newShape=list(shape))

    def input_shape(self, tensor: int) -> tuple[int | None, ...]:
        """Returns the shape of an input: None where a runtime can resize it."""
        shape, signature = self.shape(tensor), self.tensors[tensor].shapeSignature
        if signature is None or len(signature) != len(shape):
            return shape
        # An open batch counts as the size that it has in the file.
        sizes = zip(shape[1:], signature[1:], strict=True)
        return (*shape[:1], *(None if open_ < 0 else size for size, open_ in sizes))

    @property
    def is_open(self) -> bool:
        """Whether an input has open sizes, so that other shapes are not known."""
        return any(None in self.input_shape(tensor) for tensor in self.inputs)

    def make_static(self) -> None:
        """Makes the shapes of all tensors fixed ones, unless an input is open."""
        for tensor in [] if self.is_open else self.tensors:
            tensor.shapeSignature = None

    def mend_axes(self) -> int:
        """Sets the axis of the scales of vectors to 0, in place; returns how many.

        Some files for TFLite Micro, which does not look at it, name another one.
        """
        wrong = [
            tensor.quantization
            for tensor in self.tensors
            if tensor.quantization is not None
            and tensor.quantization.quantizedDimension
            and tensor.shape is not None
            and len(tensor.shape) == 1
        ]
        for quantization in wrong:
            quantization.quantizedDimension = 0
        return len(wrong)

    def to_bytes(self, *, keep_names: bool = False) -> bytes:
        """Returns the content of the file, without anything that is not used."""
        return packing.to_bytes(self.model, keep_names=keep_names)


def _code(code: Any) -> int:
    return max(code.builtinCode, code.deprecatedBuiltinCode)


@functools.cache
def _option_table(name: str) -> str:
    """`DEPTH_TO_SPACE` -> `DepthToSpaceOptions`, as the schema spells it."""
    plain = "reducer" if name == "MEAN" else name.replace("_", "").lower()
    known = {key.lower(): key for key in vars(schema().BuiltinOptions)}
    return known[plain + "options"]


def _parse(data: bytes, name: str) -> Any:
    if len(data) < 8 or data[4:8] != b"TFL3":
        raise ValueError(
            f"{name} is not a .tflite file: {len(data)} bytes without the identifier "
            "TFL3."
        )
    try:
        model = packing.library().read_model_from_bytearray(bytearray(data))
        for subgraph in model.subgraphs:
            for table in [subgraph, *subgraph.operators]:
                table.inputs = packing.listed(table.inputs)
                table.outputs = packing.listed(table.outputs)
        return model
    except Exception as error:
        raise ValueError(
            f"{name} is damaged and cannot be parsed ({error}). Was it cut off or "
            "edited?"
        ) from error


def _check(graph: Graph, name: str) -> None:
    """Raises ValueError if an index or a size does not fit."""

    def fail(what: str) -> NoReturn:
        raise ValueError(f"{name} is damaged: {what}. Was it edited?")

    model = graph.model
    needed = model.buffers, model.operatorCodes, graph.tensors, graph.operators
    if not all([*needed, graph.inputs, graph.outputs]):
        fail("it has no operators, tensors, inputs or outputs")
    tensors = range(len(graph.tensors))
    for op in graph.operators:
        if not 0 <= op.opcodeIndex < len(model.operatorCodes):
            fail(f"operator code {op.opcodeIndex} does not exist")
        if any(t != -1 and t not in tensors for t in op.inputs + op.outputs):
            fail("an operator uses a tensor that does not exist")
    if any(t not in tensors for t in graph.inputs + graph.outputs):
        fail("an input or an output does not exist")
    for index, tensor in enumerate(graph.tensors):
        if not 0 <= tensor.buffer < len(model.buffers):
            fail(f"tensor {index} uses a buffer that does not exist")
        dtype = _DTYPES.get(tensor.type)
        size = len(graph.raw(index))
        if size and dtype is not None and tensor.sparsity is None:
            needed = math.prod(graph.shape(index)) * np.dtype(dtype).itemsize
            if size != needed:
                fail(f"tensor {index} needs {needed} bytes and has {size}")
