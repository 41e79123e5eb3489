"""Transfer keeps masks and weights, gives a new head, and leaves the source alone."""

import dataclasses
import importlib
import os

import numpy as np
import pytest

from tflottery import find_ticket, load_ticket, transfer_ticket
from tflottery.core.config import LotteryConfig
from tflottery.lab import models
from tflottery.ticket import WEIGHTS, Ticket
from tflottery.transfer import controls

ON_TENSORFLOW = os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow"
GENERATIONS = ["keras", "tf_keras"] if ON_TENSORFLOW else ["keras"]


@pytest.fixture(params=GENERATIONS)
def keras(request):
    return importlib.import_module(request.param)


def ticket_for(model, density=0.3, seed=0):
    """Returns a ticket with random masks whose θ0, θk and θT all differ."""
    weights = controls.weights_of(model)
    rng = np.random.default_rng(seed)
    masks = {
        path: rng.random(w.shape) < density
        for path, w in weights.items()
        if path.endswith("kernel")
    }
    theta = {
        name: {path: w + np.float32(shift) for path, w in weights.items()}
        for name, shift in (("initial", 0.0), ("rewind", 0.01), ("trained", 0.02))
    }
    return Ticket(
        masks=masks,
        **theta,
        config=LotteryConfig(),
        monitor="val_accuracy",
        rounds=(),
        round=3,
    )


def lenet(keras, **changes):
    return models.lenet_small((4, 4, 1), 10, keras=keras, seed=0, **changes)


def source(keras, density=0.3):
    model = lenet(keras)
    return ticket_for(model, density).apply(model)


def residual(keras):
    """Returns a network for (8, 8, 3) images with normalization and global pooling."""
    layers = keras.layers
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", use_bias=False, name="stem")(inputs)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    x = layers.Add()([x, layers.Conv2D(4, 3, padding="same", name="conv")(x)])
    x = layers.GlobalAveragePooling2D()(x)
    outputs = layers.Dense(10, activation="softmax", name="output")(x)
    return keras.Model(inputs, outputs, name="residual")


def images(count=24, shape=(4, 4, 1), classes=5):
    rng = np.random.default_rng(0)
    return rng.random((count, *shape), np.float32), np.arange(count) % classes


def train(keras, student, shape=(4, 4, 1), classes=5):
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=1e-2)
    student.compile(optimizer, "sparse_categorical_crossentropy")
    student.fit(*images(shape=shape, classes=classes), batch_size=8, verbose=0)
    return controls.weights_of(student)


def is_held(model):
    weights = controls.weights_of(model)
    return all(
        np.all(weights[path][~mask] == 0) and np.any(weights[path][mask] != 0)
        for path, mask in model.ticket.masks.items()
    )


def subclassed(keras, classes=None, first="first"):
    class Body(keras.Model):
        def __init__(self):
            super().__init__(name="body")
            self.one = keras.layers.Dense(8, activation="relu", name=first)
            self.two = keras.layers.Dense(6, name="second")
            self.out = classes and keras.layers.Dense(classes, name="out")

        def call(self, inputs):
            x = self.two(self.one(inputs))
            return self.out(x) if self.out else x

    model = Body()
    model(np.zeros((2, 4), np.float32))
    return model


def test_a_student_has_the_sources_masks_and_weights_and_a_new_dense_head(keras):
    teacher = source(keras)
    student = transfer_ticket(teacher, num_classes=5)
    assert isinstance(student, keras.Model)
    assert student.output_shape == (None, 5)
    ticket = student.ticket
    assert list(ticket.masks) == ["fc1/kernel", "fc2/kernel"]
    weights, given = controls.weights_of(student), controls.weights_of(teacher)
    for path, mask in ticket.masks.items():
        np.testing.assert_array_equal(mask, teacher.ticket.masks[path])
    for path in ("fc1/kernel", "fc1/bias", "fc2/kernel", "fc2/bias"):
        np.testing.assert_array_equal(weights[path], given[path])
    assert np.all(weights["output/kernel"] != 0)


