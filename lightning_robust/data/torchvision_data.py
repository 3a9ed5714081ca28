"""Any dataset of torchvision that classifies images, by its name."""

import inspect
import tempfile
from functools import cached_property
from typing import Any

import numpy as np
import torchvision.datasets
from numpy.typing import NDArray
from torch import Tensor
from torchvision.datasets import VisionDataset

from lightning_robust.data.inspected_data_module import InspectedDataModule
from lightning_robust.data.statistics import evenly
from lightning_robust.data.torchvision_data_module import TorchvisionDataModule
from lightning_robust.utils.messages import did_you_mean

_SPLIT_NAMES = {"train": ("train", "trainval", "train-standard"), "val": ("val", "valid"), "test": ("test",)}
"""What torchvision's datasets call their splits."""

_LABELS = ("targets", "labels", "_labels", "y", "_samples", "samples", "imgs")
"""Where torchvision's datasets keep their labels, or pairs of a file and a label."""


class TorchvisionData(InspectedDataModule, TorchvisionDataModule):
    """Any dataset of torchvision that classifies images, by the name of its class.

    Its splits are found from the arguments of the class: `train`, or `split` with its values. Of a dataset with neither
    (EuroSAT, SUN397), the test set is held out.

    Args:
        name: the class in `torchvision.datasets`, such as "GTSRB".
        root: the folder, laid out as torchvision does.
        options: further arguments of the class, such as {split: letters} for EMNIST.
        kwargs: further arguments of `InspectedDataModule`, `TorchvisionDataModule` and `RobustDataModule`.

    Raises:
        OSError: as for `TorchvisionDataModule`.
        ValueError: for a name that torchvision does not have; when the data are looked at, if torchvision cannot read
            them or their labels are no class numbers.

    Example:
        >>> data = TorchvisionData("FakeData", options={"size": 50, "image_size": [3, 8, 8], "num_classes": 5})
        >>> data.num_classes, data.in_channels, data.image_size
        (5, 3, (8, 8))
    """

    download_hint = TorchvisionDataModule.download_hint

    def __init__(self, name: str, root: str = "data", options: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        known = {key: getattr(torchvision.datasets, key) for key in torchvision.datasets.__all__}
        known = {key: kind for key, kind in known.items() if inspect.isclass(kind) and issubclass(kind, VisionDataset)}
        if name not in known:
            raise ValueError(f"torchvision has no dataset {name!r}{did_you_mean(name, known)}")
        self.name = name
        self.kind = known[name]
        self.options = options or {}
        self.layout = f"the files of torchvision.datasets.{name}"

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that the dataset has."""
        return tuple(self._arguments)

    def source(self, split: str, download: bool = False) -> Any:
        """Return torchvision's dataset of the split."""
        known = self._parameters
        place = {"root": str(self.root)} if "root" in known else {}
        # never left to the default: it is to download in some
        asked = {"download": download} if "download" in known else {}
        return self.kind(**place, **asked, **self._arguments[split], **self.options)

    def read(self, split: str) -> tuple[Any, NDArray[Any]]:
        """Return the images, as arrays [n h w] or [n h w c] if they are held so, and labels [n]."""
        source = self.load(split)
        return _images(source), self._labels(source)

    def read_class_names(self) -> list[str] | None:
        """Return the names that torchvision's dataset has, if any."""
        source = self.load("train")
        names = next((getattr(source, key) for key in ("classes", "categories") if hasattr(source, key)), None)
        return None if names is None else [name if isinstance(name, str) else ", ".join(name) for name in names]

    @cached_property
    def _parameters(self) -> set[str]:
        """Names of the arguments of the class, and of those bases that it hands further ones on to."""
        found: dict[str, inspect.Parameter] = {}
        for cls in (cls for cls in self.kind.__mro__ if "__init__" in vars(cls)):
            own = inspect.signature(cls.__init__).parameters
            found = {**own, **found}
            if all(parameter.kind != inspect.Parameter.VAR_KEYWORD for parameter in own.values()):
                break
        return {*found}

    @cached_property
    def _arguments(self) -> dict[str, dict[str, Any]]:
        """Arguments of the class that choose each split."""
        if "train" in self._parameters:
            return {"train": {"train": True}, "test": {"train": False}}
        if "split" not in self._parameters or "split" in self.options:
            return {"train": {}}
        found = {split: next(filter(self._takes, names), None) for split, names in _SPLIT_NAMES.items()}
        return {split: {"split": name} for split, name in found.items() if name is not None}

    def _takes(self, split: str) -> bool:
        """Whether the class knows this value of `split`: it refuses any other before it looks for files."""
        with tempfile.TemporaryDirectory() as empty:
            try:
                self.kind(empty, split=split, **self.options)
            except Exception as error:
                return "argument split" not in str(error)
        return True

    def _labels(self, source: Any) -> NDArray[Any]:
        """Return the labels [n], where possible without reading the images."""
        n = len(source)
        checked = evenly(n, 5)
        some = [source[i][1] for i in checked]
        for key in _LABELS:
            kept = getattr(source, key, None)
            if kept is None or len(kept) != n:
                continue
            label = np.asarray([pair[-1] if isinstance(pair, (tuple, list)) else pair for pair in kept])
            if label.shape == (n,) and label.dtype.kind in "iu" and label[checked].tolist() == some:
                return label
        return np.asarray([source[i][1] for i in range(n)])


class _Decoded:
    """Sequence of the images of a torchvision dataset, each read when it is indexed."""

    def __init__(self, source: Any) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> Any:
        return self.source[i][0]


def _images(source: Any) -> Any:
    """Return the dataset's images: the array that it holds, if it is what the dataset gives, else a sequence."""
    data, n = getattr(source, "data", None), len(source)
    array = data.numpy() if isinstance(data, Tensor) else data
    if isinstance(array, np.ndarray) and array.dtype == np.uint8 and array.ndim in (3, 4) and len(array) == n:
        for view in (array, np.moveaxis(array, 1, -1)):
            if all(np.array_equal(view[i], np.asarray(source[i][0])) for i in evenly(n, 5)):
                return view
    return _Decoded(source)
