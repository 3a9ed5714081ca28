"""Batches after the first: their labels are checked too, and images beyond a limit are left alone."""

import pytest
import torch
from torch.utils.data import ConcatDataset, TensorDataset

import lightning_robust as lr
from lightning_robust.data import CorruptionSuite
from tests.publish.test_evaluate import NET, QUICK, X, Y


def test_a_label_that_is_no_class_is_one_sentence() -> None:
    y = Y.clone()
    y[-1] = 3  # the net has three outputs
    with pytest.raises(ValueError, match=r"below the net's 3 outputs, but range over \[\d, 3\]"):
        lr.evaluate(NET, (X, y), "linf 0.1", "pgd1", batch_size=10, **QUICK)


def test_images_beyond_the_limit_are_not_shown_to_the_net() -> None:
    class Counting(torch.nn.Module):
        seen = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            Counting.seen += len(x)
            return NET(x)

    parts = {("fog", severity): ConcatDataset([TensorDataset(X, Y)] * 10) for severity in range(1, 6)}
    lr.evaluate(Counting(), CorruptionSuite(parts), "linf 0.1", lr.PGD(steps=0), samples=5, batch_size=10, **QUICK)
    assert Counting.seen < 200  # of 1500
