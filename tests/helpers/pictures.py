"""What a data module gives, held against the bytes it was given, and one run of it from the command line."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from lightning_robust.cli.main import main
from lightning_robust.utils.batch_reader import as_batch
from tests.test_configs import QUICKLY


def same_images(dataset: Any, image: Any, label: Any) -> None:
    """Each sample is this image, bytes [n h w] or [n h w c], divided by 255, with this label."""
    assert len(dataset) == len(image) == len(label)
    for i in range(len(dataset)):
        x, y = dataset[i][:2]
        assert (x.dtype, type(y)) == (torch.float32, int)
        assert torch.equal(x, expected(image[i]))
        assert y == label[i]


def expected(image: np.ndarray) -> torch.Tensor:
    """Bytes [h w] or [h w c] as [c h w] in [0, 1]."""
    planes = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
    return torch.from_numpy(planes.astype(np.float32) / np.float32(255))


def by_position(loader: Any) -> dict[int, torch.Tensor]:
    """The images that a loader gives, by dataset position."""
    return {int(i): x for batch in map(as_batch, loader) for x, i in zip(batch.x, batch.index, strict=True)}


def equal(one: dict[int, torch.Tensor], other: dict[int, torch.Tensor]) -> bool:
    """Whether both have the same images at the same positions."""
    return one.keys() == other.keys() and all(torch.equal(one[i], other[i]) for i in one)


def windows(image: np.ndarray, padding: int, mode: str = "constant") -> dict[bytes, tuple[int, int, bool]]:
    """All crops of bytes [h w c] after padding, plain and mirrored: their pixels to (row, column, mirrored)."""
    h, w = image.shape[:2]
    padded, found = np.pad(image, [(padding, padding), (padding, padding), (0, 0)], mode=mode), {}  # type: ignore[call-overload]
    for row in range(2 * padding + 1):
        for column in range(2 * padding + 1):
            crop = padded[row : row + h, column : column + w]
            for mirrored in (False, True):
                found[(crop[:, ::-1] if mirrored else crop).tobytes()] = (row, column, mirrored)
    return found


def place(x: torch.Tensor, among: dict[bytes, tuple[int, int, bool]]) -> tuple[int, int, bool]:
    """Which of the `windows` an image [c h w] in [0, 1] is; KeyError if none."""
    return among[(x * 255).round().byte().permute(1, 2, 0).contiguous().numpy().tobytes()]


def fit_and_test(folder: Path, data: dict[str, Any], net: dict[str, Any]) -> Any:
    """Adversarial training on one batch and a test of one, by the command line in `folder`; returns the report."""
    attack = {"class_path": "PGD", "init_args": {"threat": {"norm": "linf", "eps": "8/255"}, "steps": 2}}
    recipe = {
        "model": {
            "class_path": "AT",
            "init_args": {"net": {"class_path": "SmallConvNet", "init_args": {"width": 4, **net}}, "attack": attack},
        },
        "data": data,
        "evaluation": {"attacks": {"pgd2": attack}, "fit_attacks": {"pgd2": attack}},
    }
    before = Path.cwd()
    os.chdir(folder)
    try:
        Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
        main(["fit", "--config", "recipe.yaml", *QUICKLY])
        (last,) = Path().glob("runs/*/*/*/checkpoints/last.ckpt")
        main(["test", "--config", "recipe.yaml", *QUICKLY, "--ckpt_path", str(last)])
        (report,) = Path().glob("runs/*/*/test-*/robustness.json")
        return json.loads(report.read_text())
    finally:
        os.chdir(before)
