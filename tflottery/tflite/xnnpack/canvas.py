"""Canvas: the operators that a planar network is written in."""

from __future__ import annotations

from typing import Any

import numpy as np

from tflottery.tflite.file.graph import Graph, schema
from tflottery.tflite.xnnpack import split_conv

NONE, RELU = 0, 1  # ActivationFunctionType


class Refusal(Exception):
    """The graph has an operator that cannot be rewritten; the message says which."""


class Canvas:
    """The new operators of a graph, and which tensors they keep planar."""

    def __init__(self, graph: Graph, flip: bool) -> None:
        self.graph = graph
        self.flip = flip
        self.new: list[Any] = []
        self.planar: set[int] = set()
        self.entered: dict[int, int] = {}  # image -> the same inside

    def identity_entry(self, source: int) -> int:
        """Enters at any image of up to 3 channels: double it, then halve it back."""
        if source in self.entered:
            return self.entered[source]
        graph = self.graph
        batch, height, width, channels = graph.shape(source)
        if channels > 3:
            raise Refusal(f"the image has {channels} channels, more than 3")
        wide = self.mirror(source)
        if channels < 3:
            amounts = np.array([(0, 0)] * 3 + [(0, 3 - channels)], np.int32)
            padded = graph.add_tensor((batch, height, width, 3), like=source)
            pads = graph.add_const(amounts)
            self.new.append(graph.op("PAD", [wide, pads], [padded]))
            wide = padded
        double = graph.add_tensor((batch, 2 * height, 2 * width, 3), like=source)
        size = graph.add_const(np.array([2 * height, 2 * width], np.int32))
        self.new.append(
            graph.op(
                "RESIZE_NEAREST_NEIGHBOR", [wide, size], [double], alignCorners=False
            )
        )
        kernel = np.zeros((channels, 3, 3, 3), np.float32)
        kernel[range(channels), 1, 1, range(channels)] = 1
        inside = graph.add_tensor((batch, height, width, channels), like=source)
        self.emit("CONV_2D", double, kernel, [], inside, NONE, 2)
        self.entered[source] = inside
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
        bias: list[int],
        target: int,
        act: int,
        stride: int,
    ) -> None:
        """Writes a convolution with symmetric padding, its PAD its own."""
        graph, reach = self.graph, kernel.shape[1] // 2
        padding = schema().Padding.SAME
        if stride == 2:
            padding = schema().Padding.VALID
            if reach:
                amounts = np.zeros((4, 2), np.int32)
                amounts[1:3] = reach
                batch, height, width, channels = graph.shape(source)
                shape = (batch, height + 2 * reach, width + 2 * reach, channels)
                padded = graph.add_tensor(shape, like=source)
                const = graph.add_const(amounts)
                self.new.append(graph.op("PAD", [source, const], [padded]))
                source = padded
        if not bias:  # the plain kernels refuse a convolution without one
            channels = graph.shape(target)[3]
            bias = [graph.add_const(np.zeros(channels, np.float32))]
        options = {"depthMultiplier": 1} if name == "DEPTHWISE_CONV_2D" else {}
        self.new.append(
            graph.op(
                name,
                [source, graph.add_const(np.ascontiguousarray(kernel)), *bias],
                [target],
                padding=padding,
                strideH=stride,
                strideW=stride,
                fusedActivationFunction=act,
                **options,
            )
        )
        self.planar.add(target)

    def triple(
        self,
        source: int,
        split: split_conv.Triple,
        bias: list[int],
        target: int,
        act: int,
        stride: int,
    ) -> None:
        """Writes a convolution that was taken apart into three in a row."""
        rows = len(split.first)
        picked, moved = self.like(source, rows), self.like(target, rows)
        self.emit("CONV_2D", source, split.first, [], picked, NONE, 1)
        self.emit("DEPTHWISE_CONV_2D", picked, split.shift, [], moved, NONE, stride)
        self.emit("CONV_2D", moved, split.last, bias, target, act, 1)

    def cross(
        self,
        source: int,
        cross: split_conv.Cross,
        bias: list[int],
        target: int,
        act: int,
    ) -> None:
        """Writes a convolution that was taken apart into columns and rows."""
        rows, outs = len(cross.first), len(cross.last[0])
        picked, moved = self.like(source, rows), self.like(source, rows)
        self.emit("CONV_2D", source, cross.first, [], picked, NONE, 1)
        self.emit("DEPTHWISE_CONV_2D", picked, cross.shift, [], moved, NONE, 1)
        parts = [self.like(source, outs) if cross.moves else target]
        part_act = NONE if cross.moves else act
        self.emit("CONV_2D", moved, cross.last[0], bias, parts[0], part_act, 1)
        for offset, kernel in cross.moves.items():
            part, shifted = self.like(source, outs), self.like(source, outs)
            self.emit("CONV_2D", moved, cross.last[offset], [], part, NONE, 1)
            self.emit("DEPTHWISE_CONV_2D", part, kernel, [], shifted, NONE, 1)
            parts.append(shifted)
        while len(parts) > 2:
            parts[:2] = [self.add(parts[0], parts[1])]
        if cross.moves:
            self.add(parts[0], parts[1], act, target)

    def add(self, a: int, b: int, act: int = NONE, target: int | None = None) -> int:
        if target is None:
            target = self.graph.add_tensor(self.graph.shape(a), like=a)
        self.new.append(
            self.graph.op("ADD", [a, b], [target], fusedActivationFunction=act)
        )
        self.planar.add(target)
        return target

    def like(self, tensor: int, channels: int) -> int:
        return self.graph.add_tensor(
            (*self.graph.shape(tensor)[:3], channels), like=tensor
        )
