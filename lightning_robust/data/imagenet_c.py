"""ImageNet under common corruptions, from the published folders."""

from typing import Any

from lightning_robust.data.corruptions import CorruptedTestSet, Corruptions
from lightning_robust.data.images import ImageFiles, Images, class_files


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
        names, labels = class_files(first)
        return Corruptions({group: Images(ImageFiles(folder, names), labels) for group, folder in folders.items()})
