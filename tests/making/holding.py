"""Masks for any model, and a watch that sees whether they are held."""

import numpy as np

from tflottery.engines import network


def half_masks(model):
    """Returns masks that prune about half of every prunable weight."""
    rng = np.random.default_rng(1)
    return {
        path: rng.random(tuple(v.shape)) < 0.5
        for path, v in network.prunable(model, network.keras_of(model)).items()
    }


def largest_pruned(model, masks):
    weights = network.read(network.variables(model))
    return max(np.abs(weights[path][~mask]).max() for path, mask in masks.items())


def watch(keras, masks):
    """Returns a callback that notes the largest pruned weight after every execution."""

    class Watch(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.largest = []

        def on_train_batch_end(self, batch, logs=None):
            self.largest.append(largest_pruned(self.model, masks))

    return Watch()