@pytest.mark.without_tensorflow
def test_masks_hold_in_the_student_and_nothing_moves_in_the_source(keras):
    teacher = source(keras)
    teacher.compile("sgd", "sparse_categorical_crossentropy")
    before = controls.weights_of(teacher), teacher.ticket, teacher.optimizer
    student = transfer_ticket(teacher, num_classes=5)
    start = controls.weights_of(student)
    after = train(keras, student)
    assert is_held(student)
    assert all(np.any(after[path] != start[path]) for path in after)
    for path, w in controls.weights_of(teacher).items():
        np.testing.assert_array_equal(w, before[0][path])
    assert teacher.ticket is before[1]
    assert teacher.optimizer is before[2]


@pytest.mark.parametrize("weights", ["initial", "rewind", "trained"])
def test_a_student_starts_from_the_weights_asked_for(keras, weights):
    ticket = ticket_for(lenet(keras))
    student = transfer_ticket(ticket, 5, backbone=lenet(keras), weights=weights)
    np.testing.assert_array_equal(
        controls.weights_of(student)["fc2/kernel"],
        getattr(ticket, weights)["fc2/kernel"],
    )


def test_trained_weights_of_a_model_are_those_that_it_has_now(keras):
    teacher = source(keras)
    bias = np.arange(30, dtype=np.float32)
    teacher.get_layer("fc2").bias.assign(bias)
    student = transfer_ticket(teacher, 5)
    np.testing.assert_array_equal(student.ticket.trained["fc2/bias"], bias)
    np.testing.assert_array_equal(controls.weights_of(student)["fc2/bias"], bias)
    assert np.all(teacher.ticket.trained["fc2/bias"] != bias)


@pytest.mark.without_tensorflow
def test_a_chain_of_transfers_can_be_followed_and_saved(keras, tmp_path):
    teacher = source(keras)
    first = transfer_ticket(teacher, 5, seed=1)
    second = transfer_ticket(first, 3, weights="initial")
    second.ticket.save(tmp_path / "a.ticket")
    origin = load_ticket(tmp_path / "a.ticket").origin
    assert origin["weights"] == "initial"
    assert origin["architecture"] == first.ticket.architecture
    assert origin["round"] == 3
    assert origin["origin"] == {
        "architecture": teacher.ticket.architecture,
        "density": teacher.ticket.density,
        "round": 3,
        "weights": "trained",
        "seed": 1,
        "origin": None,
    }
    np.testing.assert_array_equal(
        second.ticket.initial["fc1/kernel"], teacher.ticket.initial["fc1/kernel"]
    )


