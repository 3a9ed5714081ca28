"""A data module of a few random images, and a net without batch norm for them."""

import torch
from torch import nn
from torch.utils.data import TensorDataset

from lightning_robust.data import RobustDataModule
from tests.helpers.foreign import images


class Few(RobustDataModule):
    """Random images 1 x 4 x 4 of 3 classes: `n` to train on (after the 4 for validation), 11 to test on."""

    num_classes = 3

    def __init__(self, n: int = 12, batch_size: int = 4, val_size: int = 4, test_size: int = 11, **kwargs: int) -> None:
        super().__init__(batch_size=batch_size, val_size=val_size, **kwargs)
        self.n, self.test_size = n, test_size

    def train_data(self, augment: bool) -> TensorDataset:
        return images(self.n + self.val_size)

    def test_data(self) -> TensorDataset:
        return images(self.test_size, seed=1)


def plain_net(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """Smooth, without batch norm or dropout: a batch's gradient is the mean of its samples'."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3)).to(dtype)


def norm_net(seed: int = 0) -> nn.Sequential:
    """The same with a batch norm in front."""
    return nn.Sequential(nn.BatchNorm2d(1), *plain_net(seed))
