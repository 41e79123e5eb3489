"""Small files and models, pruned at random, for the tests of the export."""

import flatbuffers
import numpy as np

from tflottery.tflite.file import encoding, packing
from tflottery.tflite.file.graph import Graph
from tflottery.tflite.file.packing import schema


def sparse_array(shape, sparsity=0.9, seed=0):
    """Returns normal values of which an exact share is zero."""
    generator = np.random.default_rng(seed)
    array = generator.normal(size=shape).astype(np.float32)
    flat = array.reshape(-1)
    flat[generator.permutation(flat.size)[: round(sparsity * flat.size)]] = 0
    return array


def prune(model, sparsity=0.9, seed=0):
    """Gives a Keras model of either generation random, pruned weights, in place."""
    generator = np.random.default_rng(seed)
    for number, layer in enumerate(model.layers):
        kind = type(layer).__name__
        if kind in ("Dense", "Conv2D"):
            kernel, *bias = layer.get_weights()
            scale = np.sqrt(2 / np.prod(kernel.shape[:-1]) / (1 - sparsity))
            kernel = sparse_array(kernel.shape, sparsity, seed + number) * scale
            biases = [generator.normal(size=b.shape) * 0.1 for b in bias]
            layer.set_weights([kernel, *biases])
        elif kind == "BatchNormalization":
            gamma, beta, mean, variance = layer.get_weights()
            layer.set_weights(
                [
                    generator.uniform(0.8, 1.2, gamma.shape),
                    generator.normal(size=beta.shape) * 0.1,
                    generator.normal(size=mean.shape) * 0.05,
                    generator.uniform(0.8, 1.2, variance.shape),
                ]
            )
    return model


def without_inputs():
    """Returns a Keras 3 model of 3 units that does not define its inputs."""
    import keras

    class Plain(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(3)

        def call(self, x):
            return self.dense(x)

    return Plain()


def one_layer(weight):
    """Returns a dense file of one layer with that weight, rank 2 or 4, and its input.

    Rank 2 is a fully-connected layer, `[outputs, inputs]`; rank 4 a convolution,
    `[outputs, rows, columns, channels]`, over an image of the kernel's own size.
    """
    generated = schema()
    empty = generated.BufferT()
    model, subgraph = generated.ModelT(), generated.SubGraphT()
    model.version, model.buffers, model.operatorCodes = 3, [empty], []
    subgraph.tensors, subgraph.operators = [], []
    subgraph.inputs, subgraph.outputs = np.array([0]), np.array([1])
    model.subgraphs = [subgraph]
    graph = Graph.__new__(Graph)
    graph.model, graph.subgraph = model, subgraph
    outs = weight.shape[0]
    convolution = weight.ndim == 4
    shape = (1, *weight.shape[1:])
    graph.add_tensor(shape)
    graph.add_tensor((1, 1, 1, outs) if convolution else (1, outs))
    read = [0, graph.add_const(weight), graph.add_const(np.zeros(outs, np.float32))]
    if convolution:
        padding = generated.Padding.VALID
        op = graph.op("CONV_2D", read, [1], padding=padding, strideH=1, strideW=1)
    else:
        op = graph.op("FULLY_CONNECTED", read, [1], fusedActivationFunction=0)
    subgraph.operators.append(op)
    values = np.random.default_rng(1).normal(size=(3, *shape[1:])).astype(np.float32)
    return packing.to_bytes(model, keep_names=False), values


def one_uint8_layer(weight, zero_point):
    """Returns `one_layer` in uint8, with a uint8 weight of that zero point."""
    graph = Graph(one_layer(np.ones(weight.shape, np.float32))[0])
    (op,) = graph.operators
    read, weighted, bias = op.inputs
    graph.set_const(weighted, weight)
    graph.set_const(bias, np.arange(len(weight), dtype=np.int32) * 100)
    scales = {read: (0.02, 128), weighted: (0.01, zero_point)}
    scales |= {bias: (0.0002, 0), op.outputs[0]: (0.3, 120)}
    for tensor, (scale, zero) in scales.items():
        graph.tensors[tensor].quantization = packing.table(
            "QuantizationParametersT",
            scale=np.float32([scale]),
            zeroPoint=np.int64([zero]),
        )
        if tensor != bias:
            graph.tensors[tensor].type = schema().TensorType.UINT8
    return graph.to_bytes()


def stored_sparse(graph):
    """Returns the encodings of the sparse constants of a graph."""
    found = (encoding.read(graph, tensor) for tensor in range(len(graph.tensors)))
    return [each for each in found if each is not None]


def with_constants_behind(data):
    """Returns the same file with its constants behind the flatbuffer.

    This is how the converter writes what a flatbuffer of 2 GB cannot hold.
    """
    model = Graph(data).model
    behind = b""
    held = [buffer for buffer in model.buffers if packing.raw(buffer.data)]
    places = []
    for buffer in held:
        places.append(len(behind))
        constant = packing.raw(buffer.data)
        buffer.data, buffer.size = None, len(constant)
        behind += constant + b"\0" * (-len(constant) % packing.ALIGNMENT)
    # Any length but 0 will do at first: its value changes no other byte.
    front, length = b"", packing.ALIGNMENT
    for _ in range(2):
        for buffer, place in zip(held, places, strict=True):
            buffer.offset = length + place
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        front = bytes(builder.Output())
        length = len(front) + -len(front) % packing.ALIGNMENT
    return front.ljust(length, b"\0") + behind
