"""Quantized: float32 weights as int8, with a scale per channel or a shared one."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from tflottery.tflite.file.packing import table

# The largest error that a shared scale may cause, as a share of a channel's norm, in
# the root mean square over channels. A scale per channel causes 0.007.
_SHARED_SCALE_ERROR = 0.015


@dataclasses.dataclass(frozen=True)
class Quantized:
    """int8 values, with the scales of their channels along `axis` or a shared one."""

    values: np.ndarray
    scale: np.ndarray
    axis: int

    @property
    def nbytes(self) -> int:
        return 12 * self.scale.size  # float32 scale, int64 zero point


def parameters(scale: np.ndarray, axis: int = 0) -> Any:
    """Returns the `QuantizationParameters` of a file for scales, with zero points 0."""
    zeros = np.zeros(scale.size, np.int64)
    fields = {"scale": scale, "zeroPoint": zeros, "quantizedDimension": axis}
    return table("QuantizationParametersT", **fields)


def quantize(array: np.ndarray, axis: int) -> Quantized:
    """Quantizes float32 weights symmetrically; `axis` holds the output channels.

    A shared scale is taken if it is precise enough. Channels of zeros get scale 1.
    """
    others = tuple(d for d in range(array.ndim) if d != axis)
    top = np.abs(array).max(axis=others, initial=0.0).astype(np.float64)
    channels = np.where(top > 0, top / 127, 1.0).astype(np.float32)
    shared = np.array([top.max() / 127 or 1.0], np.float32)
    rounded = _round(array, shared, axis)
    error = rounded.astype(np.float64) * shared - array
    norms = [
        np.sqrt((part.astype(np.float64) ** 2).sum(axis=others))
        for part in (error, array)
    ]
    share = np.divide(norms[0], norms[1], out=np.zeros_like(top), where=top > 0)
    if float(np.sqrt(np.mean(share**2))) <= _SHARED_SCALE_ERROR:
        return Quantized(rounded, shared, 0)
    return Quantized(_round(array, channels, axis), channels, axis)


def _round(array: np.ndarray, scale: np.ndarray, axis: int) -> np.ndarray:
    scaled = array / per_channel(scale, axis, array.ndim)
    return np.clip(np.rint(scaled), -127, 127).astype(np.int8)


def per_channel(values: np.ndarray, axis: int, rank: int) -> np.ndarray:
    """Returns values of the channels along `axis`, or a shared one, to broadcast."""
    return values.reshape([-1 if d == axis else 1 for d in range(rank)])
