"""Split: a k x k convolution as 1x1 and depthwise ones, which XNNPACK runs sparse.

A convolution is a sum over taps of a matrix times the shifted input. A `Triple` has a
row per pair of channel and tap: its first 1x1 convolution picks the channel, a
depthwise one shifts it, and the last 1x1 convolution holds the weights. Or it is the
reverse: weights, shifts, and a sum per output channel. A `Cross` shifts the input along
columns, and the result of each row of taps along rows: k + k - 1 shifts instead of
k * k. All are exact. A pair whose weights are all pruned needs no row.
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
        """Returns the predicted time for these pixels of input and output."""
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
        last: By the offset of a row of taps, a 1x1 kernel `[outputs, 1, 1, rows]`. The
            result of offset 0 has the bias; the others are shifted and added to it.
        moves: By offset, a depthwise kernel `[1, k, k, outputs]`, without a bias.
    """

    first: np.ndarray
    shift: np.ndarray
    last: dict[int, np.ndarray]
    moves: dict[int, np.ndarray]

    def nanoseconds(self, pixels: int) -> float:
        """Returns the predicted time for an image of so many pixels."""
        outs = len(self.last[0])
        return (
            costs.pointwise(self.first, pixels)
            + costs.depthwise(self.shift, pixels)
            + sum(costs.pointwise(kernel, pixels) for kernel in self.last.values())
            + sum(costs.depthwise(kernel, pixels) for kernel in self.moves.values())
            + len(self.moves) * costs.written(outs, pixels)
        )


def embed(
    kernel: np.ndarray, rows: Sequence[int], columns: Sequence[int]
) -> np.ndarray | None:
    """Returns a kernel `[n, 3, 3, m]` or `[n, 5, 5, m]` with each tap at its offset.

    `kernel` is `[n, rows, columns, m]`. None if a nonzero tap reads over 2 places away.
    """
    used = {
        (row, column): kernel[:, r, c]
        for r, row in enumerate(rows)
        for c, column in enumerate(columns)
        if kernel[:, r, c].any()
    }
    reach = max([1, *(abs(offset) for place in used for offset in place)])
    if reach > 2:
        return None
    width = 2 * reach + 1
    result = np.zeros((kernel.shape[0], width, width, kernel.shape[3]), np.float32)
    for (row, column), taps in used.items():
        result[:, row + reach, column + reach] = taps
    return result


def triple(kernel: np.ndarray, pixels_in: int, pixels_out: int) -> Triple:
    """Returns the cheaper of the two ways to split a centred kernel.

    `kernel` is `[outputs, k, k, inputs]`, k = 3 or 5. The first convolution runs on
    `pixels_in`, the others on `pixels_out`.
    """
    weights_last = _assemble(kernel)
    reverse = _assemble(kernel.transpose(3, 1, 2, 0))
    weights_first = Triple(
        first=reverse.last.transpose(3, 1, 2, 0),
        shift=reverse.shift,
        last=reverse.first.transpose(3, 1, 2, 0),
    )
    both = weights_last, weights_first
    return min(both, key=lambda split: split.nanoseconds(pixels_in, pixels_out))


def cross(kernel: np.ndarray) -> Cross:
    """Splits a centred kernel of stride 1, `[outputs, k, k, inputs]`, k = 3 or 5."""
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
        last[offset] = weights[:, None, None]
        if offset:
            moves[offset] = np.zeros((1, width, width, outs), np.float32)
            moves[offset][0, offset + reach, reach] = 1
    return Cross(first=first, shift=shift, last=last, moves=moves)


_Row = tuple[int, np.ndarray, dict[int, float]]  # channel, taps, output -> weight


def _rows(kernel: np.ndarray) -> list[_Row]:
    """Returns, for each input channel, a row per tap, or per output if that is less."""
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
    # A kernel of zeros needs a row too, as its bias must be written.
    return rows or [(0, np.zeros((width, width), np.float32), {})]


def _assemble(kernel: np.ndarray) -> Triple:
    rows = _rows(kernel)
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


def flatten_order(height: int, width: int, channels: int, *, flip: bool) -> np.ndarray:
    """Returns the order of an image's values after DEPTH_TO_SPACE(2) and flattening.

    Per place in the result, that is the place in the flattened image; -1 for a zero, as
    zeros fill the channels up to a multiple of 4. `flip` means a mirrored image.
    """
    places = np.arange(height * width * channels).reshape(height, width, channels)
    if flip:
        places = places[::-1, ::-1]
    filled = [(0, 0), (0, 0), (0, -channels % 4)]
    places = np.pad(places, filled, constant_values=-1)
    blocks = places.reshape(height, width, 2, 2, places.shape[2] // 4)
    return blocks.transpose(0, 2, 1, 3, 4).reshape(-1)
