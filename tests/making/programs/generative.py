"""Programs with a training step or a loss of their own, of many layers or nested."""

from typing import Any

import numpy as np

from making.programs.catalogue import (
    BOTH,
    NO_CALL,
    NO_GRAPH,
    classifier,
    dataset,
    dense,
    momentum,
    numbers,
    own_step,
    part,
    program,
    whole,
)
from tflottery.engines import network

# It draws from its code whenever it is called.
DRAWS = {"export": "what layer 'vae' computes is random"}


@program(own_step, transfer_ticket=part("encoder"), generations=BOTH, **DRAWS)
def vae(keras: Any):
    import tensorflow as tf

    class VAE(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.encoder = dense(keras, 16, 4)
            self.decoder = dense(keras, 16, 12, out="sigmoid")
            self.total = keras.metrics.Mean(name="loss")

        @property
        def metrics(self):
            return [self.total]

        def call(self, x):
            mean, log_variance = tf.split(self.encoder(x), 2, axis=-1)
            noise = tf.random.normal(tf.shape(mean))
            return self.decoder(mean + noise * tf.exp(0.5 * log_variance))

        def train_step(self, data):
            with tf.GradientTape() as tape:
                mean, log_variance = tf.split(self.encoder(data), 2, axis=-1)
                noise = tf.random.normal(tf.shape(mean))
                out = self.decoder(mean + noise * tf.exp(0.5 * log_variance))
                kl = tf.square(mean) + tf.exp(log_variance) - log_variance - 1
                loss = tf.reduce_mean(tf.square(out - data)) + tf.reduce_mean(kl)
            weights = self.trainable_weights
            gradients = tape.gradient(loss, weights)
            self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
            self.total.update_state(loss)
            return {"loss": self.total.result()}

    return VAE(), {"ds": numbers(12), "batch_size": 8, "monitor": "loss"}


def two_optimizers(keras: Any) -> dict[str, Any]:
    return {
        "first": keras.optimizers.Adam(),
        "second": keras.optimizers.RMSprop(),
    }


@program(two_optimizers, transfer_ticket=part("discriminator", cut=True), **NO_CALL)
def gan(keras: Any):
    import tensorflow as tf

    class GAN(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.generator = dense(keras, 16, 12)
            self.discriminator = dense(keras, 16, 1)

        def compile(self, first, second):
            super().compile(jit_compile=False)
            self.generator_optimizer, self.discriminator_optimizer = first, second

        def train_step(self, real):
            count = tf.shape(real)[0]
            noise = tf.random.normal((count, 6))
            loss = keras.losses.BinaryCrossentropy(from_logits=True)
            both = tf.concat([real, self.generator(noise)], 0)
            labels = tf.concat([tf.ones((count, 1)), tf.zeros((count, 1))], 0)
            with tf.GradientTape() as tape:
                critic = loss(labels, self.discriminator(both))
            weights = self.discriminator.trainable_weights
            gradients = tape.gradient(critic, weights)
            self.discriminator_optimizer.apply_gradients(
                zip(gradients, weights, strict=True)
            )
            with tf.GradientTape() as tape:
                judged = self.discriminator(self.generator(noise))
                fooled = loss(tf.ones_like(judged), judged)
            weights = self.generator.trainable_weights
            gradients = tape.gradient(fooled, weights)
            self.generator_optimizer.apply_gradients(
                zip(gradients, weights, strict=True)
            )
            return {"critic_loss": critic, "generator_loss": fooled}

    return GAN(), {"ds": dataset(numbers(12)), "monitor": "generator_loss"}


@program(classifier, transfer_ticket=part("student", cut=True))
def distiller(keras: Any):
    class Distiller(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.teacher = dense(keras, 32, 4, out="softmax")
            self.teacher.trainable = False
            self.student = dense(keras, 8, 4, out="softmax")

        def call(self, x):
            return self.student(x)

        def compute_loss(self, x, y, y_pred, sample_weight=None, training=True):
            hard = super().compute_loss(x, y, y_pred, sample_weight, training)
            soft = keras.losses.kl_divergence(self.teacher(x), y_pred)
            return hard + 0.1 * keras.ops.mean(soft)

    x, y = numbers(6), whole(4)
    return Distiller(), {"ds": x, "y": y, "validation_data": (x, y)}


@program(two_optimizers, transfer_ticket=part("encoder"), **NO_CALL)
def contrastive(keras: Any):
    import tensorflow as tf

    class Contrastive(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.noise = keras.layers.GaussianNoise(0.1)
            self.encoder = dense(keras, 16, 8)
            self.projection = dense(keras, 8, 4)
            self.probe = dense(keras, 3)
            self.accuracy = keras.metrics.SparseCategoricalAccuracy(name="probe_acc")

        @property
        def metrics(self):
            return [self.accuracy]

        def compile(self, first, second):
            super().compile(jit_compile=False)
            self.contrastive_optimizer, self.probe_optimizer = first, second

        def train_step(self, data):
            x, y = data
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            with tf.GradientTape() as tape:
                views = [
                    tf.math.l2_normalize(
                        self.projection(self.encoder(self.noise(x, training=True))), 1
                    )
                    for _ in range(2)
                ]
                similar = tf.matmul(*views, transpose_b=True) / 0.1
                pulled = loss(tf.range(tf.shape(x)[0]), similar)
            weights = [
                *self.encoder.trainable_weights,
                *self.projection.trainable_weights,
            ]
            gradients = tape.gradient(pulled, weights)
            self.contrastive_optimizer.apply_gradients(
                zip(gradients, weights, strict=True)
            )
            features = self.encoder(x)
            with tf.GradientTape() as tape:
                logits = self.probe(features)
                probed = loss(y, logits)
            weights = self.probe.trainable_weights
            gradients = tape.gradient(probed, weights)
            self.probe_optimizer.apply_gradients(zip(gradients, weights, strict=True))
            self.accuracy.update_state(y, logits)
            return {"contrastive_loss": pulled, "probe_acc": self.accuracy.result()}

        def test_step(self, data):
            x, y = data
            self.accuracy.update_state(y, self.probe(self.encoder(x)))
            return {"probe_acc": self.accuracy.result()}

    ds = dataset(numbers(6), whole(3))
    return Contrastive(), {"ds": ds, "validation_data": ds}


@program(lambda keras: {**momentum(keras), "loss": "binary_crossentropy"})
def siamese(keras: Any):
    encoder = dense(keras, 16, 8)
    left, right = keras.Input((6,), name="left"), keras.Input((6,), name="right")
    distance = keras.ops.abs(encoder(left) - encoder(right))
    out = keras.layers.Dense(1, activation="sigmoid")(distance)
    x, y = [numbers(6), numbers(6)[::-1].copy()], whole(2).astype("float32")
    return keras.Model([left, right], out), {"ds": x, "y": y, "validation_split": 0.3}


@program(classifier)
def unet(keras: Any):
    layers = keras.layers
    image = keras.Input((8, 8, 1))
    wide = layers.Conv2D(4, 3, padding="same", activation="relu")(image)
    deep = layers.Conv2D(8, 3, padding="same", activation="relu")(
        layers.MaxPooling2D()(wide)
    )
    up = layers.Conv2DTranspose(4, 2, strides=2, padding="same")(deep)
    both = layers.BatchNormalization()(layers.Concatenate()([wide, up]))
    out = layers.Conv2D(3, 1, activation="softmax")(both)
    x, y = numbers(8, 8, 1), whole(3, 8, 8)
    return keras.Model(image, out), {"ds": dataset(x, y), "validation_data": (x, y)}


@program(classifier)
def graph_convolution(keras: Any):
    class GraphConvolution(keras.layers.Layer):
        def __init__(self, units, **kwargs):
            super().__init__(**kwargs)
            self.units = units

        def build(self, shapes):
            self.w = self.add_weight(shape=(shapes[0][-1], self.units), name="w")

        def call(self, inputs):
            nodes, edges = inputs
            return keras.ops.relu(keras.ops.matmul(edges, nodes @ self.w))

    nodes, edges = keras.Input((5, 6)), keras.Input((5, 5))
    x = GraphConvolution(8, name="first")([nodes, edges])
    x = GraphConvolution(8, name="second")([x, edges])
    x = keras.layers.GlobalAveragePooling1D()(x)
    out = keras.layers.Dense(3, activation="softmax")(x)
    data = ((numbers(5, 6), numbers(5, 5)), whole(3))
    return keras.Model([nodes, edges], out), {
        "ds": dataset(*data),
        "validation_data": dataset(*data),
        "include": ("*/w",),
    }


@program(lambda keras: {**momentum(keras), "loss": "binary_crossentropy"})
def pixel_cnn(keras: Any):
    class MaskedConvolution(keras.layers.Layer):
        def __init__(self, filters, **kwargs):
            super().__init__(**kwargs)
            self.inner = keras.layers.Conv2D(filters, 3, padding="same")

        def build(self, shape):
            self.inner.build(shape)
            kept = np.ones((3, 3, 1, 1), "float32")
            kept[1, 1:], kept[2:] = 0, 0
            self.kept = kept

        def call(self, x):
            self.inner.kernel.assign(self.inner.kernel * self.kept)
            return self.inner(x)

    image = keras.Input((6, 6, 1))
    x = keras.layers.ReLU()(MaskedConvolution(8, name="first")(image))
    x = keras.layers.ReLU()(MaskedConvolution(8, name="second")(x))
    out = keras.layers.Conv2D(1, 1, activation="sigmoid")(x)
    pixels = np.round(numbers(6, 6, 1))
    return keras.Model(image, out), {
        "ds": pixels,
        "y": pixels,
        "validation_data": (pixels, pixels),
    }


@program(own_step, transfer_ticket=part("encoder"))
def no_labels(keras: Any):
    class Autoencoder(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.encoder, self.decoder = dense(keras, 4), dense(keras, 12)

        def call(self, x):
            out = self.decoder(self.encoder(x))
            self.add_loss(keras.ops.mean(keras.ops.square(out - x)))
            return out

    x = numbers(12)
    return Autoencoder(), {"ds": dataset(x), "validation_data": dataset(x)}


def before_endpoint(model: Any) -> Any:
    keras = network.keras_of(model)
    return keras.Model(model.inputs, model.get_layer("hidden").output)


@program(own_step, transfer_ticket={"num_classes": 3, "backbone": before_endpoint})
def endpoint(keras: Any):
    class Endpoint(keras.layers.Layer):
        def call(self, logits, targets=None):
            if targets is not None:
                loss = keras.losses.sparse_categorical_crossentropy(
                    targets, logits, from_logits=True
                )
                self.add_loss(keras.ops.mean(loss))
            return keras.ops.softmax(logits)

    x, targets = keras.Input((6,), name="x"), keras.Input((), name="y", dtype="int32")
    hidden = keras.layers.Dense(16, activation="relu", name="hidden")(x)
    logits = keras.layers.Dense(4)(hidden)
    out = Endpoint(name="endpoint")(logits, targets)
    data = {"x": numbers(6), "y": whole(4).astype("int32")}
    return keras.Model({"x": x, "y": targets}, out), {
        "ds": data,
        "validation_data": dataset(data),
    }


@program(own_step, transfer_ticket=part("energy", cut=True), **NO_CALL)
def layers_in_step(keras: Any):
    import tensorflow as tf

    class Energy(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.energy = dense(keras, 16, 1)
            self.value = keras.metrics.Mean(name="energy_error")

        @property
        def metrics(self):
            return [self.value]

        def train_step(self, x):
            with tf.GradientTape() as tape:
                noise = tf.random.normal(tf.shape(x))
                gap = tf.reduce_mean(self.energy(x)) - tf.reduce_mean(
                    self.energy(noise)
                )
                loss = tf.math.softplus(gap)
            weights = self.trainable_variables
            gradients = tape.gradient(loss, weights)
            self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
            self.value.update_state(loss)
            return {"energy_error": self.value.result()}

    return Energy(), {"ds": dataset(numbers(6))}


@program(classifier, evaluate_first=True, **NO_GRAPH)
def sharpness_aware(keras: Any):
    import tensorflow as tf

    class SharpnessAware(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.inner = dense(keras, 16, 3, out="softmax")

        def call(self, x):
            return self.inner(x)

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = self.compute_loss(x, y, self(x, training=True))
            weights = self.trainable_variables
            moves = [0.01 * g for g in tape.gradient(loss, weights)]
            for weight, move in zip(weights, moves, strict=True):
                weight.assign_add(move)
            with tf.GradientTape() as tape:
                loss = self.compute_loss(x, y, self(x, training=True))
            gradients = tape.gradient(loss, weights)
            for weight, move in zip(weights, moves, strict=True):
                weight.assign_sub(move)
            self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
            return {"loss": loss}

    data = (numbers(6), whole(3))
    return SharpnessAware(), {"ds": data, "validation_data": data}
