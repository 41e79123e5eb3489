"""Programs that train by labels: images, sequences, tables, and their data."""

import importlib
from typing import Any

import numpy as np

from making.programs.catalogue import (
    BOTH,
    NO_STRINGS,
    ORDINARY,
    classifier,
    dataset,
    dense,
    momentum,
    numbers,
    program,
    regression,
    texts,
    whole,
)


def attention_block(keras: Any, x: Any, width: int) -> Any:
    layers = keras.layers
    attended = layers.MultiHeadAttention(2, width // 2)(x, x)
    x = layers.LayerNormalization()(x + attended)
    inner = layers.Dense(width, activation="gelu")(x)
    return layers.LayerNormalization()(x + layers.Dropout(0.1)(inner))


def vectorization(keras: Any) -> Any:
    layer = keras.layers.TextVectorization(max_tokens=20, output_sequence_length=6)
    layer.adapt(texts())
    return layer


def text_model(keras: Any, tokens: Any, given: Any) -> Any:
    x = keras.layers.Embedding(20, 8)(tokens)
    x = keras.layers.GlobalAveragePooling1D()(attention_block(keras, x, 8))
    return keras.Model(given, keras.layers.Dense(2, activation="softmax")(x))


@program(classifier)
def text_before(keras: Any):
    tokens = keras.Input((6,), dtype="int64")
    vectors = vectorization(keras)
    ds = dataset(texts(), whole(2)).map(lambda x, y: (vectors(x), y))
    return text_model(keras, tokens, tokens), {"ds": ds, "validation_data": ds}


@program(
    classifier,
    export=NO_STRINGS % "text_vectorization",
)
def text_in_front(keras: Any):
    given = keras.Input((), dtype="string")
    ds = dataset(texts(), whole(2))
    return text_model(keras, vectorization(keras)(given), given), {
        "ds": ds,
        "validation_data": ds,
    }


@program(classifier)
def series_transformer(keras: Any):
    given = keras.Input((10, 3))
    x = keras.layers.Conv1D(8, 3, padding="same")(given)
    x = keras.layers.GlobalAveragePooling1D()(attention_block(keras, x, 8))
    out = keras.layers.Dense(3, activation="softmax")(x)
    return keras.Model(given, out), {
        "ds": numbers(10, 3),
        "y": whole(3),
        "batch_size": 12,
        "validation_split": 0.25,
    }


@program(classifier)
def vision_transformer(keras: Any):
    layers = keras.layers

    class Positions(layers.Layer):
        def build(self, shape):
            self.table = self.add_weight(shape=shape[1:], name="table")

        def call(self, x):
            return x + self.table

    image = keras.Input((8, 8, 3))
    x = layers.Reshape((4, 8))(layers.Conv2D(8, 4, strides=4)(image))
    x = layers.Flatten()(attention_block(keras, Positions(name="positions")(x), 8))
    out = layers.Dense(3, activation="softmax")(x)
    data = (numbers(8, 8, 3), whole(3))
    return keras.Model(image, out), {"ds": dataset(*data), "validation_data": data}


@program(classifier, export=NO_STRINGS % "string_lookup")
def wide_and_deep(keras: Any):
    layers = keras.layers
    age = keras.Input((1,), name="age")
    job = keras.Input((1,), name="job", dtype="string")
    scaled = layers.Normalization()
    scaled.adapt(numbers(1))
    lookup = layers.StringLookup(vocabulary=["good", "bad"], output_mode="one_hot")
    wide = layers.Concatenate()([scaled(age), lookup(job)])
    deep = layers.Dense(8, activation="relu")(layers.Dense(8, activation="relu")(wide))
    out = layers.Dense(2, activation="softmax")(layers.Concatenate()([wide, deep]))
    jobs = np.array(["good", "bad", "new"])[whole(3, 1)]
    ds = dataset({"age": numbers(1), "job": jobs}, whole(2))
    return keras.Model({"age": age, "job": job}, out), {
        "ds": ds,
        "validation_data": ds,
    }


@program(
    lambda keras: {
        **momentum(keras),
        "loss": "binary_crossentropy",
        "metrics": [keras.metrics.Recall(name="recall")],
    },
    generations=BOTH,
    untested=ORDINARY,
)
def imbalanced(keras: Any):
    model = keras.Sequential([keras.Input((6,)), *dense(keras, 16, 1).layers])
    model.add(keras.layers.Activation("sigmoid"))
    return model, {
        "ds": numbers(6),
        "y": (whole(8, 1) == 0).astype("float32"),
        "batch_size": 8,
        "class_weight": {0: 1.0, 1: 7.0},
        "validation_split": 0.25,
        "monitor": "val_loss",
    }


@program(regression, generations=BOTH)
def forecast(keras: Any):
    layers = [keras.layers.LSTM(8), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((7, 2)), *layers])
    return model, {"ds": numbers(7, 2), "y": numbers(1), "validation_split": 0.25}


