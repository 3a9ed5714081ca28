"""Common corruptions of any dataset, for data of which no corrupted set was published."""

from typing import Any

from torch.utils.data import Dataset

from lightning_robust.data.corrupted_dataset import SEVERITIES, CorruptedDataset
from lightning_robust.data.corruption_suite import CorruptionSuite
from lightning_robust.data.data_around import DataAround
from lightning_robust.data.data_module import RobustDataModule
from lightning_robust.metrics import COMMON_CORRUPTIONS


class CommonCorruptions(DataAround):
    """Data module that tests another one's images clean and under common corruptions.

    Training and validation use the other data module's images as they are.

    Args:
        data: the other data module; its own batch and loading settings are not used.
        corruptions: names of the corruptions to test; by default the fifteen common ones.
        severities: severities to test, from 1 to 5; by default all.
        corruption_seed: seed of the corruptions' random numbers.
        kwargs: further arguments of `RobustDataModule`.

    Raises:
        ImportError: in `setup`, as for `CorruptedDataset`.
        ValueError: in `setup`, as for `CorruptedDataset`.
    """

    def __init__(
        self,
        data: RobustDataModule,
        corruptions: list[str] | None = None,
        severities: list[int] | None = None,
        corruption_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(data, **kwargs)
        self.corruptions = list(COMMON_CORRUPTIONS) if corruptions is None else corruptions
        self.severities = list(SEVERITIES) if severities is None else severities
        self.corruption_seed = corruption_seed

    def test_data(self) -> CorruptionSuite:
        """Return the other data module's test set, clean and under every corruption."""
        clean = self.inner.test_data()
        parts: dict[tuple[str, int], Dataset[Any]] = {("clean", 0): clean}
        for name in self.corruptions:
            for severity in self.severities:
                parts[name, severity] = CorruptedDataset(clean, name, severity, self.corruption_seed)
        return CorruptionSuite(parts)
