"""Pixels are resized, converted and standardized as hand-worked arrays say."""

import numpy as np
import pytest

from tflottery.lab.data import pixels


def image(*rows):
    return np.array(rows, np.uint8)[None, :, :, None]


def test_a_third_of_the_size_weighs_all_pixels_with_a_triangle():
    # Centre 1.5, reach 3: weights 1/3·(2/3, 1, 2/3), of which none is left out.
    x = image([0, 70, 0], [70, 210, 70], [0, 70, 0])
    w = np.array([2, 3, 2]) / 7
    expected = round(float(w @ x[0, :, :, 0] @ w))
    assert expected == 73
    assert pixels.adapt(x, (1, 1, 1)).tolist() == [[[[73]]]]


def test_twice_the_size_is_between_the_pixels():
    got = pixels.adapt(image([0, 100]).repeat(2, axis=1), (2, 4, 1))
    assert got[0, :, :, 0].tolist() == [[0, 25, 75, 100]] * 2


@pytest.mark.parametrize("size", [(28, 28, 32, 32), (96, 96, 32, 32), (7, 9, 5, 11)])
def test_resizing_is_that_of_tensorflow(size):
    tf = pytest.importorskip("tensorflow")
    x = np.random.default_rng(0).random((2, size[0], size[1], 3), dtype=np.float32)
    expected = tf.image.resize(x, size[2:], antialias=True)
    got = pixels.adapt(x, (*size[2:], 3))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_the_mean_of_a_picture_stays():
    x = np.random.default_rng(0).integers(256, size=(1, 96, 96, 1), dtype=np.uint8)
    got = pixels.adapt(x, (32, 32, 3))
    assert got.shape == (1, 32, 32, 3)
    assert got.mean() == pytest.approx(x.mean(), abs=1)
    assert got.std() < x.std() / 2  # Noise is averaged, not sampled.


def test_grey_becomes_three_equal_channels_and_colour_its_luma():
    grey = image([10, 200])
    assert pixels.adapt(grey, (1, 2, 3)).tolist() == [[[[10] * 3, [200] * 3]]]
    colour = np.array([[[[255, 0, 0], [0, 255, 0], [0, 0, 255]]]], np.uint8)
    assert pixels.adapt(colour, (1, 3, 1)).ravel().tolist() == [76, 150, 29]


def test_images_of_the_right_shape_are_not_touched():
    x = image([1, 2])
    assert pixels.adapt(x, (1, 2, 1)) is x


def test_more_images_than_a_chunk_are_all_adapted(monkeypatch):
    x = np.random.default_rng(0).integers(256, size=(7, 4, 4, 1), dtype=np.uint8)
    whole = pixels.adapt(x, (2, 2, 3))
    statistics = pixels.channel_statistics(x)
    monkeypatch.setattr(pixels, "CHUNK", 3)
    np.testing.assert_array_equal(pixels.adapt(x, (2, 2, 3)), whole)
    np.testing.assert_allclose(pixels.channel_statistics(x), statistics)


@pytest.mark.parametrize("shape", [(32, 32), (32, 32, 2), (0, 32, 3)])
def test_a_shape_that_is_not_of_an_image_is_an_error(shape):
    with pytest.raises(ValueError, match="`input_shape` must be height, width and 1"):
        pixels.adapt(image([1]), shape)
    with pytest.raises(ValueError, match=r"`x` must be images .* shape \(3, 3\)"):
        pixels.adapt(np.zeros((3, 3), np.uint8), (1, 1, 1))


def test_standardized_training_images_have_mean_0_and_deviation_1():
    x = np.random.default_rng(0).integers(256, size=(50, 4, 4, 3), dtype=np.uint8)
    x[..., 1] //= 3
    statistics = pixels.channel_statistics(x)
    got = pixels.standardize(x, statistics)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got.mean(axis=(0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(got.std(axis=(0, 1, 2)), 1, atol=1e-5)


def test_a_channel_without_deviation_is_only_shifted():
    x = np.full((2, 1, 1, 1), 7, np.uint8)
    got = pixels.standardize(x, pixels.channel_statistics(x))
    assert got.ravel().tolist() == [0, 0]
