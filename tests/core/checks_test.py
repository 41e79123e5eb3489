"""Checks: which values pass, and the words for those that do not."""

import fractions
import math

import numpy as np
import pytest

from tflottery.core import checks


def test_a_number_is_real_and_fits_a_float():
    for value in (1, 0.5, math.nan, np.float16(2), np.int8(3), fractions.Fraction(1)):
        assert checks.is_number(value)
    for value in (True, np.True_, "1", None, 1j, 10**400, np.ones(1)):
        assert not checks.is_number(value)


def test_a_whole_number_is_of_an_integer_type():
    assert all(map(checks.is_whole, (0, 7, np.uint8(7))))
    assert not any(map(checks.is_whole, (-1, 7.0, True, "7", None, 10**400)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: checks.whole("x", 1, 2),
            "a whole number of at least 2. Received: x=1",
        ),
        (
            lambda: checks.whole("x", 9, at_most=8),
            "a whole number from 0 to 8. Received: x=9",
        ),
        (
            lambda: checks.fraction("x", 1.0, "the share"),
            "in (0, 1), both ends excluded: the share. Received: x=1.0",
        ),
        (
            lambda: checks.check("x", math.inf, checks.POSITIVE),
            "a finite number above 0. Received: x=inf",
        ),
        (
            lambda: checks.choice("x", 1, ("1", "2")),
            "one of '1', '2'. Received: x=1",
        ),
        (
            lambda: checks.check("x", [1], checks.or_none(checks.dict_of(checks.BOOL))),
            "a dict in which each value is True or False, or None. Received: x=[1]",
        ),
    ],
)
def test_an_error_names_the_argument_what_it_must_be_and_what_it_is(call, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        call()
    assert str(caught.value) == f"`x` must be {message}"


def test_what_passes_comes_back_as_pythons_own():
    made = [
        checks.whole("x", np.uint8(3), at_most=3),
        checks.fraction("x", np.float16(0.5)),
    ]
    assert made == [3, 0.5]
    assert list(map(type, made)) == [int, float]
