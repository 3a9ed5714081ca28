"""ImageNet under common corruptions, from the published folders."""

from typing import Any

from lightning_robust.data.corruption_data_module import CorruptionDataModule
from lightning_robust.data.corruption_suite import CorruptionSuite
from lightning_robust.data.image_files import ImageFiles, class_files
from lightning_robust.data.images import Images


class ImageNetC(CorruptionDataModule):
    """ImageNet-C: the validation images of ImageNet under common corruptions, cropped to 224 x 224 pixels.

    The folder holds `<corruption>/<severity>/<class>/<file>.JPEG`. Every corruption and severity has the same files, so
    only the first one's are listed.

    Args:
        root: folder that holds the corruptions.
        corruptions: names of the corruptions to test; by default the fifteen common ones.
        severities: severities to test, from 1 to 5; by default all.
        num_classes: number of class folders: 200 for Tiny ImageNet-C, which has the same form.
        eval_batch_size: samples of a step on each device.
        kwargs: further arguments of `RobustDataModule`; those for training are not used.

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

    def test_data(self) -> CorruptionSuite:
        """Return the images of every corruption and severity, decoded as they are needed."""
        folders = {(c, s): self.root / c / str(s) for c in self.corruptions for s in self.severities}
        for folder in folders.values():
            if not folder.is_dir():
                raise self.missing_error(folder)
        first = next(iter(folders.values()))
        classes = sorted(path.name for path in first.iterdir() if path.is_dir())
        if len(classes) != self.num_classes:
            raise ValueError(f"{first} has {len(classes)} folders of classes, but num_classes is {self.num_classes}.")
        names, labels = class_files(first)
        # one list of names for all groups: 75 of them would take seconds and 170 MB
        return CorruptionSuite({group: Images(ImageFiles(folder, names), labels) for group, folder in folders.items()})