@pytest.mark.without_tensorflow
def test_a_head_is_the_same_for_one_seed_and_another_for_another(keras):
    def head(seed):
        layers = [
            keras.layers.Dense(7, activation="relu", name="hidden"),
            keras.layers.Dense(5, name="classes"),
        ]
        student = transfer_ticket(source(keras), head=layers, seed=seed)
        weights = controls.weights_of(student)
        return weights["hidden/kernel"], weights["classes/kernel"]

    one, again, other = head(1), head(1), head(2)
    for a, b, c in zip(one, again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.all(a != c)


@pytest.mark.without_tensorflow
def test_only_the_head_of_a_frozen_student_moves_not_even_its_statistics(keras):
    model = residual(keras)
    teacher = ticket_for(model).apply(model)
    student = transfer_ticket(teacher, 5, freeze_backbone=True)
    before = controls.weights_of(student)
    after = train(keras, student, shape=(8, 8, 3))
    moved = {path for path in after if np.any(after[path] != before[path])}
    assert moved == {"output/kernel", "output/bias"}


def test_freezing_a_ticket_sparser_than_80_percent_warns_and_else_does_not(keras):
    with pytest.warns(UserWarning, match="sparser than 80 %"):
        transfer_ticket(source(keras, density=0.1), 5, freeze_backbone=True)
    # Warnings are errors here.
    transfer_ticket(source(keras, density=0.3), 5, freeze_backbone=True)
    transfer_ticket(source(keras, density=0.1), 5)


def test_examples_of_another_shape_are_an_error_at_fit_that_says_what_to_do(keras):
    student = transfer_ticket(source(keras), 5)
    student.compile("sgd", "sparse_categorical_crossentropy")
    x, y = images(shape=(6, 6, 1))
    message = r"shape \(6, 6, 1\).*takes \(4, 4, 1\).*adapt.*input_shape=\(6, 6, 1\)"
    with pytest.raises(ValueError, match=message):
        student.fit(x, y, verbose=0)
    x, y = images()
    student.fit(x, y, verbose=0)


@pytest.mark.slow
@pytest.mark.without_tensorflow
def test_a_network_with_global_pooling_takes_another_input_shape(keras):
    layers = [keras.Input((8, 8, 3)), keras.layers.ReLU(), residual(keras)]
    model = keras.Sequential(layers)
    teacher = ticket_for(model).apply(model)
    student = transfer_ticket(teacher, 5, input_shape=(12, 12, 3))
    assert student.input_shape == (None, 12, 12, 3)
    path = "residual/stem/kernel"
    np.testing.assert_array_equal(
        controls.weights_of(student)[path], controls.weights_of(teacher)[path]
    )
    train(keras, student, shape=(12, 12, 3))
    assert is_held(student)


def test_a_network_whose_weights_depend_on_the_size_refuses_another(keras):
    with pytest.raises(ValueError, match=r"`input_shape` \(6, 6, 1\).*fc1/kernel"):
        transfer_ticket(source(keras), 5, input_shape=(6, 6, 1))


def test_a_classifier_before_pooling_and_softmax_is_found(keras):
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(4, 3, name="features"),
            layers.Conv2D(10, 1, name="classes"),
            layers.GlobalAveragePooling2D(),
            layers.Activation("softmax"),
        ]
    )
    student = transfer_ticket(ticket_for(model).apply(model), 5)
    assert student.output_shape == (None, 5)
    assert student.layers[-1].activation is keras.activations.softmax
    assert list(student.ticket.masks) == ["features/kernel"]
    train(keras, student, shape=(6, 6, 2))


def test_the_new_head_gives_logits_where_the_old_one_did(keras):
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(5, name="a"),
            keras.layers.Dense(2, name="b"),
        ]
    )
    student = transfer_ticket(ticket_for(model).apply(model), 3)
    assert student.layers[-1].activation is keras.activations.linear


@pytest.mark.slow
def test_a_subclassed_backbone_is_filled_and_its_student_transferred_on(keras):
    whole = subclassed(keras, classes=4)
    teacher = ticket_for(whole).apply(whole)
    with pytest.raises(ValueError, match=r"subclassed model.*`backbone=`"):
        transfer_ticket(teacher, 3)
    with pytest.raises(ValueError, match="without its classifier"):
        transfer_ticket(teacher, 3, backbone=subclassed(keras, classes=4))
    backbone = subclassed(keras)
    student = transfer_ticket(teacher, 3, backbone=backbone)
    np.testing.assert_array_equal(
        controls.weights_of(backbone)["first/kernel"],
        controls.weights_of(teacher)["first/kernel"],
    )
    train(keras, student, shape=(4,), classes=3)
    assert is_held(student)
    again = transfer_ticket(student, 2, backbone=subclassed(keras))
    np.testing.assert_array_equal(
        again.ticket.masks["body/first/kernel"], teacher.ticket.masks["first/kernel"]
    )
    assert is_held(again)


