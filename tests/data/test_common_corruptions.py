"""The common corruptions as images are read: each does something, the same each time, and more at a higher severity."""

import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_robust.data import CommonCorruptions, CorruptedDataset, Digits, RobustDataModule
from lightning_robust.metrics import COMMON_CORRUPTIONS
from tests.helpers.ddp import quiet_trainer
from tests.helpers.foreign import ForeignModule

GREY = {"brightness", "contrast", "defocus_blur", "zoom_blur", "pixelate", "jpeg_compression"}  # nothing random in them


def pictures(n: int = 2, channels: int = 3, size: int = 32) -> TensorDataset:
    """Smooth colours, in bytes."""
    coarse = torch.rand(n, channels, 6, 6, generator=torch.Generator().manual_seed(0))
    x = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    return TensorDataset((x * 255).round() / 255, torch.arange(n))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name == "glass_blur" else ())  # pixel by pixel
        for name in (*COMMON_CORRUPTIONS, "speckle_noise", "gaussian_blur", "spatter", "saturate")
    ],
)
def test_each_corruption_is_repeatable_random_by_sample_and_grows(name: str) -> None:
    plain = pictures()
    x = plain.tensors[0]
    moved = []
    for severity in (1, 5):
        dataset, state = CorruptedDataset(plain, name, severity), np.random.get_state()[1].copy()  # noqa: NPY002
        out = torch.stack([dataset[i][0] for i in range(2)])
        assert (out.dtype, out.shape) == (torch.float32, x.shape)
        assert 0 <= float(out.min()) <= float(out.max()) <= 1
        assert torch.equal(torch.stack([dataset[i][0] for i in (1, 0)]).flip(0), out)
        assert [dataset[i][1] for i in range(2)] == [0, 1]
        assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002
        moved.append(float((out - x).abs().mean()))
    assert moved[0] > 0.005
    if name not in ("saturate", "glass_blur"):  # 32 pixels are too few for the order of ImageNet-C's severities
        assert moved[1] > moved[0]
    twins = TensorDataset(x[:1].repeat(2, 1, 1, 1), torch.zeros(2))
    same = torch.equal(*(CorruptedDataset(twins, name, 3)[i][0] for i in range(2)))
    other = torch.equal(*(CorruptedDataset(twins, name, 3, seed)[0][0] for seed in (0, 1)))
    assert same == other == (name in GREY | {"gaussian_blur", "saturate"})


def test_noise_and_contrast_are_those_of_the_paper() -> None:
    grey = TensorDataset(torch.full((1, 3, 224, 224), 128 / 255), torch.zeros(1))
    for severity, deviation in enumerate([0.08, 0.12, 0.18], 1):  # further ones are clipped
        noise = CorruptedDataset(grey, "gaussian_noise", severity)[0][0] - 128 / 255
        assert float(noise.std()) == pytest.approx(deviation, rel=0.02)
        assert abs(float(noise.mean())) < 0.01
    x = pictures(1, size=224)
    low = CorruptedDataset(x, "contrast", 5)[0][0]
    torch.testing.assert_close(low.std((1, 2)), 0.05 * x[0][0].std((1, 2)), rtol=0.1, atol=0)


def test_grey_images_stay_grey() -> None:
    for name in ("gaussian_noise", "fog", "jpeg_compression"):
        assert CorruptedDataset(pictures(channels=1), name, 3)[0][0].shape == (1, 32, 32)


class Pictures(RobustDataModule):
    num_classes = 3

    def train_data(self, augment: bool) -> TensorDataset:
        return pictures(8)

    def test_data(self) -> TensorDataset:
        return pictures(3)


def test_another_module_is_trained_on_as_it_is_and_tested_clean_and_corrupted() -> None:
    data = CommonCorruptions(Pictures(), ["fog", "snow"], [1, 4], eval_batch_size=4, val_size=2)
    data.setup()
    assert (len(data.train_set), len(data.val_set), data.num_classes) == (6, 2, 3)
    corruptions = data.test_set.dataset
    assert corruptions.groups == [("clean", 0), ("fog", 1), ("fog", 4), ("snow", 1), ("snow", 4)]
    x = pictures(3).tensors[0]
    assert torch.equal(torch.stack([data.test_set[i][0] for i in range(3)]), x)
    assert torch.equal(data.test_set[7][0], CorruptedDataset(pictures(3), "fog", 4)[1][0])
    assert data.test_set[7][1:] == (1, 7)
    whole = torch.cat([batch[0] for batch in data.test_dataloader()])
    workers = DataLoader(data.test_set, 5, num_workers=2)
    assert torch.equal(torch.cat([batch[0] for batch in workers]), whole)


def test_any_lightning_module_is_tested_on_them() -> None:
    data = CommonCorruptions(Pictures(), ["contrast"], [1])
    quiet_trainer().test(ForeignModule(channels=3, size=32), DataLoader(data.test_data(), 2), verbose=False)


@pytest.mark.parametrize("size", [(1, 8, 8), (3, 32, 31), (4, 32, 32)])
def test_images_that_are_too_small_are_refused(size: tuple[int, int, int]) -> None:
    c, h, w = size
    with pytest.raises(ValueError, match=f"at least 32 x 32 pixels with 1 or 3 channels, got {h} x {w}, {c}: resize"):
        CorruptedDataset(TensorDataset(torch.rand(1, *size), torch.zeros(1)), "fog", 1)


def test_digits_are_too_small() -> None:
    with pytest.raises(ValueError, match="got 8 x 8"):
        CommonCorruptions(Digits()).setup("test")


@pytest.mark.parametrize(("name", "severity"), [("mist", 1), ("fog", 0), ("fog", 6)])
def test_what_does_not_exist_is_refused(name: str, severity: int) -> None:
    with pytest.raises(
        ValueError, match=f"'{name}' at {severity}: corruptions are gaussian_noise, .* severities 1 to 5"
    ):
        CorruptedDataset(pictures(), name, severity)


def test_without_the_package_its_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    with pytest.raises(ImportError, match=r"pip install 'lightning-robust\[corruptions\]'"):
        CommonCorruptions(Pictures()).setup("test")


def test_an_unknown_corruption_of_the_whole_module_is_refused_in_setup() -> None:
    data: Any = CommonCorruptions(Pictures(), ["mist"])
    with pytest.raises(ValueError, match="'mist'"):
        data.setup("test")
