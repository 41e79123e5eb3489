"""Canvas: writes the operators of a planar network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tflottery.tflite.file.graph import Graph, schema
from tflottery.tflite.xnnpack import split_conv

NONE, RELU = 0, 1  # ActivationFunctionType


class Refusal(Exception):
    """The graph has an operator that cannot be rewritten; the message says which."""


def pad(
    graph: Graph, source: int, amounts: Sequence[Sequence[int]], padded: int = -1
) -> Any:
    """Returns a new PAD by (before, after) of each dimension, to a new tensor if -1."""
    array = np.array(amounts, np.int32)
    if padded < 0:
        shape = np.array(graph.shape(source)) + array.sum(axis=1)
        padded = graph.add_tensor(shape.tolist(), like=source)
    return graph.op("PAD", [source, graph.add_const(array)], [padded])


class Canvas:
    """The new operators of a graph."""

    def __init__(self, graph: Graph, flip: bool) -> None:
        self.graph = graph  # holds their tensors
        self.flip = flip  # whether images are mirrored
        self.new: list[Any] = []  # the operators, in order
        self.planar: set[int] = set()  # the tensors in planar layout
        self._entered: dict[int, int] = {}  # image -> the same image in planar layout

    def identity_entry(self, source: int) -> int:
        """Enters with an image of up to 3 channels: doubles it, then halves it back."""
        if source in self._entered:
            return self._entered[source]
        graph = self.graph
        batch, height, width, channels = graph.shape(source)
        if channels > 3:
            raise Refusal(f"the image has {channels} channels, more than 3")
        wide = self.mirror(source)
        if channels < 3:
            self.new.append(pad(graph, wide, [(0, 0)] * 3 + [(0, 3 - channels)]))
            wide = self.new[-1].outputs[0]
        double = graph.add_tensor((batch, 2 * height, 2 * width, 3), like=source)
        size = graph.add_const(np.array([2 * height, 2 * width], np.int32))
        resize = "RESIZE_NEAREST_NEIGHBOR"
        self.new.append(graph.op(resize, [wide, size], [double], alignCorners=False))
        kernel = np.zeros((channels, 3, 3, 3), np.float32)
        kernel[range(channels), 1, 1, range(channels)] = 1
        inside = self.like(source, channels)
        self.emit("CONV_2D", double, kernel, inside, stride=2)
        self._entered[source] = inside
        return inside

    def mirror(self, source: int) -> int:
        if not self.flip:
            return source
        mirrored = self.graph.add_tensor(self.graph.shape(source), like=source)
        axes = self.graph.add_const(np.array([1, 2], np.int32))
        self.new.append(self.graph.op("REVERSE_V2", [source, axes], [mirrored]))
        return mirrored

    def emit(
        self,
        name: str,
        source: int,
        kernel: np.ndarray,
        target: int,
        bias: Sequence[int] = (),
        act: int = NONE,
        stride: int = 1,
    ) -> None:
        """Writes a convolution, symmetrically padded, of stride 1 or 2."""
        graph, reach = self.graph, kernel.shape[1] // 2
        padding = schema().Padding.SAME
        if stride == 2:
            padding = schema().Padding.VALID
            if reach:
                amounts = [(0, 0), (reach, reach), (reach, reach), (0, 0)]
                self.new.append(pad(graph, source, amounts))
                source = self.new[-1].outputs[0]
        if not bias:  # required by the plain kernels
            channels = graph.shape(target)[3]
            bias = [graph.add_const(np.zeros(channels, np.float32))]
        options: dict[str, Any] = {}
        if name == "DEPTHWISE_CONV_2D":
            options["depthMultiplier"] = 1
        self.new.append(
            graph.op(
                name,
                [source, graph.add_const(kernel), *bias],
                [target],
                padding=padding,
                strideH=stride,
                strideW=stride,
                fusedActivationFunction=act,
                **options,
            )
        )
        self.planar.add(target)

    def taps(
        self,
        source: int,
        taps: dict[tuple[int, int], float],
        target: int,
        act: int = NONE,
        stride: int = 1,
    ) -> int:
        """Writes a depthwise convolution with these taps in each channel to `target`.

        A tap is a (row, column) offset from the centre -> weight.
        """
        kernel = np.zeros((1, 3, 3, self.graph.shape(source)[3]), np.float32)
        for (row, column), weight in taps.items():
            kernel[0, row + 1, column + 1] = weight
        self.emit("DEPTHWISE_CONV_2D", source, kernel, target, act=act, stride=stride)
        return target

    def triple(
        self,
        source: int,
        split: split_conv.Triple,
        target: int,
        bias: Sequence[int],
        act: int,
        stride: int,
    ) -> None:
        """Writes a convolution that was split into three in a row."""
        rows = len(split.first)
        picked, moved = self.like(source, rows), self.like(target, rows)
        self.emit("CONV_2D", source, split.first, picked)
        self.emit("DEPTHWISE_CONV_2D", picked, split.shift, moved, stride=stride)
        self.emit("CONV_2D", moved, split.last, target, bias, act)

    def cross(
        self,
        source: int,
        cross: split_conv.Cross,
        target: int,
        bias: Sequence[int],
        act: int,
    ) -> None:
        """Writes a convolution that was split into columns and rows."""
        rows, outs = len(cross.first), len(cross.last[0])
        picked, moved = self.like(source, rows), self.like(source, rows)
        self.emit("CONV_2D", source, cross.first, picked)
        self.emit("DEPTHWISE_CONV_2D", picked, cross.shift, moved)
        if not cross.moves:
            self.emit("CONV_2D", moved, cross.last[0], target, bias, act)
            return
        parts = [self.like(source, outs)]
        self.emit("CONV_2D", moved, cross.last[0], parts[0], bias)
        for offset, kernel in cross.moves.items():
            part, shifted = self.like(source, outs), self.like(source, outs)
            self.emit("CONV_2D", moved, cross.last[offset], part)
            self.emit("DEPTHWISE_CONV_2D", part, kernel, shifted)
            parts.append(shifted)
        while len(parts) > 2:
            parts[:2] = [self.add(parts[0], parts[1])]
        self.add(parts[0], parts[1], act, target)

    def add(self, a: int, b: int, act: int = NONE, target: int | None = None) -> int:
        if target is None:
            target = self.graph.add_tensor(self.graph.shape(a), like=a)
        operator = self.graph.op("ADD", [a, b], [target], fusedActivationFunction=act)
        self.new.append(operator)
        self.planar.add(target)
        return target

    def like(self, tensor: int, channels: int) -> int:
        """Returns a new image tensor of the size of another one."""
        shape = (*self.graph.shape(tensor)[:3], channels)
        return self.graph.add_tensor(shape, like=tensor)
