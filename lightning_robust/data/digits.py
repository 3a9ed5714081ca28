"""The embedded dataset: scikit-learn's handwritten digits, which need no download."""

from typing import Any

import torch
from torch.utils.data import Dataset, TensorDataset

from lightning_robust.data.base import RobustDataModule


class Digits(RobustDataModule):
    """1,797 real images of handwritten digits, 1 x 8 x 8 in [0, 1] (17 grey levels): 1,347 to train, 450 to test.

    Args:
        batch_size: training samples a step on each device.
        eval_batch_size: evaluation samples a step on each device.
        val_size: how many training samples are held out for validation.
        unlabelled: how many training images are kept apart as if they had no label, for `SemiSupervised`.
        kwargs: see `RobustDataModule`.

    Reference: E. Alpaydin, C. Kaynak, "Optical recognition of handwritten digits" (UCI, 1998), as packaged by
    scikit-learn's `load_digits`.
    """

    num_classes = 10

    def __init__(
        self,
        batch_size: int = 64,
        eval_batch_size: int = 450,
        val_size: int = 150,
        unlabelled: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, eval_batch_size=eval_batch_size, val_size=val_size, **kwargs)
        self.unlabelled = unlabelled

    def train_data(self, augment: bool) -> TensorDataset:
        """1,347 images, less the unlabelled ones; no augmentation is defined for them."""
        x, y = self._split()[0].tensors
        return TensorDataset(x[self.unlabelled :], y[self.unlabelled :])

    def test_data(self) -> TensorDataset:
        """450 images, as many of each class as its share."""
        return self._split()[1]

    def unlabelled_data(self, labelled: Dataset[Any]) -> TensorDataset:
        """The unlabelled images, with the label of the nearest labelled one."""
        from sklearn.neighbors import KNeighborsClassifier

        if not self.unlabelled:
            raise ValueError("No digits were kept apart as unlabelled: set Digits' `unlabelled` above 0.")
        known, labels = zip(*(labelled[i] for i in range(len(labelled))), strict=True)  # type: ignore[arg-type]
        images = self._split()[0].tensors[0][: self.unlabelled]
        nearest = KNeighborsClassifier(1).fit(torch.stack(known).flatten(1).numpy(), torch.stack(labels).numpy())
        return TensorDataset(images, torch.from_numpy(nearest.predict(images.flatten(1).numpy())))

    @staticmethod
    def _split() -> tuple[TensorDataset, TensorDataset]:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        train, test = train_test_split(range(len(digits.target)), test_size=450, stratify=digits.target, random_state=0)
        x = torch.from_numpy(digits.images).float().div_(16).unsqueeze(1)
        y = torch.from_numpy(digits.target).long()
        return TensorDataset(x[train], y[train]), TensorDataset(x[test], y[test])
