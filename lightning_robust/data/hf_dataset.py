"""Datasets of the Hugging Face Hub, or of files in the forms that its library reads."""

import io
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lightning_robust.data.inspected_data_module import InspectedDataModule
from lightning_robust.data.pictures import is_grey
from lightning_robust.utils.extras import import_extra
from lightning_robust.utils.messages import describe_error

_SPLITS = {"train": ("train",), "val": ("validation", "valid", "val", "dev"), "test": ("test",)}
"""What datasets call their splits."""

_LABELS = ("label", "labels", "fine_label", "class", "target", "y")
"""Usual names of a column of labels."""

_READERS = {".parquet": "parquet", ".arrow": "arrow", ".tar": "webdataset"}


class HFDataset(InspectedDataModule):
    """A dataset of the Hugging Face Hub by its name, or local files in a form that the package `datasets` reads.

    The columns of images and labels are found by their types (images, class labels) or the usual names of labels,
    unless they are given. Images are decoded as they are needed.

    Args:
        path: name on the Hub, such as "ylecun/mnist"; a folder of parquet files, or of images in folders of classes; or
            a parquet file.
        config: name of one of the dataset's configurations.
        image_column: name of the column of images.
        label_column: name of the column of labels: class labels, integers, or texts, which are numbered in their order.
        options: further arguments of `datasets.load_dataset`, such as {revision: refs/pr/1}.
        kwargs: further arguments of `InspectedDataModule` and `RobustDataModule`.

    Raises:
        ImportError: without the package datasets (the extra `data`).
        ValueError: when the data are looked at, if they cannot be read or a column is not found.
    """

    layout = "a dataset of the Hub, a folder of parquet files or of images in folders of classes, or a parquet file"

    def __init__(
        self,
        path: str,
        config: str | None = None,
        image_column: str | None = None,
        label_column: str | None = None,
        options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(path, **kwargs)
        self.path = path
        self.config = config
        self.image_column = image_column
        self.label_column = label_column
        self.options = options or {}

    def prepare_data(self) -> None:
        """Download the dataset, or convert the files, into the cache of `datasets`."""
        self._tables  # noqa: B018

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that the dataset has."""
        return tuple(self._tables)

    def read_class_names(self) -> list[str] | None:
        """Return the names of the classes, if the column of labels has them."""
        table = self._table("train")
        column = self._label_column(table)
        feature = table.features[column]
        if hasattr(feature, "names"):
            return list(feature.names)
        return sorted(set(table[column])) if feature.dtype in ("string", "large_string") else None

    def read(self, split: str) -> tuple[Any, NDArray[Any]]:
        """Return the images, decoded as they are needed, and labels [n]."""
        table = self._table(split)
        image, label = self._image_column(table), np.asarray(table[self._label_column(table)])
        if label.dtype.kind in "UO":
            number = {name: k for k, name in enumerate(self.class_names or [])}
            label = np.array([number.get(name, -1) for name in label.tolist()])
        images = table.select_columns([image]).cast_column(image, _library().Image())
        return _Column(images, image), label

    @cached_property
    def _tables(self) -> dict[str, Any]:
        """The dataset's table for each split."""
        library = _library()
        place, options = self.path, dict(self.options)
        if self.root.suffix in _READERS and self.root.is_file():
            place, options = _READERS[self.root.suffix], {"data_files": str(self.root), **options}
        elif self.root.exists():
            place = str(self.root)
        try:
            found = library.load_dataset(place, self.config, **options)
        except Exception as error:  # the connection, the Hub and each reader raise their own kinds
            raise ValueError(
                f"`datasets` cannot read {self.path!r} ({describe_error(error)}) HFDataset expects {self.layout}."
            ) from error
        tables = found if isinstance(found, dict) else {"train": found}
        named = {split: next((n for n in names if n in tables), None) for split, names in _SPLITS.items()}
        return {split: tables[name] for split, name in named.items() if name is not None}

    def _table(self, split: str) -> Any:
        if split not in self._tables:
            raise ValueError(f"{self.path!r} has no split {split!r}: it has {', '.join(self._tables) or 'none'}.")
        return self._tables[split]

    def _image_column(self, table: Any) -> str:
        kinds = {name: type(feature).__name__ for name, feature in table.features.items()}
        # files that other libraries wrote hold a structure of bytes and path, without saying that these are images
        raw = [name for name, feature in table.features.items() if isinstance(feature, dict) and "bytes" in feature]
        return self._column("image_column", table, [name for name, kind in kinds.items() if kind == "Image"] or raw)

    def _label_column(self, table: Any) -> str:
        kinds = {name: type(feature).__name__ for name, feature in table.features.items()}
        typed = [name for name, kind in kinds.items() if kind == "ClassLabel"]
        usual = [name for name in _LABELS if kinds.get(name) == "Value"][:1]
        return self._column("label_column", table, typed or usual)

    def _column(self, setting: str, table: Any, candidates: list[str]) -> str:
        """Return the name that was given for a column, or the only candidate."""
        given: str | None = getattr(self, setting)
        known = ", ".join(table.features)
        if given is not None and given not in table.features:
            raise ValueError(f"{self.path!r} has no column {given!r} ({setting}): it has {known}.")
        if given is None and len(candidates) != 1:
            what = f"several may be meant, {', '.join(candidates)}" if candidates else f"it has {known}"
            raise ValueError(f"Which column of {self.path!r} is the {setting}? Set it: {what}.")
        return given or candidates[0]


class _Column:
    """Sequence of the images in a table's only column."""

    def __init__(self, table: Any, name: str) -> None:
        self.table, self.name = table, name

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, i: int) -> Any:
        return self.table[i][self.name]

    def is_grey(self, i: int) -> bool:
        """Return whether an image has no colours, from the head of its file alone."""
        stored = self._files[i][self.name]
        with Image.open(io.BytesIO(stored["bytes"]) if stored["bytes"] else stored["path"]) as image:
            return is_grey(image)

    @cached_property
    def _files(self) -> Any:
        return self.table.cast_column(self.name, _library().Image(decode=False))


def _library() -> Any:
    return import_extra("datasets", "data")
