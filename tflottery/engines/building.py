"""Building: the weights of a model that has not seen data yet."""

from typing import Any

from tflottery.engines import holding, network
from tflottery.engines.data import first_batch, is_array, map_arrays, rows


def build(model: Any, data: Any) -> None:
    """Builds a model from the first batch of its training data, as `fit` does.

    A model whose `train_step` never calls the model itself is built by tracing that
    step, which runs nothing.

    Raises:
        TypeError: If it is not a Keras model.
        ValueError: If it cannot be built. Repeats what Keras said.
    """
    keras = network.keras_of(model)
    layers = network.all_layers(model)[1:]
    # tf_keras raises if it is asked for the weights of one that is not built.
    if all(layer.built for layer in layers) and model.weights:
        return  # As a model of models that were built by themselves.
    x, y = first_batch(data)
    few = map_arrays(lambda a: rows(a, 0, 32) if is_array(a) else a, (x, y))
    said = ""
    try:
        # Without a `call`, Keras would count the model as built and could not load it.
        if network.can_be_called(model, keras):
            with holding.scope(model):
                model(few[0], training=False)
                if hasattr(model, "_symbolic_build") and model.compiled:
                    # Keras 3 builds the metrics of such a model only, and reads them
                    # even if the model's `train_step` leaves them alone.
                    model._symbolic_build(data_batch=(*few, None))
            return
    except Exception as error:
        said = f"\n{type(error).__name__}: {error}"
    if getattr(model, "optimizer", None) is not None and network.on_tensorflow(keras):
        try:
            trace_step(model, data)
            return
        except Exception as error:
            said += f"\n{type(error).__name__}: {error}"
    raise ValueError(
        f"`model` {model.name!r} is not built, and building it from the first batch of "
        f"`ds` failed. Call it once on a batch yourself. Keras said:{said}"
    )


def trace_step(model: Any, data: Any) -> None:
    """Traces a training step on TensorFlow: makes all variables, runs nothing."""
    import tensorflow as tf

    x, y = first_batch(data)
    batch = map_arrays(
        lambda a: tf.convert_to_tensor(rows(a, 0, 32) if is_array(a) else a),
        x if y is None else (x, y),
    )
    with holding.scope(model):
        tf.function(model.train_step).get_concrete_function(batch)