def test_a_backbone_with_other_paths_or_shapes_is_an_error_that_names_them(keras):
    whole = subclassed(keras, classes=4)
    ticket = ticket_for(whole)
    message = "where the ticket has 'first/kernel', `backbone` has 'other/kernel'"
    with pytest.raises(ValueError, match=message):
        transfer_ticket(ticket, 3, backbone=subclassed(keras, first="other"))
    wide = keras.Sequential([keras.Input((5,)), keras.layers.Dense(8, name="first")])
    with pytest.raises(
        ValueError, match=r"lacks|'first/kernel' has the shape \(5, 8\)"
    ):
        transfer_ticket(ticket, 3, backbone=wide)


def test_a_ticket_file_fills_a_network_made_anew(keras, tmp_path):
    model = lenet(keras)
    ticket_for(model).save(tmp_path / "a.ticket")
    student = transfer_ticket(tmp_path / "a.ticket", 5, backbone=lenet(keras))
    train(keras, student)
    assert is_held(student)


def test_what_find_ticket_returns_can_be_transferred(keras):
    model = find_ticket(
        lenet(keras),
        images(classes=10),
        validation_data=images(classes=10),
        epochs=1,
        rounds=1,
        target_sparsity=0.5,
        select="last",
        verbose=0,
    )
    student = transfer_ticket(model, 5)
    train(keras, student)
    assert is_held(student)
    assert student.ticket.origin["density"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either by `num_classes` or by `head`"),
        ({"num_classes": 5, "head": "x"}, "either by `num_classes` or by `head`"),
        ({"num_classes": 1}, "from 2 to .*head=Dense"),
        ({"num_classes": 2.5}, "whole number from 2 to 16777216"),
        ({"num_classes": 5, "weights": "best"}, "`weights` must be one of"),
        ({"num_classes": 5, "seed": -1}, "`seed` must be"),
        ({"head": []}, "at least one layer"),
        ({"head": "dense"}, "must be a layer"),
    ],
)
def test_bad_arguments_are_errors_that_name_them(arguments, message):
    keras = importlib.import_module("keras")
    with pytest.raises(ValueError, match=message):
        transfer_ticket(source(keras), **arguments)


def test_a_used_layer_or_a_taken_name_is_no_head(keras):
    teacher = source(keras)
    used = keras.layers.Dense(3)
    used.build((None, 30))
    with pytest.raises(ValueError, match="already has weights"):
        transfer_ticket(teacher, head=used)
    with pytest.raises(ValueError, match="named 'fc1', and so has the backbone"):
        transfer_ticket(teacher, head=keras.layers.Dense(3, name="fc1"))


def test_a_source_without_a_ticket_is_an_error(keras):
    with pytest.raises(ValueError, match=r"carries no ticket.*find_ticket"):
        transfer_ticket(lenet(keras), 5)
    with pytest.raises(TypeError, match="`source` must be a model that carries"):
        transfer_ticket(42, 5)
    with pytest.raises(ValueError, match="`backbone` is needed"):
        transfer_ticket(ticket_for(lenet(keras)), 5)


def test_a_network_without_a_classifier_or_with_two_outputs_says_what_to_do(keras):
    inputs = keras.Input((4,))
    x = keras.layers.Dense(3, name="a")(inputs)
    normed = keras.Model(inputs, keras.layers.LayerNormalization(name="norm")(x))
    with pytest.raises(ValueError, match=r"comes from 'norm'.*`backbone=`"):
        transfer_ticket(ticket_for(normed).apply(normed), 5)
    two = keras.Model(inputs, [x, keras.layers.Dense(2, name="b")(x)])
    ticket_for(two).apply(two)
    for output in (None, "c"):
        with pytest.raises(ValueError, match=r"outputs a, b\. Pass .* output='a'"):
            transfer_ticket(two, 5, output=output)
    student = transfer_ticket(two, 5, output="b")
    assert list(student.ticket.masks) == ["a/kernel"]
    assert student.output_shape == (None, 5)


def around(keras, body):
    """Returns a classifier around a network, with a ticket."""
    inputs = keras.Input((4, 4, 1))
    outputs = keras.layers.Dense(10, activation="softmax", name="out")(body(inputs))
    model = keras.Model(inputs, outputs)
    return ticket_for(model).apply(model)


