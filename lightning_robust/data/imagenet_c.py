"""ImageNet under common corruptions, from the published folders."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import default_loader
from torchvision.transforms.v2 import functional as F

from lightning_robust.data.corruptions import CorruptedTestSet, Corruptions


class ImageNetC(CorruptedTestSet):
    """ImageNet-C: `<root>/<corruption>/<severity>/<class>/<file>.JPEG`, central crops of 224 x 224 already.

    The files of one severity are those of every other, so the folder of the first is read alone.

    Args:
        root: the folder of the corruptions.
        corruptions: which of them; by default the fifteen common ones.
        severities: which of 1 to 5; by default all.
        num_classes: how many class folders there are: 200 for Tiny ImageNet-C, which has the same form.
        eval_batch_size: samples a step on each device.
        kwargs: see `RobustDataModule`; the settings of training are not used.

    Paper: Hendrycks, Dietterich 2019 (arXiv 1903.12261); files: doi 10.5281/zenodo.2235448.
    """

    def __init__(
        self,
        root: str,
        corruptions: list[str] | None = None,
        severities: list[int] | None = None,
        num_classes: int = 1000,
        eval_batch_size: int = 256,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, corruptions, severities, eval_batch_size, **kwargs)
        self.num_classes = num_classes

    def test_data(self) -> Corruptions:
        """The images of every corruption and severity, decoded as they are needed."""
        folders = {(c, s): self.root / c / str(s) for c in self.corruptions for s in self.severities}
        for folder in folders.values():
            if not folder.is_dir():
                raise self._missing(folder)
        first = next(iter(folders.values()))
        classes = sorted(path.name for path in first.iterdir() if path.is_dir())
        if len(classes) != self.num_classes:
            raise ValueError(f"{first} has {len(classes)} folders of classes, but num_classes is {self.num_classes}.")
        files = [(str(Path(path).relative_to(first)), label) for path, label in ImageFolder(str(first)).samples]
        return Corruptions({group: _Files(folder, files) for group, folder in folders.items()})


class _Files(Dataset[tuple[Tensor, int]]):
    """Image files below a folder, with labels."""

    def __init__(self, root: Path, files: list[tuple[str, int]]) -> None:
        self.root, self.files = root, files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        name, label = self.files[i]
        image = F.pil_to_tensor(default_loader(str(self.root / name)))
        return F.to_dtype(image, torch.float32, scale=True), label
