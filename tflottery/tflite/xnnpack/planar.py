"""Planar: a whole network rewritten, exactly, into what XNNPACK computes sparse.

XNNPACK uses planar layout only from an entry, a 3x3 convolution of stride 2 over 3
channels, to an exit, a mean over the image or DEPTH_TO_SPACE. Of the operators between
them it supports a few kinds, into which all the others are rewritten here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tflottery.tflite.file.graph import Graph, schema
from tflottery.tflite.xnnpack import outlook, split_conv
from tflottery.tflite.xnnpack.canvas import NONE, RELU, Canvas, Refusal, pad

_Pads = tuple[tuple[int, int], tuple[int, int]]  # (before, after) of rows, columns


def make_planar(graph: Graph, *, flip: bool) -> None:
    """Rewrites the graph in place, from its first convolution to the exits.

    Args:
        graph: A dense float32 graph with static shapes.
        flip: Whether to mirror the image and every kernel. The padding that Keras adds
            only after the image then comes before it, where it is as good as symmetric.

    Raises:
        Refusal: If an operator cannot be rewritten; the graph is then left incomplete.
    """
    rewriter = _Rewriter(graph, flip)
    for op in list(graph.operators):
        rewriter.visit(op)
    rewriter.finish()


class _Rewriter(Canvas):
    """Visits the operators in order and writes the new ones."""

    def __init__(self, graph: Graph, flip: bool) -> None:
        super().__init__(graph, flip)
        self.after: set[int] = set()  # tensors computed from that of an exit
        self.pads: dict[int, tuple[int, _Pads]] = {}  # padded -> source, amounts
        self.permuted: dict[int, np.ndarray] = {}  # flattened tensor -> its order

    def visit(self, op: Any) -> None:
        graph, name = self.graph, self.graph.name(op)
        moving = [t for t in op.inputs if t >= 0 and not graph.is_const(t)]
        if any(t in self.permuted for t in moving):
            self._permute(op)
        if not moving or any(tensor in self.after for tensor in moving):
            if any(self._inside(tensor) for tensor in moving):
                raise Refusal(f"{name} mixes values from before and after the exit")
            self._restore_pads(moving)
            self.after |= set(op.outputs) if moving else set()
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
        if name != "CONV_2D" and not any(self._inside(tensor) for tensor in moving):
            self._restore_pads(moving)
            self.new.append(op)  # before the entry
            return
        padded = any(tensor in self.pads for tensor in moving)
        if padded and name not in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            raise Refusal(f"{name} reads a padded image")
        if handler is not None:
            handler(op)
        elif name in outlook.UNARY and len(graph.shape(moving[0])) == 4:
            self._keep(op)
        else:
            raise Refusal(f"{name} has no planar form")

    def finish(self) -> None:
        if self.planar & set(self.graph.outputs):
            raise Refusal("an output of the model comes before an exit")
        if not self.planar:
            raise Refusal("it has no convolution")
        self.graph.subgraph.operators = self.new

    def _inside(self, tensor: int) -> bool:
        return self.pads.get(tensor, (tensor,))[0] in self.planar

    def _keep(self, op: Any) -> None:
        self.new.append(op)
        self.planar |= set(op.outputs)

    def _remember_pad(self, op: Any) -> bool:
        """Notes a PAD of rows and columns for its readers; False for any other PAD."""
        amounts = self.graph.const(op.inputs[1])
        if amounts is None or amounts.shape != (4, 2) or amounts[[0, 3]].any():
            if self._inside(op.inputs[0]):
                raise Refusal("PAD of channels has no planar form")
            return False
        if op.inputs[0] in self.pads or op.outputs[0] in self.graph.outputs:
            return False
        rows, columns = amounts[1:3].tolist()
        self.pads[op.outputs[0]] = (op.inputs[0], (tuple(rows), tuple(columns)))
        return True

    def _restore_pads(self, tensors: Sequence[int]) -> None:
        """Writes the PADs that were noted, for a reader outside of planar layout."""
        for tensor in tensors:
            if tensor in self.pads:
                source, (rows, columns) = self.pads.pop(tensor)
                amounts = [(0, 0), rows, columns, (0, 0)]
                self.new.append(pad(self.graph, source, amounts, tensor))

    def _geometry(self, op: Any, taps: tuple[int, int]) -> tuple[int, Any, int]:
        """Returns the unpadded input, the offsets of the taps, and the stride.

        A tap reads at its offset from `stride` times the output position.
        """
        options = op.builtinOptions
        read = op.inputs[0]
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
            out = self.graph.shape(op.outputs[0])[1 + d]
            before = pads[d][0]
            if options.padding == schema().Padding.SAME:
                span = (out - 1) * stride + (taps[d] - 1) * dilations[d] + 1
                before += max(0, span - size) // 2
            own = self.graph.shape(source)[1 + d]
            if out != -(-own // stride):
                raise Refusal(f"{self.graph.name(op)} shrinks the image by its padding")
            offsets = [tap * dilations[d] - before for tap in range(taps[d])]
            if self.flip:
                offsets = [own - 1 - stride * (out - 1) - place for place in offsets]
            places.append(offsets)
        return source, places, stride

    def _weight(self, op: Any) -> tuple[np.ndarray, list[int]]:
        """Returns the constant weight, and a list of the bias or nothing."""
        weight = self.graph.const(op.inputs[1])
        if weight is None or weight.dtype != np.float32:
            raise Refusal(f"{self.graph.name(op)} has no constant float32 weight")
        return weight, [t for t in op.inputs[2:3] if t >= 0]

    def _convolution(self, op: Any) -> None:
        graph = self.graph
        weight, bias = self._weight(op)
        if weight.shape[3] != graph.shape(op.inputs[0])[3]:
            raise Refusal("CONV_2D has groups")
        source, places, stride = self._geometry(op, weight.shape[1:3])
        act = op.builtinOptions.fusedActivationFunction
        target = op.outputs[0]
        if source not in self.planar:
            if weight.shape[3] == 3 and stride == 2:
                centred = split_conv.embed(weight, *places)
                if centred is not None and centred.shape[1] == 3:
                    mirrored = self.mirror(source)
                    self.emit("CONV_2D", mirrored, centred, target, bias, act, 2)
                    return
            source = self.identity_entry(source)
        if weight.shape[1:3] == (1, 1) and stride == 1 and places == [[0], [0]]:
            self.emit("CONV_2D", source, weight, target, bias, act)
            return
        centred = split_conv.embed(weight, *places)
        if centred is None:
            raise Refusal(f"CONV_2D of {weight.shape[1]}x{weight.shape[2]} is too wide")
        pixels = [int(np.prod(graph.shape(t)[1:3])) for t in (source, target)]
        if weight.shape[1:3] == (1, 1):
            moved = self.like(target, weight.shape[3])
            tap = {(places[0][0], places[1][0]): 1.0}
            self.taps(source, tap, moved, stride=stride)
            self.emit("CONV_2D", moved, weight, target, bias, act)
            return
        split = split_conv.triple(centred, *pixels)
        if stride == 1:
            cross = split_conv.cross(centred)
            if cross.nanoseconds(pixels[0]) < split.nanoseconds(*pixels):
                self.cross(source, cross, target, bias, act)
                return
        self.triple(source, split, target, bias, act, stride)

    def _depthwise(self, op: Any) -> None:
        weight, bias = self._weight(op)
        if weight.shape[3] != self.graph.shape(op.inputs[0])[3]:
            raise Refusal("DEPTHWISE_CONV_2D has a depth multiplier")
        source, places, stride = self._geometry(op, weight.shape[1:3])
        centred = split_conv.embed(weight, *places)
        if centred is None:
            raise Refusal("DEPTHWISE_CONV_2D is too wide")
        act = op.builtinOptions.fusedActivationFunction
        target = op.outputs[0]
        self.emit("DEPTHWISE_CONV_2D", source, centred, target, bias, act, stride)

    def _pool(self, op: Any) -> None:
        graph, options = self.graph, op.builtinOptions
        source, target = op.inputs[0], op.outputs[0]
        size = graph.shape(source)[1:3]
        window = (options.filterHeight, options.filterWidth)
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
        if is_mean:
            quarters = {(r, c): 0.25 for r in (0, 1) for c in (0, 1)}
            self.taps(source, quarters, target, act, stride=2)
            return
        channels = graph.shape(source)[3]

        def pick(taps: dict[tuple[int, int], float], act: int = NONE) -> int:
            return self.taps(source, taps, self.like(target, channels), act, stride=2)

        # max(a, b) = a + relu(b - a), twice over columns, then over rows.
        top, bottom = (
            self.add(pick({(r, 0): 1.0}), pick({(r, 1): 1.0, (r, 0): -1.0}, RELU))
            for r in (0, 1)
        )
        # A MUL by a scalar has no planar form; a depthwise convolution has.
        negative = self.taps(top, {(0, 0): -1.0}, self.like(target, channels))
        self.add(top, self.add(bottom, negative, RELU), act, target)

    def _mean(self, op: Any) -> None:
        axes = self.graph.const(op.inputs[1])
        rank = len(self.graph.shape(op.inputs[0]))
        if axes is None or rank != 4 or sorted(axes.reshape(-1) % 4) != [1, 2]:
            raise Refusal("MEAN is not over the image")
        self._leave(op.inputs[0], op.outputs[0])

    def _leave(self, source: int, target: int) -> None:
        """Writes a mean over the image; XNNPACK would get kept dimensions wrong."""
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
        source, target = op.inputs[0], op.outputs[0]
        batch, height, width, channels = self.graph.shape(source)
        if self.graph.shape(target) != (batch, height * width * channels):
            raise Refusal("RESHAPE does not flatten the image")
        if height == width == 1:
            self._leave(source, target)
            return
        if target in self.graph.outputs:
            raise Refusal("the flattened image is an output of the model")
        filled = channels + -channels % 4  # DEPTH_TO_SPACE needs a multiple of 4
        if filled != channels:
            wider = self.like(source, filled)
            kernel = np.eye(filled, channels, dtype=np.float32)[:, None, None]
            self.emit("CONV_2D", source, kernel, wider)
            source = wider
            self.graph.set_shape(target, (batch, height * width * filled))
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
        """Reorders the columns of a dense layer like the flattened image."""
        order = self.permuted.get(op.inputs[0])
        weight = self.graph.const(op.inputs[1]) if len(op.inputs) > 1 else None
        plain = self.graph.name(op) == "FULLY_CONNECTED" and order is not None
        if not plain or weight is None:
            raise Refusal(f"{self.graph.name(op)} reads the flattened image")
        wide = np.pad(weight, [(0, 0), (0, 1)])  # place -1: a channel that was added
        op.inputs[1] = self.graph.add_const(wide[:, order])

    def _elementwise(self, op: Any) -> None:
        for position, tensor in enumerate(op.inputs):
            array = self.graph.const(tensor)
            if array is None:
                if tensor not in self.planar or len(self.graph.shape(tensor)) != 4:
                    raise Refusal(f"{self.graph.name(op)} mixes layouts")
                continue
            if array.size not in (1, array.shape[-1] if array.ndim else 1):
                raise Refusal(f"{self.graph.name(op)} has a constant image")
            channels = self.graph.shape(op.outputs[0])[3]
            vector = np.broadcast_to(array.reshape(-1), (channels,)).copy()
            op.inputs[position] = self.graph.add_const(vector.reshape(1, 1, 1, -1))
        self._keep(op)
