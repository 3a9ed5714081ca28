"""Images that wait on the device, or travel there as bytes, are those that would have been loaded."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_robust.data import CIFAR10, MNIST, SVHN, Digits, RobustDataModule, SemiSupervised, TinyImageNet
from lightning_robust.data.augmentation import CropAndFlip
from lightning_robust.data.conversion import bytes_to_float, to_byte_tensor
from lightning_robust.defenses import Standard
from lightning_robust.utils.batch_reader import as_batch
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp
from tests.helpers.files import checksums_of, write_cifar10, write_mnist, write_svhn, write_tiny_imagenet

Seen = list[tuple[Tensor, Tensor, Tensor]]


class Recorder(Standard):
    """Keeps what it is given to train and validate on."""

    def __init__(self, pixels: int) -> None:
        super().__init__(nn.Sequential(nn.Flatten(), nn.Linear(pixels, 10)))
        self.seen: Seen = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y, index = as_batch(batch)
        self.seen.append((x.clone(), y.clone(), index.clone()))
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        x, y, index = as_batch(batch)
        self.seen.append((x.clone(), y.clone(), index.clone()))
        super().validation_step(batch, batch_idx)


def seen(data: RobustDataModule, root: Path, pixels: int, trainer: Any = quiet_trainer) -> Seen:
    """Two epochs of the validation's batches and at most twelve to train on."""
    recorder = Recorder(pixels)
    with checksums_of(root):
        trainer(max_epochs=2, limit_train_batches=12, num_sanity_val_steps=0).fit(recorder, data)
    return recorder.seen


