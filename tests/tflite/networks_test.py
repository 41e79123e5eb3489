"""The published networks, at their own width, on images as small as they allow."""

import functools

import keras
import pytest
from making.tflite_files import prune

from tflottery.lab import models
from tflottery.tflite import export_tflite
from tflottery.tflite.source import model as model_lib


def resnet20():
    return models.resnet20((8, 8, 3), 10, keras=keras, seed=0)


def conv6():
    return models.conv6((16, 16, 3), 10, keras=keras, seed=0)


def mobilenet_v2():
    return keras.applications.MobileNetV2((64, 64, 3), 0.35, weights=None, classes=10)


@functools.cache
def pruned(build):
    return prune(build(), 0.95)


# What a file may take at most, over the bound: depthwise kernels and biases stay whole.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "ratio"),
    [
        (resnet20, 1.45),
        (conv6, 1.2),
        (mobilenet_v2, 1.2),
    ],
)
def test_a_published_network_is_right_and_near_the_bound(build, ratio, tmp_path):
    report = export_tflite(pruned(build), tmp_path / "model.tflite")
    assert report.difference < 1e-5
    assert report.bound_ratio is not None
    assert report.bound_ratio < ratio


@pytest.mark.slow
@pytest.mark.parametrize("build", [resnet20, conv6, mobilenet_v2])
def test_a_published_network_computes_sparse_and_right(build, request, tmp_path):
    dense, path = tmp_path / "dense.tflite", tmp_path / "sparse.tflite"
    dense.write_bytes(model_lib.from_model(pruned(build)).dense)
    report = export_tflite(dense, path, target="sparse_speed")
    assert report.difference < 1e-5
    assert report.plans["wasm"].path == "sparse"
    wasm = request.getfixturevalue("wasm")  # from here on only where Node is there
    (difference,) = wasm(dense, path)
    assert difference < 1e-5