@program(classifier)
def sequence_to_sequence(keras: Any):
    layers = keras.layers
    source, target = keras.Input((5,)), keras.Input((6,))
    _, *states = layers.LSTM(8, return_state=True)(layers.Embedding(9, 4)(source))
    written = layers.LSTM(8, return_sequences=True)(
        layers.Embedding(9, 4)(target), initial_state=states
    )
    out = layers.Dense(9, activation="softmax")(written)
    return keras.Model([source, target], out), {
        "ds": [whole(9, 5), whole(9, 6)],
        "y": whole(9, 6),
        "validation_split": 0.25,
    }


@program(classifier, untested=("export",))
def bidirectional(keras: Any):
    layers = keras.layers
    given = keras.Input((None, 3))
    x = layers.Bidirectional(layers.GRU(4, return_sequences=True))(given)
    x = layers.RNN([layers.SimpleRNNCell(4), layers.LSTMCell(4)])(x)
    out = layers.Dense(3, activation="softmax")(x)
    data = (numbers(6, 3), whole(3))
    return keras.Model(given, out), {"ds": data, "validation_data": data}


@program(regression)
def next_frame(keras: Any):
    layers = keras.layers
    frames = keras.Input((3, 6, 6, 1))
    x = layers.ConvLSTM2D(4, 3, padding="same")(frames)
    out = layers.Conv2D(1, 3, padding="same")(x)
    data = (numbers(3, 6, 6, 1), numbers(6, 6, 1))
    return keras.Model(frames, out), {"ds": dataset(*data), "validation_data": data}


@program(classifier)
def augmented(keras: Any):
    layers = keras.layers
    image = keras.Input((8, 8, 3))
    x = layers.Rescaling(1 / 255)(layers.RandomFlip()(image))
    x = layers.SeparableConv2D(8, 3, activation="relu")(x)
    x = layers.SpectralNormalization(layers.Conv2D(8, 3))(x)
    x = layers.Lambda(lambda t: t * 2, output_shape=(4, 4, 8))(x)
    out = layers.Dense(3, activation="softmax")(layers.GlobalMaxPooling2D()(x))
    data = (numbers(8, 8, 3), whole(3))
    return keras.Model(image, out), {"ds": dataset(*data), "validation_data": data}


@program(
    lambda keras: {
        **momentum(keras),
        "loss": {"kind": "sparse_categorical_crossentropy", "size": "mse"},
        "loss_weights": {"kind": 1.0, "size": 0.5},
        "metrics": {"kind": ["accuracy"]},
    },
    transfer_ticket={"num_classes": 3, "output": "kind"},
)
def several_outputs(keras: Any):
    layers = keras.layers
    given = keras.Input((6,))
    x = layers.Dense(16, activation="relu")(given)
    kind = layers.Dense(3, activation="softmax", name="kind")(x)
    size = layers.Dense(1, name="size")(x)
    y = {"kind": whole(3), "size": numbers(1)}
    return keras.Model(given, {"kind": kind, "size": size}), {
        "ds": numbers(6),
        "y": y,
        "validation_split": 0.25,
    }


def plain(keras: Any) -> Any:
    layers = dense(keras, 16, 3, out="softmax").layers
    return keras.Sequential([keras.Input((6,)), *layers])


@program(classifier, generations=BOTH, untested=ORDINARY)
def py_dataset(keras: Any):
    # tf_keras has no PyDataset; its name there is Sequence.
    kind = getattr(keras.utils, "PyDataset", keras.utils.Sequence)

    class Batches(kind):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            part = slice(8 * index, 8 * index + 8)
            return numbers(6)[part], whole(3)[part]

    return plain(keras), {"ds": Batches(), "validation_data": (numbers(6), whole(3))}


