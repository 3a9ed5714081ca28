"""CIFAR-10-C and ImageNet-C in their forms on disk: what is read as which corruption and severity, what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_robust.data import CIFAR10C, CIFAR100C, CorruptionDataModule, ImageNetC
from lightning_robust.metrics import COMMON_CORRUPTIONS
from lightning_robust.utils.batch_reader import as_batch
from tests.helpers.ddp import ddp_trainer, run_ddp
from tests.helpers.foreign import ForeignModule

N = 3  # images; each occurs at five severities
CLASSES = ["n01440764", "n01443537"]


def cifar_c(root: Path, names: Any = COMMON_CORRUPTIONS, size: int = 32) -> dict[str, np.ndarray]:
    """Files as published, but of few images."""
    root.mkdir(exist_ok=True)
    generator = np.random.default_rng(0)
    arrays = {name: generator.integers(0, 256, (5 * N, size, size, 3), dtype=np.uint8) for name in names}
    for name, array in arrays.items():
        np.save(root / f"{name}.npy", array)
    np.save(root / "labels.npy", np.tile(np.array([4, 9, 0], dtype=np.uint8), 5))
    return arrays


def imagenet_c(root: Path, names: Any = ("fog", "snow"), severities: Any = range(1, 6)) -> None:
    """Two images of the first class and one of the second, of one grey level for each (corruption, severity)."""
    for c, name in enumerate(names):
        for severity in severities:
            for i, wnid in enumerate([*CLASSES, CLASSES[0]]):
                path = root / name / str(severity) / wnid / f"ILSVRC2012_val_{i:08d}.JPEG"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.full((8, 8, 3), 10 * (5 * c + severity) + i, dtype=np.uint8)).save(path, quality=100)


def test_every_image_of_cifar_10_c_has_its_corruption_severity_and_label(tmp_path: Path) -> None:
    arrays, data = cifar_c(tmp_path), CIFAR10C(str(tmp_path), eval_batch_size=64)
    data.setup("test")
    corruptions = data.test_set.dataset
    assert corruptions.groups == [(name, s) for name in COMMON_CORRUPTIONS for s in range(1, 6)]
    assert len(corruptions) == 15 * 5 * N
    assert data.num_classes == 10
    for x, y, index in map(as_batch, data.test_dataloader()):
        assert (x.dtype, x.shape[1:]) == (torch.float32, (3, 32, 32))
        for image, label, i, g in zip(x, y, index, corruptions.group_of(index), strict=True):
            name, severity = corruptions.groups[int(g)]
            row = (severity - 1) * N + int(i) % N  # severities one after the other
            assert np.array_equal(np.round(255 * image.numpy()).transpose(1, 2, 0), arrays[name][row])
            assert int(label) == [4, 9, 0][int(i) % N]


def test_some_corruptions_and_severities_alone(tmp_path: Path) -> None:
    arrays = cifar_c(tmp_path, ["speckle_noise", "fog"])
    data = CIFAR10C(str(tmp_path), corruptions=["fog", "speckle_noise"], severities=[5, 2])
    data.setup("test")
    assert data.test_set.dataset.groups == [("fog", 5), ("fog", 2), ("speckle_noise", 5), ("speckle_noise", 2)]
    x, _, index = data.test_set[N]
    assert index == N
    assert np.array_equal(np.round(255 * x.numpy()).transpose(1, 2, 0), arrays["fog"][N])  # the first of severity 2


def test_every_image_of_imagenet_c_has_its_corruption_severity_and_label(tmp_path: Path) -> None:
    imagenet_c(tmp_path)
    data = ImageNetC(str(tmp_path), ["snow", "fog"], num_classes=2)
    data.setup("test")
    corruptions = data.test_set.dataset
    assert corruptions.groups == [(name, s) for name in ("snow", "fog") for s in range(1, 6)]
    assert len(corruptions) == 2 * 5 * 3
    for i in range(len(corruptions)):
        x, y, index = data.test_set[i]
        name, severity = corruptions.groups[int(corruptions.group_of(torch.tensor([index])))]
        file, label = [(0, 0), (2, 0), (1, 1)][i % 3]  # class after class
        grey = 10 * (5 * (name == "snow") + severity) + file
        torch.testing.assert_close(x, torch.full((3, 8, 8), grey / 255))
        assert y == label


def test_its_default_are_the_fifteen_of_a_thousand_classes() -> None:
    data = ImageNetC("elsewhere")
    assert tuple(data.corruptions) == COMMON_CORRUPTIONS
    assert data.severities == [1, 2, 3, 4, 5]
    assert (data.num_classes, CIFAR100C("elsewhere").num_classes) == (1000, 100)


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_two_ranks_share_the_samples_and_validate_sees_them_too(stage: str, tmp_path: Path) -> None:
    cifar_c(tmp_path, ["fog"], size=4)

    class Reader(ForeignModule):
        def __init__(self) -> None:
            super().__init__(channels=3)
            self.seen: list[int] = []

        def test_step(self, batch: Any, batch_idx: int) -> int:
            self.seen += batch[2].tolist()
            return 0

        validation_step = predict_step = test_step

    def on(rank: int) -> list[int]:
        reader = Reader()
        data = CIFAR10C(str(tmp_path), corruptions=["fog"], eval_batch_size=2)
        getattr(ddp_trainer(), stage)(reader, datamodule=data)
        return reader.seen

    first, second = run_ddp(on)
    assert sorted(first + second) == list(range(5 * N))


def refused(data: CorruptionDataModule, stage: str = "test") -> str:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        data.setup(stage)
    return str(error.value)


def test_training_is_refused(tmp_path: Path) -> None:
    cifar_c(tmp_path)
    told = refused(CIFAR10C(str(tmp_path)), "fit")
    assert told == "CIFAR10C holds test images alone: train on another dataset and `test` on this."


def test_files_that_are_missing_are_named(tmp_path: Path) -> None:
    told = refused(CIFAR10C(str(tmp_path / "nowhere")))
    assert "There is no" in told
    assert "labels.npy" in told
    assert "it is empty or does not exist" in told
    cifar_c(tmp_path, ["fog", "snow"])
    told = refused(CIFAR10C(str(tmp_path)))
    assert "gaussian_noise.npy: CIFAR10C expects" in told
    assert "it has fog, snow" in told
    imagenet_c(tmp_path / "imagenet", severities=[1, 2])
    told = refused(ImageNetC(str(tmp_path / "imagenet"), ["fog"], num_classes=2))
    assert "There is no" in told
    assert str(Path("fog", "3")) in told
    assert "it has fog, snow" in told


def test_a_class_folder_that_is_missing_is_told(tmp_path: Path) -> None:
    imagenet_c(tmp_path)
    assert "has 2 folders of classes, but num_classes is 1000" in refused(ImageNetC(str(tmp_path), ["fog"]))


def test_a_file_that_is_missing_at_one_severity_is_named(tmp_path: Path) -> None:
    imagenet_c(tmp_path)
    missing = tmp_path / "snow" / "4" / CLASSES[1] / "ILSVRC2012_val_00000001.JPEG"
    missing.unlink()
    data = ImageNetC(str(tmp_path), ["fog", "snow"], num_classes=2)
    data.setup("test")
    with pytest.raises(ValueError, match="ILSVRC2012_val_00000001"):
        [data.test_set[i] for i in range(len(data.test_set))]


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.zeros((5 * N, 32, 32, 3), dtype=np.float32), "must hold bytes [n h w 3], got float32 (15, 32, 32, 3)"),
        (np.zeros((5 * N, 3, 32, 32), dtype=np.uint8), "must hold bytes [n h w 3], got uint8 (15, 3, 32, 32)"),
        (np.zeros((5 * N, 32, 32), dtype=np.uint8), "must hold bytes [n h w 3], got uint8 (15, 32, 32)"),
        (np.zeros((5, 32, 32, 3), dtype=np.uint8), "has 5 images and labels.npy 15: both must have five severities"),
    ],
)
def test_an_array_of_another_form_is_refused(array: np.ndarray, told: str, tmp_path: Path) -> None:
    cifar_c(tmp_path)
    np.save(tmp_path / "snow.npy", array)
    assert told in refused(CIFAR10C(str(tmp_path)))


def test_a_broken_file_and_the_labels_of_cifar_100_are_refused(tmp_path: Path) -> None:
    cifar_c(tmp_path)
    np.save(tmp_path / "labels.npy", np.full(5 * N, 99, dtype=np.uint8))
    assert (
        "labels.npy has 15 images and uint8 labels [15] from 99 to 99: each image needs a class number below 10"
        in refused(CIFAR10C(str(tmp_path)))
    )
    CIFAR100C(str(tmp_path)).setup("test")
    (tmp_path / "fog.npy").write_bytes((tmp_path / "fog.npy").read_bytes()[:200])
    assert "fog.npy cannot be read as a NumPy array" in refused(CIFAR100C(str(tmp_path)))


@pytest.mark.parametrize("severities", [[0], [1, 6], []])
def test_severities_that_do_not_exist_are_refused(severities: list[int]) -> None:
    with pytest.raises(ValueError, match="severities between 1 and 5; got"):
        CIFAR10C("elsewhere", severities=severities)


def test_no_corruptions_are_refused() -> None:
    with pytest.raises(ValueError, match="There must be corruptions"):
        ImageNetC("elsewhere", corruptions=[])


def test_a_damaged_image_and_an_empty_class_are_named(tmp_path: Path) -> None:
    imagenet_c(tmp_path)
    image = tmp_path / "fog" / "1" / CLASSES[1] / "ILSVRC2012_val_00000001.JPEG"
    image.write_bytes(image.read_bytes()[:-20])
    data = ImageNetC(str(tmp_path), ["fog"], num_classes=2)
    data.setup("test")
    with pytest.raises(ValueError, match=r"ILSVRC2012_val_00000001.JPEG is not a whole image"):
        [data.test_set[i] for i in range(len(data.test_set))]
    for path in (tmp_path / "fog" / "1" / CLASSES[1]).iterdir():
        path.unlink()
    assert "lacks images" in refused(data)


@pytest.mark.parametrize(
    ("labels", "told"), [(np.zeros((15, 1), np.uint8), "[15, 1]"), (np.full(15, -1), "from -1 to -1")]
)
def test_labels_of_another_form_are_refused(labels: np.ndarray, told: str, tmp_path: Path) -> None:
    cifar_c(tmp_path)
    np.save(tmp_path / "labels.npy", labels)
    assert told in refused(CIFAR10C(str(tmp_path)))
