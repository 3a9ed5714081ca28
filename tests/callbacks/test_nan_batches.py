"""NaN logits of any batch end an evaluation with an error that names it, whichever class they would count as."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_robust.attacks import PGD
from lightning_robust.callbacks import RobustEvaluation
from lightning_robust.defenses import AT
from tests.helpers.ddp import quiet_trainer
from tests.helpers.toys import conv_net


class NaNWhereDark(torch.nn.Module):
    """Class `at` is NaN on dark images."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.net = conv_net(4)
        self.at = at

    def forward(self, x: Tensor) -> Tensor:
        dark = x.flatten(1).mean(1) < 0.1
        out: Tensor = self.net(x).masked_fill(dark[:, None] & (torch.arange(4) == self.at), torch.nan)
        return out


@pytest.mark.parametrize("at", [0, 2])
@pytest.mark.parametrize("label", [0, 2])
def test_nan_in_a_later_batch(at: int, label: int, tmp_path: Path) -> None:
    x = torch.rand(12, 3, 8, 8)
    x[9] = 0
    loader = DataLoader(TensorDataset(x, torch.full((12,), label)), 4)
    evaluation = RobustEvaluation({"pgd": PGD(steps=1)}, figure_samples=0)
    trainer = quiet_trainer(callbacks=[evaluation], default_root_dir=tmp_path)
    with pytest.raises(ValueError, match=r"NaN on 1 samples of batch 2 \(rows 1\)"):
        trainer.test(AT(NaNWhereDark(at)), loader, verbose=False)
