from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_robust.types import to_float


@given(st.integers(-999, 999), st.integers(1, 999))
def test_to_float_reads_fractions(numerator, denominator):
    assert to_float(f"{numerator}/{denominator}") == float(Fraction(numerator, denominator))


@pytest.mark.parametrize(
    ("text", "value"), [("0.5", 0.5), ("1e-3", 1e-3), (" 8 / 255 ", 8 / 255), (3, 3.0), (0.25, 0.25)]
)
def test_to_float_reads_numbers(text, value):
    assert to_float(text) == value
    assert isinstance(to_float(text), float)


@pytest.mark.parametrize("text", ["", "eight", "8/", "/255", "1/0", "8/255/2"])
def test_to_float_refuses_the_rest(text):
    with pytest.raises(ValueError, match="neither a number nor a fraction such as '8/255'"):
        to_float(text)
