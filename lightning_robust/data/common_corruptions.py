"""The fifteen common corruptions, computed as images are read: for data of which no corrupted set was published."""

import inspect
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_robust.data.base import RobustDataModule
from lightning_robust.data.corruptions import SEVERITIES, Corruptions
from lightning_robust.metrics import COMMON_CORRUPTIONS
from lightning_robust.runtime.rng import derive_seed


class Corrupted(Dataset[tuple[Tensor, Any]]):
    """A dataset of (image [c h w] in [0, 1], label) under one corruption; what is random depends on (seed, position).

    Args:
        dataset: of images of at least 32 x 32 pixels with 1 or 3 channels (of a grey image, the first one is kept).
        corruption: one of the fifteen `COMMON_CORRUPTIONS`, or speckle_noise, gaussian_blur, spatter, saturate.
        severity: 1 to 5.
        seed: of noise, angles and places.

    Raises:
        ImportError: without the package imagecorruptions-imaug (the extra `corruptions`).
        ValueError: for an unknown corruption or severity, or images of another size.

    Paper: Hendrycks, Dietterich 2019 (arXiv 1903.12261).
    Reference: imagecorruptions-imaug 1.1.5 (imaug/imagecorruptions), after hendrycks/robustness@8190fe3.
    Deviates: the severities are ImageNet-C's, made for 224 x 224 pixels: CIFAR-10-C's are milder. The package has its
    own motion blur and elastic transform. Numbers to compare with published ones come from the published files.
    """

    def __init__(self, dataset: Any, corruption: str, severity: int, seed: int = 0) -> None:
        self.dataset, self.corruption, self.severity, self.seed = dataset, corruption, severity, seed
        names = _library().get_corruption_names("all")
        if corruption not in names or severity not in SEVERITIES:
            raise ValueError(f"{corruption!r} at {severity}: corruptions are {', '.join(names)}; severities 1 to 5.")
        c, h, w = dataset[0][0].shape
        if c not in (1, 3) or min(h, w) < 32:
            raise ValueError(
                f"Common corruptions need images of at least 32 x 32 pixels with 1 or 3 channels, got {h} x {w}, {c}: "
                "resize them first."
            )

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> tuple[Tensor, Any]:
        x, y = self.dataset[i][:2]
        pixels = (x * 255).round().byte().movedim(0, -1).numpy()
        out = _corrupt(pixels, self.corruption, self.severity, derive_seed(self.seed, self.severity, i) % 2**32)
        return torch.from_numpy(out[..., : len(x)].copy()).movedim(-1, 0).float().div_(255), y


class CommonCorruptions(RobustDataModule):
    """Another data module whose test set is seen clean and under common corruptions; it is trained on as it is.

    Args:
        data: the other data module; its own batch and loading settings are not used.
        corruptions: which; by default the fifteen common ones.
        severities: which of 1 to 5; by default all.
        corruption_seed: of noise, angles and places.
        kwargs: see `RobustDataModule`.

    Raises:
        ImportError, ValueError: in `setup`; see `Corrupted`.
    """

    def __init__(
        self,
        data: RobustDataModule,
        corruptions: list[str] | None = None,
        severities: list[int] | None = None,
        corruption_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.data, self.num_classes = data, data.num_classes
        self.corruptions = list(COMMON_CORRUPTIONS) if corruptions is None else corruptions
        self.severities = list(SEVERITIES) if severities is None else severities
        self.corruption_seed = corruption_seed

    def prepare_data(self) -> None:
        """Whatever the other data module has to fetch."""
        self.data.prepare_data()

    def train_data(self, augment: bool) -> Dataset[Any]:
        """The other's training set."""
        return self.data.train_data(augment)

    def test_data(self) -> Corruptions:
        """The other's test set, clean and under every corruption."""
        clean = self.data.test_data()
        groups = [(name, severity) for name in self.corruptions for severity in self.severities]
        return Corruptions({("clean", 0): clean, **{g: Corrupted(clean, *g, self.corruption_seed) for g in groups}})


def _library() -> Any:
    try:
        import imagecorruptions
    except ImportError as error:
        raise ImportError(
            "Common corruptions need the package imagecorruptions-imaug: pip install 'lightning-robust[corruptions]'."
        ) from error
    return imagecorruptions


def _corrupt(image: Any, corruption: str, severity: int, seed: int) -> Any:
    """Bytes [h w c] to bytes [h w 3]; NumPy's global generator, from which the library draws, is left as it was."""
    library = _library()
    seeded = "seed" in inspect.signature(library.corruption_dict[corruption]).parameters
    state = np.random.get_state()  # noqa: NPY002
    try:
        np.random.seed(seed)  # noqa: NPY002
        return library.corrupt(image, severity, corruption, **({"seed": seed} if seeded else {}))
    finally:
        np.random.set_state(state)  # noqa: NPY002
