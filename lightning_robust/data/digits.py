"""Handwritten digits that come with scikit-learn and need no download."""

from typing import Any

import torch
from torch.utils.data import Dataset, TensorDataset

from lightning_robust.data.data_module import RobustDataModule


class Digits(RobustDataModule):
    """scikit-learn's digits: 1,347 training and 450 test images of 10 classes, 1 x 8 x 8 in [0, 1] (17 grey levels).

    Args:
        batch_size: training samples of a step on each device.
        eval_batch_size: evaluation samples of a step on each device.
        val_size: number of training samples held out for validation.
        unlabelled: number of training images set aside as if they had no label, for `SemiSupervised`.
        kwargs: further arguments of `RobustDataModule`.

    Example:
        >>> data = Digits(batch_size=64, val_size=150, seed=0)
        >>> data.setup()
        >>> len(data.train_set), len(data.val_set), len(data.test_set)
        (1197, 150, 450)
        >>> x, y, index = next(iter(data.train_dataloader()))
        >>> x.shape
        torch.Size([64, 1, 8, 8])

    Reference: E. Alpaydin, C. Kaynak, "Optical recognition of handwritten digits" (UCI, 1998), as packaged by
    scikit-learn's `load_digits`.
    """

    num_classes = 10
    in_channels = 1
    image_size = (8, 8)

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
        """Return the 1,347 training images without the unlabelled ones; there is no augmentation."""
        x, y = self._split()[0].tensors
        return TensorDataset(x[self.unlabelled :], y[self.unlabelled :])

    def test_data(self) -> TensorDataset:
        """Return the 450 test images, a stratified sample."""
        return self._split()[1]

    def unlabelled_data(self, labelled: Dataset[Any]) -> TensorDataset:
        """Return the unlabelled images, each with the label of its nearest labelled image."""
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