DATASETS: dict[str, tuple[Any, Any, int]] = {
    "Digits": (lambda root: None, lambda root, **s: Digits(**s), 64),
    "MNIST": (write_mnist, lambda root, **s: MNIST(str(root), **s), 784),
    "SVHN": (write_svhn, lambda root, **s: SVHN(str(root), **s), 3072),
    "CIFAR10": (write_cifar10, lambda root, **s: CIFAR10(str(root), **s), 3072),
    "CIFAR10 reflected": (write_cifar10, lambda root, **s: CIFAR10(str(root), padding_mode="reflect", **s), 3072),
}


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        *((name, "on_device") for name in DATASETS),
        ("MNIST", "uint8_transfer"),
        ("CIFAR10", "uint8_transfer"),
        ("CIFAR10", "both"),
        ("CIFAR10", "on_device with workers"),
    ],
)
def test_every_batch_is_the_same_to_the_bit(name: str, setting: str, tmp_path: Path) -> None:
    files, make, pixels = DATASETS[name]
    files(tmp_path)
    plain: dict[str, Any] = {"batch_size": 16, "val_size": 20, "seed": 3}
    settings = {"on_device": setting != "uint8_transfer", "uint8_transfer": setting in ("uint8_transfer", "both")}
    workers = 2 if setting.endswith("workers") else 0
    expected = seen(make(tmp_path, **plain), tmp_path, pixels)
    got = seen(make(tmp_path, **plain, **settings, num_workers=workers), tmp_path, pixels)
    assert len(got) == len(expected) > 4
    for a, b in zip(got, expected, strict=True):
        assert [t.dtype for t in a] == [t.dtype for t in b]
        assert all(map(torch.equal, a, b))
    assert not torch.equal(expected[0][0], expected[len(expected) // 2][0])  # augmented or shuffled anew


def test_two_ranks_see_the_same_too(tmp_path: Path) -> None:
    write_cifar10(tmp_path)

    def on(rank: int) -> list[Seen]:
        data = ({"on_device": flag, "batch_size": 8, "val_size": 20, "seed": 3} for flag in (False, True))
        return [seen(CIFAR10(str(tmp_path), **settings), tmp_path, 3072, ddp_trainer) for settings in data]

    for loaded, resident in run_ddp(on):
        assert len(loaded) == len(resident) > 4
        for a, b in zip(loaded, resident, strict=True):
            assert all(map(torch.equal, a, b))


def test_bytes_travel(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    data = CIFAR10(str(tmp_path), batch_size=16, val_size=20, uint8_transfer=True)
    with checksums_of(tmp_path):
        data.setup()
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        assert next(iter(loader))[0].dtype == torch.uint8


def test_images_on_the_device_do_not_travel() -> None:
    data = Digits(on_device=True)
    data.setup()
    drawn, y, index = next(iter(data.train_dataloader()))
    assert drawn.shape == (64, 0)
    assert y.shape == index.shape == (64,)


@pytest.mark.parametrize("mode", ["constant", "reflect"])
@pytest.mark.parametrize(
    ("shape", "size", "padding"), [((32, 32, 3), 32, 4), ((28, 20), 24, 3), ((9, 9, 3), 9, 0), ((8, 10, 3), 6, 1)]
)
def test_a_batch_is_cropped_and_flipped_as_its_images_are(shape: Any, size: int, padding: int, mode: Any) -> None:
    images = np.random.default_rng(0).integers(0, 256, (64, *shape), dtype=np.uint8)
    augment, drawn, alone, after = CropAndFlip(size, padding, mode), [], [], []
    for i, image in enumerate(images):
        torch.manual_seed(i)
        alone.append(augment(image))
        after.append(torch.rand(1))
        torch.manual_seed(i)
        drawn.append(augment.draw(*shape[:2]))
        assert torch.equal(torch.rand(1), after[-1])  # as many numbers were drawn
    together = augment.apply(torch.stack([to_byte_tensor(image) for image in images]), torch.stack(drawn))
    assert torch.equal(bytes_to_float(together), torch.stack(alone))
    assert {int(flip) for *_, flip in drawn} == {0, 1}


class Given(LightningModule):
    """Keeps the batches that it is given to predict."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> int:
        self.seen.append(batch)
        return len(batch)


class Others(Digits):
    """Batches of other kinds, for others' methods."""

    def predict_dataloader(self) -> Any:
        return DataLoader([torch.rand(2, 1, 8, 8), {"x": torch.rand(3)}], batch_size=None)


def test_other_batches_pass_untouched() -> None:
    module = Given()
    quiet_trainer().predict(module, Others())
    assert [type(batch) for batch in module.seen] == [Tensor, dict]
    assert module.seen[0].shape == (2, 1, 8, 8)


def test_another_split_is_gathered_anew() -> None:
    data = Digits(on_device=True, seed=0)
    quiet_trainer(max_epochs=1).fit(Recorder(64), data)
    data.split_seed = 7
    recorder = Recorder(64)
    quiet_trainer(max_epochs=1, num_sanity_val_steps=0, limit_val_batches=0).fit(recorder, data)
    held_out = {data.val_set[i][0].numpy().tobytes() for i in range(len(data.val_set))}
    trained_on = {image.numpy().tobytes() for x, *_ in recorder.seen for image in x}
    assert len(trained_on) == 1197
    assert not held_out & trained_on


def test_nets_in_double_precision_meet_bytes_in_it(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    data = CIFAR10(str(tmp_path), batch_size=16, val_size=20, uint8_transfer=True, on_device=True)
    recorder = Recorder(3072)
    with checksums_of(tmp_path):
        quiet_trainer(max_epochs=1, precision="64-true").fit(recorder, data)
    assert {x.dtype for x, *_ in recorder.seen} == {torch.float64}


class Darkened(TensorDataset):
    def __getitem__(self, i: Any) -> Any:
        x, y = super().__getitem__(i)
        return x / 2, y


class Dark(Digits):
    def train_data(self, augment: bool) -> TensorDataset:
        return Darkened(*super().train_data(augment).tensors)


def test_datasets_that_do_more_than_hold_images_are_refused() -> None:
    data = Dark(on_device=True)
    data.setup()
    with pytest.raises(ValueError, match=r"on_device needs training images that are held in memory"):
        data.train_dataloader()


def test_images_that_bytes_cannot_hold_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"no multiples of 1/255: leave uint8_transfer out"
    ):  # they have 17 grey levels
        quiet_trainer(max_epochs=1, num_sanity_val_steps=0).fit(Recorder(64), Digits(uint8_transfer=True))


def test_images_in_files_are_refused(tmp_path: Path) -> None:
    write_tiny_imagenet(tmp_path)
    data = TinyImageNet(str(tmp_path), val_size=20, on_device=True)
    data.setup()
    with pytest.raises(ValueError, match=r"on_device needs training images that are held in memory"):
        data.train_dataloader()


def test_mixed_sets_are_refused() -> None:
    data = SemiSupervised(Digits(unlabelled=200), batch_size=32, on_device=True)
    data.setup()
    with pytest.raises(ValueError, match=r"on_device needs training images that are held in memory"):
        data.train_dataloader()
