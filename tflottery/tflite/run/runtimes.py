"""Runtimes: the installed interpreters, and one way to run a file in each."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import pathlib
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from tflottery.tflite.devices import micro

# Runtime -> the module of its `Interpreter`. LiteRT first, as devices use it.
_MODULES = {
    "litert": "ai_edge_litert.interpreter",
    "tensorflow": "tensorflow.lite.python.interpreter",
}


def installed() -> tuple[str, ...]:
    """Returns the installed runtimes, the default one first."""
    packages = {name: module.partition(".")[0] for name, module in _MODULES.items()}
    return tuple(n for n, p in packages.items() if importlib.util.find_spec(p))


def default() -> str:
    """Returns LiteRT if it is installed, or else TensorFlow.

    Raises:
        ModuleNotFoundError: If neither is installed.
    """
    for runtime in installed():
        return runtime
    raise ModuleNotFoundError(
        "No runtime for .tflite files is installed. Try: pip install ai-edge-litert"
    )


def preload(runtime: str) -> Any:
    """Imports and returns the module with the `Interpreter` of a runtime."""
    return importlib.import_module(_MODULES[runtime])


@dataclasses.dataclass(frozen=True)
class Port:
    """One input or output of a file."""

    index: int
    shape: tuple[int, ...]  # [batch, ...]
    dtype: np.dtype[Any]
    scale: float  # 0 if it is not quantized
    zero_point: int  # the integer that stands for 0

    def quantize(self, values: np.ndarray) -> np.ndarray:
        """Returns `values` in the type of the file, unless they already have it."""
        if not self.scale or values.dtype == self.dtype:
            return values.astype(self.dtype)
        limits = np.iinfo(self.dtype)
        steps = np.rint(values / self.scale) + self.zero_point
        return np.clip(steps, limits.min, limits.max).astype(self.dtype)

    def dequantize(self, values: np.ndarray) -> np.ndarray:
        """Returns `values` of the file as plain numbers."""
        if not self.scale:
            return values
        steps = values.astype(np.float32) - self.zero_point
        return (steps * self.scale).astype(np.float32)


def rows_of(output: np.ndarray, batch: int, samples: int) -> np.ndarray:
    """Returns the rows of a batch's output that belong to its first samples.

    These are all if the output has no rows per sample.
    """
    output = np.atleast_1d(output)
    each, odd = divmod(len(output), batch)
    return output if odd else output[: each * samples]


class Session:
    """A file loaded into a runtime, ready to be called."""

    def __init__(
        self,
        path: str | pathlib.Path,
        runtime: str | None = None,
        *,
        xnnpack: bool = True,
        threads: int = 1,
    ) -> None:
        """Loads the file, into the default runtime if `runtime` is None.

        The weights of a file for TFLite Micro are unpacked.

        Without `xnnpack` the runtime's own kernels run what XNNPACK would.
        """
        module = preload(runtime or default())
        kind = module.OpResolverType
        resolver = kind.AUTO if xnnpack else kind.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        data = pathlib.Path(path).read_bytes()
        held = {"model_path": str(path)}
        if micro.NAME.encode() in data:
            held = {"model_content": micro.unpack(data)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tf.lite announces its own removal
            self._interpreter = module.Interpreter(
                **held,
                num_threads=threads,
                experimental_op_resolver_type=resolver,
            )
        self._allocated = False  # not before an open file has a size that it takes
        self._read_ports()

    def _read_ports(self) -> None:
        self.inputs = [_port(d) for d in self._interpreter.get_input_details()]
        self.outputs = [_port(d) for d in self._interpreter.get_output_details()]

    def set_inputs(self, arrays: Sequence[np.ndarray]) -> None:
        """Fills the inputs, resized to the arrays, and quantized if need be."""
        for port, array in zip(self.inputs, arrays, strict=True):
            if array.shape != port.shape:
                self._interpreter.resize_tensor_input(port.index, array.shape)
                self._allocated = False
        if not self._allocated:
            self._interpreter.allocate_tensors()
            self._allocated = True
            self._read_ports()
        for port, array in zip(self.inputs, arrays, strict=True):
            self._interpreter.set_tensor(port.index, port.quantize(array))

    def invoke(self) -> None:
        self._interpreter.invoke()

    def get_outputs(self) -> list[np.ndarray]:
        """Returns the outputs as plain numbers."""
        get = self._interpreter.get_tensor
        return [port.dequantize(get(port.index)) for port in self.outputs]

    def predict(
        self, arrays: Sequence[np.ndarray], batch: int | None = None
    ) -> list[np.ndarray]:
        """Returns the outputs for any number of samples.

        Args:
            arrays: One per input, each `[samples, ...]`.
            batch: Size of the batches; by default the file's.
        """
        count = len(arrays[0])
        size = batch or (self.inputs[0].shape[0] if self.inputs[0].shape else 1)
        parts = []
        for start in range(0, count, size):
            # The last sample fills up the last batch.
            rows = np.minimum(np.arange(start, start + size), count - 1)
            self.set_inputs([array[rows] for array in arrays])
            self.invoke()
            parts.append([rows_of(o, size, count - start) for o in self.get_outputs()])
        return [np.concatenate(column) for column in zip(*parts, strict=True)]


def _port(detail: dict[str, Any]) -> Port:
    scale, zero_point = detail["quantization"]
    return Port(
        index=int(detail["index"]),
        shape=tuple(int(size) for size in detail["shape"]),
        dtype=np.dtype(detail["dtype"]),
        scale=float(scale),
        zero_point=int(zero_point),
    )