def test_a_frozen_backbone_that_is_thawed_trains_in_networks_inside_too(keras):
    body = keras.Sequential(
        [keras.layers.Flatten(), keras.layers.Dense(6, name="inside")], name="body"
    )
    body.build((None, 4, 4, 1))
    frozen = transfer_ticket(around(keras, body), 5, freeze_backbone=True)
    thawed = transfer_ticket(frozen, 5)
    before = controls.weights_of(thawed)
    after = train(keras, thawed)
    for path in before:
        assert not np.array_equal(before[path], after[path]), path


def test_a_part_of_the_source_is_copied_as_backbone(keras):
    class Pair(keras.Model):
        def __init__(self):
            super().__init__(name="pair")
            self.teacher = keras.Sequential([keras.layers.Dense(4)], name="teacher")
            layers = [keras.layers.Dense(8, name="a"), keras.layers.Dense(4, name="b")]
            self.student = keras.Sequential(layers, name="student")
            self.whole = subclassed(keras)

        def call(self, x):
            return self.teacher(x) + self.student(x) + self.whole(x)[:, :4]

    pair = Pair()
    pair(np.zeros((2, 4), np.float32))
    ticket_for(pair).apply(pair)
    before = controls.weights_of(pair)
    with pytest.raises(ValueError, match=r"one of source\.teacher, source\.student, "):
        transfer_ticket(pair, 3)
    with pytest.raises(ValueError, match="a part of a model that carries one, pass"):
        transfer_ticket(pair.student, 3)
    cut = keras.Model(pair.student.inputs, pair.student.layers[0].output)
    for part, path, origin in (
        (cut, "a/kernel", "student/a/kernel"),
        (pair.student, "b/kernel", "student/b/kernel"),
        (pair.whole, "body/first/kernel", "body/first/kernel"),
    ):
        student = transfer_ticket(pair, 3, backbone=part)
        np.testing.assert_array_equal(
            student.ticket.masks[path], pair.ticket.masks[origin]
        )
        assert is_held(student)
    student.compile("sgd", "mse", run_eagerly=True)
    student.train_on_batch(np.ones((2, 4)), np.zeros((2, 3)))
    after = controls.weights_of(pair)
    assert all(np.array_equal(before[path], after[path]) for path in before)
    model = source(keras)
    assert transfer_ticket(model, 5, backbone=model).output_shape == (None, 5)


def without_config(keras, activation):
    """Returns a layer that cannot be made anew from its config."""

    class Block(keras.layers.Layer):
        def __init__(self, activation):
            super().__init__(name="block")
            self.activation = activation
            self.dense = keras.layers.Dense(4, name="inner")
            layers = [keras.layers.Dense(4, name="deep"), keras.layers.Dropout(0.1)]
            self.both = [keras.Sequential(layers, name="stack"), self.dense]

        def build(self, shape):
            self.w = self.add_weight(shape=(4, 4), name="w", initializer="ones")

        def call(self, x):
            for layer in self.both:
                x = layer(x)
            return self.activation(x @ self.w)

    return Block(activation)


def with_state(keras):
    """Returns a network of layers that a config does not tell."""
    layers, factor = keras.layers, 3.0
    normalization = layers.Normalization(name="norm")
    normalization.adapt(np.arange(12, dtype=np.float32).reshape(6, 2))
    numbers = layers.CategoryEncoding(9, output_mode="one_hot")
    if ON_TENSORFLOW:
        numbers = layers.IntegerLookup(output_mode="one_hot")
        numbers.adapt(np.array([5, 7, 7]))
    x, number = keras.Input((2,)), keras.Input((1,), dtype="int32")
    both = layers.Concatenate()([normalization(x), numbers(number)])
    scaled = layers.Lambda(lambda x: x * factor)(layers.Dense(4, name="one")(both))
    made = layers.Dense(4, name="own", activation=lambda x: x + factor)(scaled)
    features = without_config(keras, lambda x: x - factor)(made)
    return keras.Model([x, number], layers.Dense(2, name="out")(features))


