import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from tflottery.tflite.file import encoding


def sparse(shape, share, seed=0):
    generator = np.random.default_rng(seed)
    return generator.normal(size=shape) * (generator.random(shape) < share)


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(
    shape=strategies.lists(strategies.integers(1, 6), min_size=2, max_size=4),
    share=strategies.sampled_from([0.0, 0.05, 0.5, 1.0]),
    data=strategies.data(),
)
def test_every_order_and_level_decodes_to_what_was_encoded(shape, share, data):
    array = sparse(shape, share)
    order = data.draw(strategies.permutations(range(len(shape))))
    levels = data.draw(strategies.integers(1, 2))
    coded = encoding.encode(array, order, levels)
    np.testing.assert_array_equal(encoding.decode(coded), array)
    assert coded.levels == levels


def test_one_compressed_level_lists_rows_and_columns():
    coded = encoding.encode(np.array([[0, 5, 6], [0, 0, 0], [7, 0, 0]]), (0, 1))
    rows, (segments, indices) = coded.dimensions
    assert rows == 3
    assert segments.tolist() == [0, 2, 2, 3]
    assert indices.tolist() == [1, 2, 0]
    assert coded.values.tolist() == [5, 6, 7]


def test_two_compressed_levels_skip_empty_rows():
    coded = encoding.encode(np.array([[0, 5, 6], [0, 0, 0], [7, 0, 0]]), (0, 1), 2)
    (first, rows), (second, columns) = coded.dimensions
    assert (first.tolist(), rows.tolist()) == ([0, 2], [0, 2])
    assert (second.tolist(), columns.tolist()) == ([0, 2, 3], [1, 2, 0])


def test_an_array_of_zeros_keeps_one_stored_zero():
    coded = encoding.encode(np.zeros((2, 3), np.float32), (0, 1))
    assert coded.values.tolist() == [0]
    np.testing.assert_array_equal(encoding.decode(coded), np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("size", "width"), [(255, 1), (256, 1), (257, 2), (65_536, 2), (65_537, 4)]
)
def test_an_index_is_as_narrow_as_the_largest_one_allows(size, width):
    array = np.zeros((2, size), np.float32)
    array[1, -1] = 1
    indices = encoding.encode(array, (0, 1)).dimensions[1][1]
    assert encoding.narrow(indices).itemsize == width


@pytest.mark.parametrize("shape", [(40, 300), (300, 40), (8, 3, 3, 20), (600, 1, 1, 8)])
@pytest.mark.parametrize("share", [0.002, 0.05])
def test_the_cheapest_encoding_is_the_smallest_of_all(shape, share):
    import itertools

    array = sparse(shape, share).astype(np.float32)
    every = [
        encoding.encode(array, order, levels).nbytes
        for order in itertools.permutations(range(len(shape)))
        for levels in (1, 2)
    ]
    assert encoding.cheapest(array).nbytes == min(every)
