"""Planar: a whole network rewritten exactly into what XNNPACK runs sparse.

XNNPACK turns to planar layout only between an entry, a 3x3 convolution of stride 2 over
3 channels, and an exit, a mean over the image or DEPTH_TO_SPACE; all between must be of
the few kinds it knows. Here every operator between is rewritten into those, exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tflottery.tflite.file.graph import Graph, inputs, outputs, schema
from tflottery.tflite.xnnpack import outlook, split_conv
from tflottery.tflite.xnnpack.canvas import NONE, RELU, Canvas, Refusal

_Pads = tuple[tuple[int, int], tuple[int, int]]  # (before, after) of rows, columns


def make_planar(graph: Graph, *, flip: bool) -> None:
    """Rewrites the graph in place, from its first convolution to the exits.

    Args:
      graph: A dense float32 graph with static shapes.
      flip: Mirror the image first, and every kernel: that turns Keras' padding after
        the image into padding before it, which is symmetric in effect.

    Raises:
      Refusal: If an operator does not fit; the graph is then half rewritten.
    """
    rewriter = _Rewriter(graph, flip)
    for op in list(graph.operators):
        rewriter.visit(op)
    rewriter.finish()


class _Rewriter(Canvas):
    """Walks the operators in order, and writes the new ones."""

    def __init__(self, graph: Graph, flip: bool) -> None:
        super().__init__(graph, flip)
        self.after: set[int] = set()  # tensors that descend from an exit
        self.pads: dict[int, tuple[int, _Pads]] = {}  # PAD's result -> source, amounts
        self.permuted: dict[int, np.ndarray] = {}  # flattened tensor -> its order

    def visit(self, op: Any) -> None:
        graph, name = self.graph, self.graph.name(op)
        moving = [t for t in inputs(op) if t >= 0 and not graph.is_const(t)]
        if any(t in self.permuted for t in moving):
            self._permute(op)
        if not moving or any(tensor in self.after for tensor in moving):
            if any(self._inside(tensor) for tensor in moving):
                raise Refusal(f"{name} mixes values from inside and after the exit")
            self._restore_pads(moving)
            self.after |= set(outputs(op)) if moving else set()
            self.new.append(op)
            return
        if name == "PAD" and self._remember_pad(op):
            return
        handler = {
            "CONV_2D": self._convolution,
            "DEPTHWISE_CONV_2D": self._depthwise,
            "MAX_POOL_2D": self._pool,
            "AVERAGE_POOL_2D": self._pool,
            "MEAN": self._mean,
            "RESHAPE": self._flatten,
            "ADD": self._elementwise,
            "MUL": self._elementwise,
        }.get(name)
        starts = name == "CONV_2D"
        if not starts and not any(self._inside(tensor) for tensor in moving):
            self._restore_pads(moving)
            self.new.append(op)  # before the entry
            return
        if any(t in self.pads for t in moving) and name not in (
            "CONV_2D",
            "DEPTHWISE_CONV_2D",
        ):
            raise Refusal(f"{name} reads a padded image")
        if handler is not None:
            handler(op)
        elif name in outlook.UNARY and len(graph.shape(moving[0])) == 4:
            self._keep(op)
        else:
            raise Refusal(f"{name} has no planar form")

    def finish(self) -> None:
        if self.planar & set(self.graph.outputs):
            raise Refusal("an output of the model lies before an exit")
        if not self.planar:
            raise Refusal("it has no convolution")
        self.graph.subgraph.operators = self.new

    def _inside(self, tensor: int) -> bool:
        return self.pads.get(tensor, (tensor,))[0] in self.planar

    def _keep(self, op: Any) -> None:
        self.new.append(op)
        self.planar |= set(outputs(op))

    def _remember_pad(self, op: Any) -> bool:
        """Notes a PAD of rows and columns for its readers; False for another one."""
        amounts = self.graph.const(inputs(op)[1])
        if amounts is None or amounts.shape != (4, 2) or amounts[[0, 3]].any():
            if self._inside(inputs(op)[0]):
                raise Refusal("PAD of channels has no planar form")
            return False
        if inputs(op)[0] in self.pads or outputs(op)[0] in self.graph.outputs:
            return False
        rows, columns = amounts[1:3].tolist()
        self.pads[outputs(op)[0]] = (inputs(op)[0], (tuple(rows), tuple(columns)))
        return True

    def _restore_pads(self, tensors: Sequence[int]) -> None:
        """Writes a remembered PAD after all, for a reader before the entry."""
        for tensor in tensors:
            if tensor in self.pads:
                source, (rows, columns) = self.pads.pop(tensor)
                amounts = np.array([(0, 0), rows, columns, (0, 0)], np.int32)
                const = self.graph.add_const(amounts)
                self.new.append(self.graph.op("PAD", [source, const], [tensor]))

    def _geometry(self, op: Any, taps: tuple[int, int]) -> tuple[int, Any, int]:
        """Returns the operator's unpadded input, each tap's offsets, and the stride."""
        options = op.builtinOptions
        read = inputs(op)[0]
        source, pads = self.pads.get(read, (read, ((0, 0), (0, 0))))
        strides = (options.strideH, options.strideW)
        dilations = (
            getattr(options, "dilationHFactor", 1),
            getattr(options, "dilationWFactor", 1),
        )
        if strides[0] != strides[1] or strides[0] not in (1, 2):
            raise Refusal(f"{self.graph.name(op)} has strides {strides}")
        stride = strides[0]
        places = []
        for d in range(2):
            size = self.graph.shape(read)[1 + d]
            out = self.graph.shape(outputs(op)[0])[1 + d]
            before = pads[d][0]
            if options.padding == schema().Padding.SAME:
                span = (out - 1) * stride + (taps[d] - 1) * dilations[d] + 1
                before += max(0, span - size) // 2
            own = self.graph.shape(source)[1 + d]
            if out != -(-own // stride):
                raise Refusal(f"{self.graph.name(op)} shrinks the image by its padding")
            places.append(
                split_conv.offsets(
                    size=own,
                    out=out,
                    taps=taps[d],
                    stride=stride,
                    before=before,
                    flip=self.flip,
                    dilation=dilations[d],
                )
            )
        return source, places, stride

    def _weight(self, op: Any) -> tuple[np.ndarray, list[int]]:
        """Returns the operator's constant weight and its bias as a list of 0 or 1."""
        weight = self.graph.const(inputs(op)[1])
        if weight is None or weight.dtype != np.float32:
            raise Refusal(f"{self.graph.name(op)} has no constant float32 weight")
        return weight, [t for t in inputs(op)[2:3] if t >= 0]

    def _convolution(self, op: Any) -> None:
        graph = self.graph
        weight, bias = self._weight(op)
        if weight.shape[3] != graph.shape(inputs(op)[0])[3]:
            raise Refusal("CONV_2D has groups")
        source, places, stride = self._geometry(op, weight.shape[1:3])
        act = op.builtinOptions.fusedActivationFunction
        target = outputs(op)[0]
        if source not in self.planar:
            if weight.shape[3] == 3 and stride == 2:
                centred = split_conv.embed(weight, *places)
                if centred is not None and centred.shape[1] == 3:
                    mirrored = self.mirror(source)
                    self.emit("CONV_2D", mirrored, centred, bias, target, act, 2)
                    return
            source = self.identity_entry(source)
        if weight.shape[1:3] == (1, 1) and stride == 1 and places == [[0], [0]]:
            self.emit("CONV_2D", source, weight, bias, target, act, 1)
            return
        centred = split_conv.embed(weight, *places)
        if centred is None:
            raise Refusal(f"CONV_2D of {weight.shape[1]}x{weight.shape[2]} is too wide")
        pixels = [int(np.prod(graph.shape(t)[1:3])) for t in (source, target)]
        if weight.shape[1:3] == (1, 1):
            moved = self.like(target, weight.shape[3])
            offset = (places[0][0], places[1][0])
            kernel = split_conv.one_tap(weight.shape[3], {offset: 1.0})
            self.emit("DEPTHWISE_CONV_2D", source, kernel, [], moved, NONE, stride)
            self.emit("CONV_2D", moved, weight, bias, target, act, 1)
            return
        split = split_conv.triple(centred, *pixels)
        if stride == 1:
            cross = split_conv.cross(centred)
            if cross.nanoseconds(pixels[0]) < split.nanoseconds(*pixels):
                self.cross(source, cross, bias, target, act)
                return
        self.triple(source, split, bias, target, act, stride)

    def _depthwise(self, op: Any) -> None:
        weight, bias = self._weight(op)
        if weight.shape[3] != self.graph.shape(inputs(op)[0])[3]:
            raise Refusal("DEPTHWISE_CONV_2D has a depth multiplier")
        source, places, stride = self._geometry(op, weight.shape[1:3])
        centred = split_conv.embed(weight, *places)
        if centred is None:
            raise Refusal("DEPTHWISE_CONV_2D is too wide")
        act = op.builtinOptions.fusedActivationFunction
        target = outputs(op)[0]
        self.emit("DEPTHWISE_CONV_2D", source, centred, bias, target, act, stride)

    def _pool(self, op: Any) -> None:
        graph, options = self.graph, op.builtinOptions
        source, target = inputs(op)[0], outputs(op)[0]
        size, window = (
            graph.shape(source)[1:3],
            (options.filterHeight, options.filterWidth),
        )
        is_mean = graph.name(op) == "AVERAGE_POOL_2D"
        act = options.fusedActivationFunction
        if is_mean and window == size and graph.shape(target)[1:3] == (1, 1):
            if act != NONE:
                raise Refusal(f"{graph.name(op)} of the whole image has an activation")
            self._leave(source, target)
            return
        halves = window == (options.strideH, options.strideW) == (2, 2)
        if not halves or size[0] % 2 or size[1] % 2:
            raise Refusal(f"{graph.name(op)} is not 2x2 with stride 2 on even sizes")
        channels = graph.shape(source)[3]

        def pick(taps: dict[tuple[int, int], float], act: int = NONE) -> int:
            result = self.like(target, channels)
            kernel = split_conv.one_tap(channels, taps)
            self.emit("DEPTHWISE_CONV_2D", source, kernel, [], result, act, 2)
            return result

        if is_mean:
            quarter = {(r, c): 0.25 for r in (0, 1) for c in (0, 1)}
            kernel = split_conv.one_tap(channels, quarter)
            self.emit("DEPTHWISE_CONV_2D", source, kernel, [], target, act, 2)
            return
        # max(a, b) = a + relu(b - a), twice over columns, then over rows.
        top, bottom = (
            self.add(pick({(r, 0): 1.0}), pick({(r, 1): 1.0, (r, 0): -1.0}, RELU))
            for r in (0, 1)
        )
        # A constant factor would have to be 4-D to be planar; depthwise -1 is.
        negative = self.like(target, channels)
        kernel = split_conv.one_tap(channels, {(0, 0): -1.0})
        self.emit("DEPTHWISE_CONV_2D", top, kernel, [], negative, NONE, 1)
        self.add(top, self.add(bottom, negative, RELU), act, target)

    def _mean(self, op: Any) -> None:
        axes = self.graph.const(inputs(op)[1])
        rank = len(self.graph.shape(inputs(op)[0]))
        if axes is None or rank != 4 or sorted(axes.reshape(-1) % 4) != [1, 2]:
            raise Refusal("MEAN is not over the image")
        self._leave(inputs(op)[0], outputs(op)[0])

    def _leave(self, source: int, target: int) -> None:
        """Means over the image. Kept dimensions would be computed wrongly: reshape."""
        shape = self.graph.shape(source)
        flat = self.graph.add_tensor((shape[0], shape[3]), like=source)
        if self.graph.shape(target) == (shape[0], shape[3]):
            flat = target
        axes = self.graph.add_const(np.array([1, 2], np.int32))
        mean = self.graph.op("MEAN", [source, axes], [flat], keepDims=False)
        self.new.append(mean)
        if flat != target:
            self.new.append(self.graph.reshape(flat, target))
        self.after.add(target)

    def _flatten(self, op: Any) -> None:
        source, target = inputs(op)[0], outputs(op)[0]
        batch, height, width, channels = self.graph.shape(source)
        if self.graph.shape(target) != (batch, height * width * channels):
            raise Refusal("RESHAPE does not flatten the image")
        if height == width == 1:
            self._leave(source, target)
            return
        if target in self.graph.outputs:
            raise Refusal("the flattened image is an output of the model")
        filled = channels + -channels % 4  # DEPTH_TO_SPACE wants a multiple of 4
        if filled != channels:
            wider = self.like(source, filled)
            kernel = np.eye(filled, channels, dtype=np.float32).reshape(
                filled, 1, 1, -1
            )
            self.emit("CONV_2D", source, kernel, [], wider, NONE, 1)
            source = wider
            self.graph.tensors[target].shape = np.array(
                (batch, height * width * filled), np.int32
            )
        opened = (batch, 2 * height, 2 * width, filled // 4)
        spread = self.graph.add_tensor(opened, like=source)
        self.new += [
            self.graph.op("DEPTH_TO_SPACE", [source], [spread], blockSize=2),
            self.graph.reshape(spread, target),
        ]
        self.permuted[target] = split_conv.flatten_order(
            height, width, channels, flip=self.flip
        )
        self.after.add(target)

    def _permute(self, op: Any) -> None:
        """Puts the columns of a dense layer in the order of the flattened image."""
        order = self.permuted.get(inputs(op)[0])
        weight = self.graph.const(inputs(op)[1]) if len(inputs(op)) > 1 else None
        plain = self.graph.name(op) == "FULLY_CONNECTED" and order is not None
        if not plain or weight is None:
            raise Refusal(f"{self.graph.name(op)} reads the flattened image")
        op.inputs = np.array(inputs(op), np.int32)
        wide = np.pad(weight, [(0, 0), (0, 1)])  # place -1: a channel that is not there
        columns = np.ascontiguousarray(wide[:, order])
        op.inputs[1] = self.graph.add_const(columns)

    def _elementwise(self, op: Any) -> None:
        for position, tensor in enumerate(inputs(op)):
            array = self.graph.const(tensor)
            if array is None:
                if tensor not in self.planar or len(self.graph.shape(tensor)) != 4:
                    raise Refusal(f"{self.graph.name(op)} mixes layouts")
                continue
            if array.size not in (1, array.shape[-1] if array.ndim else 1):
                raise Refusal(f"{self.graph.name(op)} has a constant image")
            channels = self.graph.shape(outputs(op)[0])[3]
            vector = np.broadcast_to(array.reshape(-1), (channels,)).copy()
            op.inputs = np.array(inputs(op), np.int32)
            op.inputs[position] = self.graph.add_const(vector.reshape(1, 1, 1, -1))
        self._keep(op)
