"""The base class of data modules that give another one's images in their own way."""

from collections.abc import Callable, Sequence
from typing import Any

from torch.utils.data import Dataset

from lightning_robust.data.data_module import RobustDataModule


class DataAround(RobustDataModule):
    """Base class of data modules that give another one's images in their own way.

    Classes, channels, statistics, splits and augmentation are the other's; its batch and loading settings are not used.

    Args:
        inner: the other data module.
        kwargs: further arguments of `RobustDataModule`.
    """

    def __init__(self, inner: RobustDataModule, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.inner = inner

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        """Number of the other data module's classes."""
        return self.inner.num_classes

    @property
    def class_names(self) -> Sequence[str] | None:  # type: ignore[override]
        """Names of the classes, if they are known."""
        return self.inner.class_names

    @property
    def in_channels(self) -> int | None:  # type: ignore[override]
        """Channels of the other data module's images."""
        return self.inner.in_channels

    @property
    def image_size(self) -> tuple[int, int] | None:  # type: ignore[override]
        """Height and width of the other data module's images."""
        return self.inner.image_size

    @property
    def mean(self) -> Sequence[float] | None:  # type: ignore[override]
        """Mean of each channel, for nets."""
        return self.inner.mean

    @property
    def std(self) -> Sequence[float] | None:  # type: ignore[override]
        """Standard deviation of each channel, for nets."""
        return self.inner.std

    def further_transforms(self) -> list[Callable[[Any], Any]]:
        """Return the transforms of the other data module's `augmentation`, then those of its own."""
        return [*self.inner.further_transforms(), *self.augmentation]

    def state_dict(self) -> dict[str, Any]:
        """Return a description of what is held out, by this module and by the other."""
        return {**self.inner.state_dict(), **super().state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse a checkpoint whose run held out other samples, also for the test.

        Raises:
            ValueError: if what the checkpoint held out is something else.
        """
        self.inner.load_state_dict({key: value for key, value in state_dict.items() if key != "split"})
        super().load_state_dict(state_dict)

    def prepare_data(self) -> None:
        """Download or unpack what the other data module needs."""
        self.inner.prepare_data()

    def train_data(self, augment: bool) -> Dataset[Any]:
        """Return the other data module's training set."""
        return self.inner.train_data(augment)

    def val_data(self) -> Dataset[Any] | None:
        """Return the other data module's validation set, if it has one of its own."""
        return self.inner.val_data()

    def test_data(self) -> Dataset[Any]:
        """Return the other data module's test set."""
        return self.inner.test_data()
