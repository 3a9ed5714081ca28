"""Testing a net that has no LightningModule: the module, the data and the trainer around it."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_robust.data import CommonCorruptions
from lightning_robust.data.corruption_data_module import CorruptionDataModule
from lightning_robust.data.corruption_suite import suite_in


class BareNet(LightningModule):
    """Hands a net to a trainer, which moves it to the device.

    Args:
        net: images to whatever holds logits.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Any:
        """Return what the net returns."""
        return self.net(x)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Leave everything to the callback.

        Raises:
            ValueError: for a second data loader.
        """
        if dataloader_idx:
            raise ValueError("The data have several test loaders: give `evaluate` one of them at a time.")


def source_of(data: Any, batch_size: int) -> dict[str, Any]:
    """Return the argument by which `Trainer.test` takes these data.

    Raises:
        TypeError: for data that cannot be read.
    """
    if isinstance(data, LightningDataModule):
        return {"datamodule": data}
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        data = TensorDataset(*data)
    if isinstance(data, Dataset):
        data = DataLoader(data, batch_size=batch_size)
    if not isinstance(data, DataLoader):
        raise TypeError(
            f"Cannot read data of type {type(data).__name__}: give tensors (x, y), a Dataset, a DataLoader or a "
            "LightningDataModule."
        )
    return {"dataloaders": data}


def trainer_in(
    folder: Path, callbacks: list[Callback], source: dict[str, Any], samples: int | None, **devices: Any
) -> Trainer:
    """Return a trainer that tests and leaves nothing but what its callbacks write into the folder.

    Args:
        folder: where they write.
        callbacks: of which all but the first show the progress.
        source: as `source_of` gives it.
        samples: how many are evaluated; no more batches are read. Of corrupted images they are as many of each part.
        devices: the trainer's accelerator, devices and strategy.
    """
    suite = isinstance(source.get("datamodule"), (CommonCorruptions, CorruptionDataModule))
    suite = suite or suite_in(source.get("dataloaders")) is not None
    trainer = Trainer(
        limit_test_batches=None if suite else samples,  # a batch holds at least one
        logger=False,
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_progress_bar=len(callbacks) > 1,
        enable_model_summary=False,
        default_root_dir=folder,
        **devices,
    )
    trainer.run_folder = folder  # type: ignore[attr-defined]  # so that every threat's files lie there
    return trainer


@contextmanager
def left_on_its_device(net: nn.Module) -> Iterator[None]:
    """Move a net back to where it was: Lightning leaves it on the CPU."""
    home = next((parameter.device for parameter in net.parameters()), None)
    try:
        yield
    finally:
        if home is not None:
            net.to(home)


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out what Lightning tells of devices and workers."""
    told = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = told.level
    told.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The '.*dataloader' does not have many workers")
            # what the sampler repeats counts once here
            warnings.filterwarnings("ignore", message="Using `DistributedSampler` with the dataloaders")
            # Lightning's own use of torch: https://github.com/Lightning-AI/pytorch-lightning/issues/21326
            warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
            yield
    finally:
        told.setLevel(level)
