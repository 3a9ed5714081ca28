"""The base class of data whose classes, channels, size and statistics are read from the data themselves."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset
from torchvision.transforms import v2

from lightning_robust.data.augmentation import CropAndFlip, Padding
from lightning_robust.data.folder_data_module import FolderDataModule
from lightning_robust.data.image_transform import ImageTransform
from lightning_robust.data.images import Images
from lightning_robust.data.pictures import all_grey, is_grey
from lightning_robust.data.splits import Part, Positions, describe_split, train_val_split
from lightning_robust.data.statistics import channel_statistics, evenly


class InspectedDataModule(FolderDataModule):
    """Base class of data that tell by themselves how many classes and channels there are, and how large images are.

    `num_classes`, `class_names`, `in_channels`, `image_size`, `mean` and `std` are looked up when they are first used.
    On the command line they reach the net, unless its own settings say otherwise, and the figures.

    What is split by the data stays so. Of data with only one of `val` and `test`, that one is the test set, which is
    never used to select. What is missing is held out of the training images.

    Args:
        root: where the data are.
        size: height and width that images are brought to: the shorter side is resized and the centre cropped. By
            default images keep their size, which must be the same for all.
        channels: 1 (grey) or 3 (RGB), to which pictures are converted; by default 1 if none for training has colours.
        padding: pixels added on each side before a random crop to the original size, in training.
        padding_mode: "constant" (zeros) or "reflect".
        flip: whether training images are flipped horizontally with probability 1/2.
        crop_scale: smallest and largest share of an image's area, such as [0.08, 1] for photographs, of a random part
            that is resized to the image's size, in training; by default the whole image is taken.
        class_names: names of the classes; by default those that the data tell, if any.
        val_size: number or share of the training images held out for validation. By default the data's own validation
            set, or a tenth of the training images.
        test_size: number or share of all images held out for the test, if the data have no test set.
        stratified: whether every class gives the same share of its samples to what is held out.
        kwargs: further arguments of `RobustDataModule`.

    Raises:
        ValueError: when the data are looked at, if they are missing or have another form than is expected.
    """

    download_hint = "Put the files there, or give another `root`."

    def __init__(
        self,
        root: str = "data",
        size: int | None = None,
        channels: Literal[1, 3] | None = None,
        padding: int = 0,
        padding_mode: Padding = "constant",
        flip: bool = False,
        crop_scale: tuple[float, float] | None = None,
        class_names: list[str] | None = None,
        val_size: int | float | None = None,
        test_size: int | float = 0.2,
        stratified: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, val_size=0.1 if val_size is None else val_size, stratified=stratified, **kwargs)
        self.size = size
        self.channels = channels
        self.padding = padding
        self.padding_mode = padding_mode
        self.flip = flip
        self.crop_scale = crop_scale
        self.test_size = test_size
        self._takes_own_val = val_size is None
        if class_names is not None:
            self.class_names = class_names

    @property
    @abstractmethod
    def splits(self) -> tuple[str, ...]:
        """Which of "train", "val" and "test" the data have."""

    def read_class_names(self) -> Sequence[str] | None:
        """Return the names of the classes, or None if the data do not tell."""
        return None

    @cached_property
    def class_names(self) -> Sequence[str] | None:  # type: ignore[override]
        """Names of the classes, or None if the data do not tell."""
        self.prepare_data()
        return self.read_class_names()

    @cached_property
    def num_classes(self) -> int:  # type: ignore[override]
        """Number of classes: of their names, or one more than the highest label of the training images."""
        if self.class_names is not None:
            return len(self.class_names)
        label = self.stored("train")[1]
        return int(label.max()) + 1 if label.size and label.dtype.kind in "iu" else 0

    @property
    def in_channels(self) -> int:  # type: ignore[override]
        """Number of channels of the images."""
        return self._shape[0]

    @property
    def image_size(self) -> tuple[int, int]:  # type: ignore[override]
        """Height and width of the images in pixels."""
        return self._shape[1:]

    @property
    def mean(self) -> list[float]:  # type: ignore[override]
        """Mean of each channel over training images (see `channel_statistics`)."""
        return self._statistics[0]

    @property
    def std(self) -> list[float]:  # type: ignore[override]
        """Standard deviation of each channel over training images."""
        return self._statistics[1]

    @cached_property
    def _statistics(self) -> tuple[list[float], list[float]]:
        in_memory = isinstance(self.stored("train")[0], np.ndarray)
        return channel_statistics(self.train_data(augment=False), most=5000 if in_memory else 1000)

    @cached_property
    def _shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what `transform` gives."""
        image = self.stored("train")[0]
        if isinstance(image, np.ndarray):
            (h, w), channels = image.shape[1:3], image.shape[3] if image.ndim == 4 else 1
            sizes = {(h, w)}
        else:
            looked_at = [image[i] for i in evenly(len(image), 64)]
            sizes = {(picture.height, picture.width) for picture in looked_at}
            # a colour that a few do not show may be anywhere
            channels = self.channels or (1 if all(map(is_grey, looked_at)) and all_grey(image) else 3)
        if self.size is not None:
            sizes = {(self.size, self.size)}
        if len(sizes) > 1:
            small, large = min(sizes), max(sizes)
            raise ValueError(
                f"The images of {type(self).__name__} in {str(self.root)!r} are of several sizes, from {small} to "
                f"{large}: set `size` to the height and width that all are brought to."
            )
        ((h, w),) = sizes or {(0, 0)}
        return channels, h, w

    def stored(self, split: str) -> tuple[Any, NDArray[Any]]:
        """Return what `read` gives, read once; the labels as an array."""
        if split not in self._splits:
            self.prepare_data()
        image, label = super().stored(split)
        if isinstance(image, np.ndarray) and self.channels is not None:
            image = self._with_channels(image, self.channels)
        return image, label

    def _with_channels(self, image: NDArray[Any], channels: int) -> NDArray[Any]:
        """Return arrays with this number of channels; grey ones are repeated, without a copy."""
        found = image.shape[3] if image.ndim == 4 else 1
        if found == channels:
            return image
        if found != 1:
            raise ValueError(f"The images of {type(self).__name__} have {found} channels: leave `channels` out.")
        grey = image if image.ndim == 4 else image[..., None]
        return np.broadcast_to(grey, (*grey.shape[:3], channels))

    def transform(self, augment: bool) -> Callable[[Any], Any] | None:
        """Return the transform of a stored image; None stands for scaling only."""
        crops = augment and (self.padding > 0 or self.flip)
        arrays = isinstance(self.stored("train")[0], np.ndarray)
        before: list[Callable[[Any], Any]] = []
        if augment and self.crop_scale is not None:
            before.append(v2.RandomResizedCrop(self.image_size, self.crop_scale))
        if arrays and self.size is None and not before:
            crop = CropAndFlip(self.image_size, self.padding, self.padding_mode, self.flip)
            return crop if crops else None
        after: list[Callable[[Any], Any]] = []
        if crops:
            after.append(v2.RandomCrop(self.image_size, self.padding or None, padding_mode=self.padding_mode))
            after += [v2.RandomHorizontalFlip()] if self.flip else []
        return ImageTransform(self._shape, self.size is not None, before, after, keep_colours=self.channels is None)

    def train_data(self, augment: bool) -> Dataset[Any]:
        """Return the training set, with or without augmentation."""
        images = self.images("train", augment)
        return images if self._test_split is None else Part(images, self._test_split[0])

    def val_data(self) -> Images | None:
        """Return the data's own validation set, unless `val_size` asks for another; None if there is none."""
        return self.images("val") if self._takes_own_val and {"val", "test"} <= {*self.splits} else None

    def test_data(self) -> Dataset[Any]:
        """Return the test set: the data's own, or what was held out."""
        if self._test_split is not None:
            return Part(self.images("train"), self._test_split[1])
        return self.images("test" if "test" in self.splits else "val")

    @cached_property
    def _test_split(self) -> tuple[Positions, Positions] | None:
        """Positions that are kept for the training and held out for the test; None if the data have a test set."""
        if {"val", "test"} & {*self.splits}:
            return None
        return train_val_split(self.images("train"), self.test_size, self.split_seed, self.stratified)

    def state_dict(self) -> dict[str, Any]:
        """Return a description of what is held out, which checkpoints keep."""
        if self._test_split is None:
            return super().state_dict()
        kept, held = self._test_split
        return {**super().state_dict(), "test": describe_split(held, len(kept) + len(held))}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse a checkpoint whose run held out other samples for the test: it may have trained on these.

        Raises:
            ValueError: if the checkpoint's samples are others.
        """
        super().load_state_dict(state_dict)
        theirs, ours = state_dict.get("test"), self.state_dict().get("test")
        if ours is not None and theirs not in (None, ours):
            raise ValueError(
                f"The net's training held out other samples for the test ({theirs}) than these data ({ours}), and may "
                "have used them: give the test_size, split_seed and stratified of its config.yaml, which the model "
                "card of an export shows."
            )
