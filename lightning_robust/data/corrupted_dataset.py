"""A dataset under a common corruption that is computed as images are read."""

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_robust.runtime.rng import derive_seed
from lightning_robust.runtime.seeded import other_generators_seeded
from lightning_robust.utils.extras import import_extra

SEVERITIES = (1, 2, 3, 4, 5)
"""The severities of the common corruptions, from weak to strong."""


class CorruptedDataset(Dataset[tuple[Tensor, Any]]):
    """Dataset of (image [c h w] in [0, 1], label) under one corruption.

    What is random about the corruption depends only on (seed, severity, position).

    Args:
        dataset: a dataset of images of at least 32 x 32 pixels with 1 or 3 channels. Of a corrupted grey image the
            first channel is kept.
        corruption: one of the fifteen `COMMON_CORRUPTIONS`, or speckle_noise, gaussian_blur, spatter, saturate.
        severity: 1 to 5.
        seed: seed of the corruption's random numbers.

    Raises:
        ImportError: without the package imagecorruptions-imaug (the extra `corruptions`).
        ValueError: for an unknown corruption or severity, or images of another size.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> clean = TensorDataset(torch.rand(2, 3, 32, 32), torch.tensor([4, 5]))
        >>> x, y = CorruptedDataset(clean, "contrast", severity=5)[1]
        >>> x.shape, y
        (torch.Size([3, 32, 32]), tensor(5))

    Paper: Hendrycks, Dietterich 2019 (arXiv 1903.12261).
    Reference: imagecorruptions-imaug 1.1.5 (imaug/imagecorruptions), after hendrycks/robustness@8190fe3.
    Deviates: the severities are those of ImageNet-C, made for 224 x 224 pixels; CIFAR-10-C's are milder. The package
    has its own motion blur and elastic transform. Numbers to compare with published ones come from the published files.
    """

    def __init__(self, dataset: Any, corruption: str, severity: int, seed: int = 0) -> None:
        self.dataset = dataset
        self.corruption = corruption
        self.severity = severity
        self.seed = seed
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
        seed = derive_seed(self.seed, self.severity, i) % 2**32
        corrupted = _corrupt(pixels, self.corruption, self.severity, seed)[..., : len(x)]
        return torch.from_numpy(corrupted.copy()).movedim(-1, 0).float().div_(255), y


def _library() -> Any:
    return import_extra("imagecorruptions", "corruptions", package="imagecorruptions-imaug")


def _corrupt(image: Any, corruption: str, severity: int, seed: int) -> Any:
    """Corrupt an image of bytes [h w c] to bytes [h w 3], and leave NumPy's global generator as it was."""
    library = _library()
    takes_seed = "seed" in inspect.signature(library.corruption_dict[corruption]).parameters
    with other_generators_seeded(seed):  # the library draws from NumPy's global generator
        return library.corrupt(image, severity, corruption, **({"seed": seed} if takes_seed else {}))