@pytest.mark.slow
def test_layers_are_copied_with_state_that_is_in_no_config(keras):
    model = with_state(keras)
    weights = controls.weights_of(model)
    masks = {"one/kernel": weights["one/kernel"] > 0, "block/w": np.eye(4) > 0}
    ticket = dataclasses.replace(
        ticket_for(lenet(keras)), masks=masks, **dict.fromkeys(WEIGHTS, weights)
    )
    ticket.apply(model)
    x = [images(shape=(2,))[0], np.full((24, 1), 7, np.int32)]
    student = transfer_ticket(model, head=keras.layers.Activation("linear"))
    features = keras.Model(model.inputs, model.get_layer("block").output)
    np.testing.assert_array_equal(
        features.predict_on_batch(x), student.predict_on_batch(x)
    )
    before = controls.weights_of(model)
    student.compile("sgd", "mse", run_eagerly=True)
    student.train_on_batch(x, np.zeros((24, 4)))
    assert is_held(student)
    moved = controls.weights_of(student)["block/stack/deep/kernel"]
    assert np.any(moved != before["block/stack/deep/kernel"])
    for path, w in controls.weights_of(model).items():
        np.testing.assert_array_equal(w, before[path])


def test_a_ticket_adapts_a_normalization_built_anew(keras):
    def built():
        norm = keras.layers.Normalization(name="norm")
        layers = [keras.Input((2,)), norm, keras.layers.Dense(2, name="a")]
        return keras.Sequential(layers), norm

    model, norm = built()
    norm.adapt(np.arange(12, dtype=np.float32).reshape(6, 2))
    weights = controls.weights_of(model)
    ticket = dataclasses.replace(
        ticket_for(lenet(keras)), masks={}, **dict.fromkeys(WEIGHTS, weights)
    )
    x, _ = images(shape=(2,))
    again = ticket.apply(built()[0])
    np.testing.assert_array_equal(again.predict_on_batch(x), model.predict_on_batch(x))


def test_a_layer_that_cannot_be_copied_is_named_with_two_ways_out(keras):
    block = without_config(keras, abs)
    block.activation = lambda x: x @ block.w
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(2, name="out")(block(inputs)))
    with pytest.raises(
        ValueError, match=r"'block' \(Block\) .*`get_config`.*`backbone=`, the model"
    ):
        transfer_ticket(ticket_for(model).apply(model), 3)


def test_heads_of_steps_and_pixels_keep_their_place(keras):
    layers = keras.layers
    steps = keras.Input((6, 4))
    x = layers.Dense(5, name="a")(steps)
    heads = layers.TimeDistributed(layers.Dense(2, activation="softmax", name="b"))(x)
    pixels = keras.Input((6, 6, 2))
    y = layers.Conv2D(4, 3, name="c")(pixels)
    kinds = layers.Conv2D(1, 3, padding="same", activation="sigmoid", name="d")(y)
    for inputs, outputs, shape in (
        (steps, heads, (None, 6, 3)),
        (pixels, kinds, (None, 4, 4, 3)),
    ):
        model = keras.Model(inputs, outputs)
        student = transfer_ticket(ticket_for(model).apply(model), 3)
        assert student.output_shape == shape
        assert student.layers[-1].activation is keras.activations.softmax
    model = keras.Model(steps, layers.Softmax(axis=1, name="pick")(layers.Dense(1)(x)))
    with pytest.raises(ValueError, match=r"from 'pick' \(Softmax\).*`backbone=`"):
        transfer_ticket(ticket_for(model).apply(model), 3)


