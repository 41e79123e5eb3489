"""Relower: a k x k convolution as 1x1 and depthwise ones, which run sparse.

A convolution sums, over taps, a matrix times the shifted input. As a `Triple`, each row
of the middle is one shifted channel: the first 1x1 convolution picks the channel, the
depthwise one shifts it, the last 1x1 convolution holds the weights. Or the other way
round: weights first, then the shifts, then the sum per output channel. As a `Cross`,
the input is shifted along columns alone, and what each row of taps makes of it along
rows: of k x k shifts k + k - 1 are left. All are exact, and pairs of channel and tap
whose weights are all pruned need no row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from tflottery.tflite.xnnpack import costs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Triple:
    """Three convolutions in a row that do the work of one.

    Attributes:
      first: 1x1 kernel `[rows, 1, 1, inputs]`, without a bias.
      shift: Depthwise kernel `[1, k, k, rows]` with the stride, without a bias.
      last: 1x1 kernel `[outputs, 1, 1, rows]`, with the bias and the activation.
    """

    first: np.ndarray
    shift: np.ndarray
    last: np.ndarray

    def nanoseconds(self, pixels_in: int, pixels_out: int) -> float:
        """Returns the predicted time on so many pixels of input and output."""
        return (
            costs.pointwise(self.first, pixels_in)
            + costs.depthwise(self.shift, pixels_out)
            + costs.pointwise(self.last, pixels_out)
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cross:
    """Convolutions that shift along columns, weigh, and shift along rows.

    Attributes:
      first: 1x1 kernel `[rows, 1, 1, inputs]`, without a bias.
      shift: Depthwise kernel `[1, k, k, rows]` of stride 1, without a bias.
      last: By the offset of a row of taps, a 1x1 kernel `[outputs, 1, 1, rows]`. What
        offset 0 makes has the bias; what others make is shifted by `moves` and added.
      moves: By offset, a depthwise kernel `[1, k, k, outputs]`, without a bias.
    """

    first: np.ndarray
    shift: np.ndarray
    last: dict[int, np.ndarray]
    moves: dict[int, np.ndarray]

    def nanoseconds(self, pixels: int) -> float:
        """Returns the predicted time on an image of so many pixels."""
        outs = len(self.last[0])
        return (
            costs.pointwise(self.first, pixels)
            + costs.depthwise(self.shift, pixels)
            + sum(costs.pointwise(kernel, pixels) for kernel in self.last.values())
            + sum(costs.depthwise(kernel, pixels) for kernel in self.moves.values())
            + len(self.moves) * costs.written(outs, pixels)
        )


def offsets(
    *,
    size: int,
    out: int,
    taps: int,
    stride: int,
    before: int,
    flip: bool,
    dilation: int,
) -> list[int]:
    """Returns where each tap reads, relative to `stride` times the output's place.

    Args:
      size: The input's length in this dimension.
      out: The output's.
      taps: The kernel's.
      stride: The step.
      before: How much padding lies before the input.
      flip: Whether input and output are mirrored.
      dilation: The distance of taps.

    >>> offsets(
    ...     size=8, out=4, taps=3, stride=2, before=0, flip=False, dilation=1
    ... )
    [0, 1, 2]
    >>> offsets(size=8, out=4, taps=3, stride=2, before=0, flip=True, dilation=1)
    [1, 0, -1]
    """
    plain = [tap * dilation - before for tap in range(taps)]
    if not flip:
        return plain
    return [size - 1 - stride * (out - 1) - offset for offset in plain]


def embed(
    kernel: np.ndarray, rows: Sequence[int], columns: Sequence[int]
) -> np.ndarray | None:
    """Returns `[n, 3, 3, m]` or `[n, 5, 5, m]` with each tap at its offset.

    Args:
      kernel: `[n, taps, taps, m]`.
      rows: The offset of each row of taps; `columns` likewise.

    Returns:
      The centred kernel; None where a nonzero tap reads further than 2 away.
    """
    reach = 1
    for r, row in enumerate(rows):
        for c, column in enumerate(columns):
            if kernel[:, r, c].any():
                reach = max(reach, abs(row), abs(column))
    if reach > 2:
        return None
    width = 2 * reach + 1
    result = np.zeros((kernel.shape[0], width, width, kernel.shape[3]), np.float32)
    for r, row in enumerate(rows):
        for c, column in enumerate(columns):
            if kernel[:, r, c].any():
                result[:, row + reach, column + reach] = kernel[:, r, c]
    return result


def triple(kernel: np.ndarray, pixels_in: int, pixels_out: int) -> Triple:
    """Returns the cheaper of the two ways to split a centred kernel.

    Args:
      kernel: `[outputs, k, k, inputs]`, k = 3 or 5, centred.
      pixels_in: Pixels of the input; the first convolution runs on those.
      pixels_out: Pixels of the output; the last convolution runs on those.
    """
    forward = _rows(kernel)
    backward = _rows(kernel.transpose(3, 1, 2, 0))
    picked = _assemble(forward, kernel)
    mixed = _assemble(backward, kernel.transpose(3, 1, 2, 0))
    mixed = Triple(
        first=np.ascontiguousarray(mixed.last.transpose(3, 1, 2, 0)),
        shift=mixed.shift,
        last=np.ascontiguousarray(mixed.first.transpose(3, 1, 2, 0)),
    )

    return min(
        picked, mixed, key=lambda split: split.nanoseconds(pixels_in, pixels_out)
    )


def cross(kernel: np.ndarray) -> Cross:
    """Returns the split of a centred kernel into shifts along columns and along rows.

    Args:
      kernel: `[outputs, k, k, inputs]`, k = 3 or 5, centred, of stride 1.
    """
    outs, width, _, channels = kernel.shape
    reach = width // 2
    used = [tuple(pair) for pair in np.argwhere(kernel.any(axis=(0, 1))).tolist()]
    used = used or [(reach, 0)]  # a kernel of zeros
    first = np.zeros((len(used), 1, 1, channels), np.float32)
    shift = np.zeros((1, width, width, len(used)), np.float32)
    for row, (column, channel) in enumerate(used):
        first[row, 0, 0, channel] = 1
        shift[0, reach, column, row] = 1
    columns, places = (list(part) for part in zip(*used, strict=True))
    last, moves = {}, {}
    for offset in range(-reach, reach + 1):
        weights = kernel[:, offset + reach, columns, places]  # [outputs, rows]
        if offset and not weights.any():
            continue
        last[offset] = np.ascontiguousarray(weights[:, None, None])
        if offset:
            moves[offset] = np.zeros((1, width, width, outs), np.float32)
            moves[offset][0, offset + reach, reach] = 1
    return Cross(first=first, shift=shift, last=last, moves=moves)


_Row = tuple[int, np.ndarray, dict[int, float]]  # channel, taps, output -> weight


def _rows(kernel: np.ndarray) -> list[_Row]:
    """Returns the rows by input channel: one per tap, or one per output if fewer."""
    rows: list[_Row] = []
    width = kernel.shape[1]
    for channel in range(kernel.shape[3]):
        part = kernel[..., channel]  # [outputs, k, k]
        taps = np.argwhere(part.any(axis=0))
        outs = np.flatnonzero(part.any(axis=(1, 2)))
        if len(outs) < len(taps):
            rows += [(channel, part[out], {int(out): 1.0}) for out in outs]
            continue
        for r, c in taps:
            one = np.zeros((width, width), np.float32)
            one[r, c] = 1
            held = np.flatnonzero(part[:, r, c])
            rows.append((channel, one, {int(o): float(part[o, r, c]) for o in held}))
    # A kernel without any weight still has to give its bias.
    return rows or [(0, np.zeros((width, width), np.float32), {})]


def _assemble(rows: list[_Row], kernel: np.ndarray) -> Triple:
    outs, width, _, channels = kernel.shape
    first = np.zeros((len(rows), 1, 1, channels), np.float32)
    shift = np.zeros((1, width, width, len(rows)), np.float32)
    last = np.zeros((outs, 1, 1, len(rows)), np.float32)
    for row, (channel, taps, weights) in enumerate(rows):
        first[row, 0, 0, channel] = 1
        shift[0, :, :, row] = taps
        for out, weight in weights.items():
            last[out, 0, 0, row] = weight
    return Triple(first=first, shift=shift, last=last)


def one_tap(channels: int, taps: dict[tuple[int, int], float]) -> np.ndarray:
    """Returns a depthwise kernel `[1, 3, 3, channels]` with the given taps.

    Args:
      channels: How many channels it has.
      taps: (row, column) offset from the centre -> weight, the same in each channel.
    """
    kernel = np.zeros((1, 3, 3, channels), np.float32)
    for (row, column), weight in taps.items():
        kernel[0, row + 1, column + 1] = weight
    return kernel


def flatten_order(height: int, width: int, channels: int, *, flip: bool) -> np.ndarray:
    """Returns, per place after DEPTH_TO_SPACE(2) and flattening, the place before.

    Args:
      height: Rows of the image; `width` and `channels` likewise.
      width: Columns.
      channels: Channels; filled up to a multiple of 4, whose places are -1.
      flip: Whether the image is mirrored.
    """
    places = np.arange(height * width * channels).reshape(height, width, channels)
    if flip:
        places = places[::-1, ::-1]
    filled = [(0, 0), (0, 0), (0, -channels % 4)]
    places = np.pad(places, filled, constant_values=-1)
    blocks = places.reshape(height, width, 2, 2, places.shape[2] // 4)
    return blocks.transpose(0, 2, 1, 3, 4).reshape(-1)
