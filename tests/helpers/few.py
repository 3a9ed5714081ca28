"""A data module of a few random images, and a net without batch norm for them."""

from pathlib import Path
from typing import Any

import torch
from lightning import Callback
from torch import nn
from torch.utils.data import TensorDataset

from lightning_robust.data import RobustDataModule
from lightning_robust.models import MaxMahalanobis
from tests.helpers.foreign import images


class Few(RobustDataModule):
    """Random images 1 x 4 x 4 of 3 classes: `n` to train on (after the 4 for validation), 11 to test on."""

    num_classes = 3

    def __init__(self, n: int = 12, batch_size: int = 4, val_size: int = 4, test_size: int = 11, **kwargs: Any) -> None:
        super().__init__(batch_size=batch_size, val_size=val_size, **kwargs)
        self.n, self.test_size = n, test_size

    def train_data(self, augment: bool) -> TensorDataset:
        return images(self.n + self.val_size)

    def test_data(self) -> TensorDataset:
        return images(self.test_size, seed=1)


class Saves(Callback):
    """Saves a checkpoint after one optimizer step, within its epoch."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def plain_net(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """Smooth, without batch norm or dropout: a batch's gradient is the mean of its samples'."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3)).to(dtype)


class DigitsNet(nn.Sequential):
    """The like for the digits, 8 x 8 images of 10 classes, which a configuration can name, `factor` times as sure."""

    def __init__(self, seed: int = 1, factor: float = 1.0) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            super().__init__(nn.Conv2d(1, 4, 3, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(36, 10))
        self[-1].weight.data *= factor


def norm_net(seed: int = 0) -> nn.Sequential:
    """The same with a batch norm in front."""
    return nn.Sequential(nn.BatchNorm2d(1), *plain_net(seed))


def centred(net: nn.Module, scale: float = 2.0, features: int = 4) -> MaxMahalanobis:
    """The net with logits that are minus squared distances from fixed centres, its new layer always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return MaxMahalanobis(net, scale, features)