def test_a_resizing_layer_in_front_adapts_images(keras):
    student = transfer_ticket(source(keras), 5)
    resized = [keras.Input((9, 7, 1)), keras.layers.Resizing(4, 4), student]
    model = keras.Sequential(resized)
    model.compile("sgd", "mse", run_eagerly=True)
    model.train_on_batch(np.ones((2, 9, 7, 1)), np.zeros((2, 5)))
    assert is_held(student)


def test_numbers_of_numpy_are_numbers(keras, tmp_path):
    student = transfer_ticket(source(keras), np.int64(3), seed=np.int64(4))
    assert student.output_shape == (None, 3)
    student.ticket.save(tmp_path / "a.ticket")


def test_a_float32_output_of_mixed_precision_stays_float32(keras):
    inputs = keras.Input((4,))
    x = keras.layers.Dense(8, dtype="mixed_bfloat16", name="a")(inputs)
    x = keras.layers.Dense(3, dtype="mixed_bfloat16", name="b")(x)
    model = keras.Model(inputs, keras.layers.Softmax(dtype="float32")(x))
    student = transfer_ticket(ticket_for(model).apply(model), 5)
    assert getattr(student.output.dtype, "name", student.output.dtype) == "float32"


def test_an_operation_behind_the_classifier_is_its_activation(keras):
    inputs = keras.Input((4,))
    logits = keras.layers.Dense(3, name="b")(keras.layers.Dense(8, name="a")(inputs))
    if keras.__name__ == "tf_keras":
        import tensorflow as tf

        outputs, strange = tf.nn.softmax(logits), tf.reverse(logits, [1])
    else:
        outputs, strange = keras.ops.softmax(logits), keras.ops.flip(logits, 1)
    model = keras.Model(inputs, outputs)
    student = transfer_ticket(ticket_for(model).apply(model), 5)
    assert student.layers[-1].activation.__name__ == "softmax"
    model = keras.Model(inputs, strange)
    with pytest.raises(ValueError, match=r"no classifier that could be recognized"):
        transfer_ticket(ticket_for(model).apply(model), 5)


def test_a_network_inside_that_does_not_take_the_input_shape_is_an_error(keras):
    body = keras.Sequential(
        [
            keras.layers.Conv2D(4, 3, name="inside"),
            keras.layers.GlobalAveragePooling2D(),
        ],
        name="body",
    )
    body.build((None, 4, 4, 1))
    teacher = around(keras, body)
    assert transfer_ticket(teacher, 5, input_shape=(8, 8, 1)).input_shape[1] == 8
    with pytest.raises(ValueError, match=r"`input_shape` \(8, 8, 3\) does not fit"):
        transfer_ticket(teacher, 5, input_shape=(8, 8, 3))


def test_examples_of_another_shape_are_an_error_at_every_fit(keras):
    student = transfer_ticket(source(keras), 5)
    train(keras, student)
    with pytest.raises(ValueError, match=r"examples of the shape \(5, 5, 1\)"):
        student.fit(*images(shape=(5, 5, 1)), verbose=0)

    class Batches(getattr(keras.utils, "PyDataset", keras.utils.Sequence)):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return images(shape=(5, 5, 1))

    with pytest.raises(ValueError, match=r"examples of the shape \(5, 5, 1\)"):
        student.fit(Batches(), verbose=0)


def test_a_train_step_of_the_sources_own_is_not_kept_which_a_warning_says(keras):
    class Own(keras.Model):
        def train_step(self, data):
            return super().train_step(data)

    plain = lenet(keras)
    own = Own(plain.inputs, plain.outputs)
    with pytest.warns(UserWarning, match="`source` is a Own with its own `train_step`"):
        transfer_ticket(ticket_for(own).apply(own), 5)


def test_a_head_that_draws_nothing_is_taken_as_it_is(keras):
    class Plain(keras.layers.Layer):
        def __init__(self, units):
            super().__init__(name="plain")
            self.dense = keras.layers.Dense(units)

        def call(self, x):
            return self.dense(x)

    head = Plain(3)
    student = transfer_ticket(source(keras), head=head, seed=1)
    assert student.layers[-1] is head
