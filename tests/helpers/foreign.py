"""A LightningModule as someone else would have written it, knowing nothing of this package."""

from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class ForeignModule(LightningModule):
    """A classifier with batch norm and dropout that caches a constant at its first forward pass."""

    def __init__(self, channels: int = 1, size: int = 4, num_classes: int = 3, seed: int = 4) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.body = nn.Sequential(
                nn.Conv2d(channels, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Tanh(), nn.Flatten(), nn.Dropout(0.2)
            )
            self.head = nn.Linear(6 * size * size, num_classes)
            nn.init.normal_(self.head.weight, std=0.5)
        self.offset: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.offset is None:
            self.offset = torch.full((1, 1, 1, 1), 0.5, device=x.device)
        return self.head(self.body(x - self.offset))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self(batch[0])

    test_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def images(n: int, channels: int = 1, size: int = 4, num_classes: int = 3, seed: int = 0) -> TensorDataset:
    """`n` random images in [0, 1] with random labels."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, channels, size, size, generator=generator)
    return TensorDataset(x, torch.randint(num_classes, (n,), generator=generator))


def loader(n: int, batch_size: int = 4, **settings: Any) -> DataLoader[Any]:
    """A plain loader of (x, y) over `images`."""
    return DataLoader(images(n, **settings), batch_size)
