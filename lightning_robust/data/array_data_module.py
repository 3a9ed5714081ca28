"""Images and labels in NumPy files under the usual names."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lightning_robust.data.arrays import array_names, read_array
from lightning_robust.data.inspected_data_module import InspectedDataModule
from lightning_robust.data.statistics import evenly

_NAMES = {
    "train": (("x_train", "y_train"), ("train_images", "train_labels"), ("images", "labels"), ("image", "label")),
    "val": (("x_val", "y_val"), ("val_images", "val_labels")),
    "test": (("x_test", "y_test"), ("test_images", "test_labels")),
}
"""Names of the images and the labels of each split; those without a split's name are a single set."""


class Arrays(InspectedDataModule):
    """Images and labels in an `.npz` archive, or in a folder of `.npy` files, which are read as they are needed.

    The arrays, or files, are called `x_train` and `y_train`, likewise `x_val` and `x_test` if there are such;
    `train_images` and `train_labels`, likewise; or `images` and `labels`, a single set of which a part is held out for
    the test. Images are bytes, or floats in [0, 1], of the form [n h w], [n h w c] or [n c h w]; labels are integers.

    Args:
        root: the archive or the folder.
        axes: order of the images' axes; by default it is seen from their shape, in which 1 or 3 are the channels.
        kwargs: further arguments of `InspectedDataModule` and `RobustDataModule`.

    Raises:
        ValueError: when the data are looked at, for arrays that are missing or of another form.

    Example:
        >>> import tempfile
        >>> file = f"{tempfile.mkdtemp()}/data.npz"
        >>> np.savez(file, images=np.full((40, 8, 8, 3), 51, dtype=np.uint8), labels=np.arange(40) % 4)
        >>> data = Arrays(file)
        >>> data.num_classes, data.in_channels, data.image_size, data.mean
        (4, 3, (8, 8), [0.2, 0.2, 0.2])
    """

    layout = "an .npz archive with x_train, y_train, x_test and y_test, or images and labels (or .npy files so called)"

    def __init__(self, root: str, axes: Literal["NHWC", "NCHW"] | None = None, **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        self.axes = axes

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits of which both images and labels are there."""
        return tuple(split for split in _NAMES if self._names(split) is not None)

    def read(self, split: str) -> tuple[Any, NDArray[Any]]:
        """Return images [n h w] or [n h w c] and labels [n]."""
        names = self._names(split)
        if not self.root.exists():
            raise self.missing_error(self.root)
        if names is None:
            raise self._form_error(f"there are only {', '.join(self._found()) or 'none'}")
        image, label = (self._read(name) for name in names)
        if label.dtype.kind in "iu":
            label = label.astype(np.int64)  # not left in the file, and of a type that torch can count
        return self._images(image, names[0]), label[:, 0] if label.ndim == 2 and label.shape[1] == 1 else label

    def _names(self, split: str) -> tuple[str, str] | None:
        found = self._found()
        return next((pair for pair in _NAMES[split] if {*pair} <= found), None)

    def _found(self) -> set[str]:
        if self.root.is_dir():
            return {path.stem for path in self.root.glob("*.npy")}
        return {*array_names(self.root)} if self.root.is_file() else set()

    def _read(self, name: str) -> NDArray[Any]:
        array: NDArray[Any] = (
            read_array(self.root / f"{name}.npy") if self.root.is_dir() else read_array(self.root, name)
        )
        return array

    def _images(self, image: NDArray[Any], name: str) -> NDArray[Any]:
        """Return images as [n h w] or [n h w c], after a look at their values."""
        if image.ndim not in (3, 4) or not (image.dtype == np.uint8 or image.dtype.kind == "f"):
            raise self._form_error(f"{name} is {image.dtype} {list(image.shape)}")
        if image.dtype.kind == "f":
            some = image[evenly(len(image), 1000)]
            if some.size and not (some.min() >= 0 and some.max() <= 1):
                raise self._form_error(f"{name} has floats from {some.min():.4g} to {some.max():.4g}")
        if image.ndim == 3:
            return image
        last = image.shape[3] in (1, 3)
        if self.axes is None and last == (image.shape[1] in (1, 3)):
            raise ValueError(
                f"The axes of {name} {list(image.shape)} in {self.root} can be read in two ways: set `axes` to NHWC or "
                "NCHW."
            )
        return np.moveaxis(image, 1, 3) if self.axes == "NCHW" or (self.axes is None and not last) else image

    def _form_error(self, what: str) -> ValueError:
        return ValueError(
            f"{self.root} holds no images that can be read ({what}): Arrays expects {self.layout}, images as bytes or "
            "floats in [0, 1] of the form [n h w], [n h w c] or [n c h w], labels as integers [n]."
        )
