"""Exports a ticket, and measures the accuracy and the latency of the file.

pip install scikit-learn && python examples/export_edge.py
"""

import keras
from sklearn.datasets import load_digits

import tflottery

images, labels = load_digits(return_X_y=True)
images = images.astype("float32") / 16
train, test = slice(0, 1400), slice(1400, None)

keras.utils.set_random_seed(0)
layers = [keras.layers.Dense(units, activation="relu") for units in (300, 100)]
model = keras.Sequential([keras.Input((64,)), *layers, keras.layers.Dense(10)])
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])

data = (images[train], labels[train])
options = {"epochs": 4, "rounds": 3, "target_sparsity": 0.95, "select": "last"}
model = tflottery.find_ticket(model, data, validation_data=data, seed=0, **options)

report = tflottery.export_tflite(
    model, "digits.tflite", quantize="weights", samples=images[test]
)
print(report)
print(tflottery.evaluate_tflite("digits.tflite", [(images[test], labels[test])]))

print(tflottery.benchmark_tflite("digits.tflite"))
