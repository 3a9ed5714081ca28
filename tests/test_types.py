from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_robust.types import Batch, as_batch, to_float

X, Y, INDEX = torch.rand(2, 1, 4, 4), torch.tensor([0, 1]), torch.tensor([7, 3])


@pytest.mark.parametrize("given_batch", [(X, Y), [X, Y], (X, Y, INDEX), [X, Y, INDEX], Batch(X, Y), Batch(X, Y, INDEX)])
def test_as_batch_keeps_the_very_tensors(given_batch):
    batch = as_batch(given_batch)
    assert isinstance(batch, Batch)
    assert batch.x is X
    assert batch.y is Y
    assert batch.index is (INDEX if len(given_batch) == 3 and given_batch[2] is not None else None)


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        (X, "a Tensor"),
        ({"x": X, "y": Y}, "a dict"),
        ((X,), "a tuple of Tensor"),
        ((X, Y, INDEX, X), "a tuple of Tensor, Tensor, Tensor, Tensor"),
        ([X, 3], "a list of Tensor, int"),
    ],
)
def test_as_batch_names_what_came(bad, named):
    with pytest.raises(TypeError, match=r"\(x, y\) or \(x, y, index\), or a Batch; got " + named + r"\.$"):
        as_batch(bad)


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