@program(classifier, untested=ORDINARY)
def endless(keras: Any):
    ds = dataset(numbers(6), whole(3)).repeat()
    return plain(keras), {
        "ds": ds,
        "steps_per_epoch": 3,
        "validation_data": ds,
        "validation_steps": 2,
    }


@program(classifier, untested=ORDINARY)
def image_generator(keras: Any):
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    generator = ImageDataGenerator(horizontal_flip=True)
    flow = generator.flow(numbers(8, 8, 3), whole(3), batch_size=8)
    layers = [keras.layers.Flatten(), *dense(keras, 16, 3, out="softmax").layers]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    return model, {"ds": flow, "validation_data": flow}


@program(classifier, untested=ORDINARY)
def data_frame(keras: Any):
    import pandas as pd

    frame = pd.DataFrame(numbers(6), columns=list("abcdef"))
    return plain(keras), {
        "ds": frame,
        "y": pd.Series(whole(3)),
        "validation_split": 0.25,
    }


@program(
    lambda keras: {
        **momentum(keras),
        "loss": "sparse_categorical_crossentropy",
        "weighted_metrics": ["accuracy"],
    },
    untested=ORDINARY,
)
def sample_weights(keras: Any):
    return plain(keras), {
        "ds": numbers(6),
        "y": whole(3),
        "sample_weight": np.linspace(0, 1, 24),
        "validation_split": 0.25,
        "shuffle": False,
    }


@program(classifier)
def padded(keras: Any):
    import tensorflow as tf

    rows = tf.RaggedTensor.from_row_lengths(
        tf.random.stateless_uniform((72, 3), (0, 1)), [2, 4] * 12
    )
    ds = dataset(rows, whole(3)).map(lambda x, y: (x.to_tensor(), y))
    layers = [keras.layers.Masking(), keras.layers.GRU(4)]
    layers.append(keras.layers.Dense(3, activation="softmax"))
    model = keras.Sequential([keras.Input((None, 3)), *layers])
    return model, {"ds": ds, "validation_data": ds}


def with_head(keras: Any, base: Any, size: int, *, frozen: bool):
    base.trainable = not frozen
    image = keras.Input((size, size, 3))
    x = keras.layers.Dense(32, activation="relu")(base(image, training=not frozen))
    out = keras.layers.Dense(3, activation="softmax")(x)
    data = (numbers(size, size, 3), whole(3))
    return keras.Model(image, out), {"ds": dataset(*data), "validation_data": data}


@program(classifier)
def frozen_base(keras: Any):
    layers = keras.layers
    stack = [layers.Conv2D(8, 3), layers.BatchNormalization(), layers.ReLU()]
    stack += [layers.DepthwiseConv2D(3), layers.GlobalAveragePooling2D()]
    base = keras.Sequential([keras.Input((8, 8, 3)), *stack])
    return with_head(keras, base, 8, frozen=True)


def by_adam(keras: Any) -> dict[str, Any]:
    return {**classifier(keras), "optimizer": "adam"}  # Their features are tiny.


def application(keras: Any, name: str, *, frozen: bool):
    base = getattr(keras.applications, name)(
        weights=None, include_top=False, input_shape=(32, 32, 3), pooling="avg"
    )
    return with_head(keras, base, 32, frozen=frozen)


@program(by_adam, untested=("search",))
def mobilenet_frozen(keras: Any):
    return application(keras, "MobileNetV3Small", frozen=True)


@program(by_adam, untested=("search",))
def mobilenet_tuned(keras: Any):
    return application(keras, "MobileNetV3Small", frozen=False)


@program(by_adam, untested=("search",))
def efficientnet_tuned(keras: Any):
    return application(keras, "EfficientNetV2B0", frozen=False)


@program(by_adam, untested=("search",))
def efficientnet_frozen(keras: Any):
    return application(keras, "EfficientNetV2B0", frozen=True)


@program(classifier, export="Give `samples` of sizes that it takes")
def keras_hub_backbone(keras: Any):
    keras_hub = importlib.import_module("keras_hub")
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=30,
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=6,
    )
    out = keras.layers.Dense(2, activation="softmax")(backbone.output["pooled_output"])
    x = {
        "token_ids": whole(30, 6),
        "segment_ids": whole(2, 6),
        "padding_mask": np.ones((24, 6), "int32"),
    }
    return keras.Model(backbone.input, out), {
        "ds": x,
        "y": whole(2),
        "validation_split": 0.25,
    }
