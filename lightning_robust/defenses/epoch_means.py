"""Means of per-sample values over an epoch, as a module logs them."""

from typing import Any, cast

from torch import Tensor, nn
from torchmetrics import MeanMetric


class EpochMeans(nn.ModuleDict):
    """The means that a module logs, by name; exact over uneven batches and ranks.

    Args:
        attribute: the name under which the module holds this object, by which Lightning finds the means in it.
    """

    def __init__(self, attribute: str) -> None:
        super().__init__()
        self.attribute = attribute

    def log(self, module: Any, name: str, values: Tensor, prog_bar: bool = False, dataloader_idx: int = 0) -> None:
        """Take per-sample values into their epoch's mean, which the module logs.

        Args:
            module: the LightningModule that logs.
            name: what the mean is logged as.
            values: one value for each sample that counts [b].
            prog_bar: whether the progress bar shows it.
            dataloader_idx: the number of the data loader, each of which has a mean of its own.
        """
        key = name.replace("/", "_") + (f"_{dataloader_idx}" if dataloader_idx else "")
        if key not in self:
            self[key] = MeanMetric(nan_strategy="disable").to(module.device)
        mean = cast(MeanMetric, self[key])
        mean.update(values.detach())
        found = f"{self.attribute}.{key}"
        module.log(name, mean, metric_attribute=found, on_step=False, on_epoch=True, prog_bar=prog_bar)
