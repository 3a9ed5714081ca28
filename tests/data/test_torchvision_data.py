"""Datasets of torchvision by their name: splits, images and labels are what torchvision gives."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.datasets
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from lightning_robust.data import TorchvisionData
from tests.helpers.files import checksums_of, write_cifar10, write_mnist, write_svhn

RNG = np.random.default_rng(0)


def picture(path: Path, size: int = 9) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path)


def gtsrb(root: Path) -> None:
    base, rows = root / "gtsrb", ["Filename;Width;ClassId"]
    for k in range(3):
        for i in range(6):
            picture(base / f"GTSRB/Training/{k:05d}/{i}.ppm")
        picture(base / f"GTSRB/Final_Test/Images/{k}.ppm")
        rows.append(f"{k}.ppm;9;{k}")
    (base / "GT-final_test.csv").write_text("\n".join(rows))


def eurosat(root: Path) -> None:
    for name in ("Forest", "River"):
        for i in range(10):
            picture(root / f"eurosat/2750/{name}/{i}.jpg")


def dtd(root: Path) -> None:
    base = root / "dtd/dtd"
    names = [f"{name}/{name}_{i}.jpg" for name in ("dotted", "banded") for i in range(9)]
    for name in names:
        picture(base / "images" / name)
    (base / "labels").mkdir()
    for place, split in enumerate(("train", "val", "test")):
        (base / f"labels/{split}1.txt").write_text("".join(f"{name}\n" for name in names[place::3]))


fashion = partial(write_mnist, where="FashionMNIST/raw")

CASES: dict[str, tuple[Callable[[Path], Any], dict[str, dict[str, Any]], bool]] = {
    "GTSRB": (gtsrb, {"train": {"split": "train"}, "test": {"split": "test"}}, False),
    "EuroSAT": (eurosat, {"train": {}}, False),
    "DTD": (dtd, {split: {"split": split} for split in ("train", "val", "test")}, False),
    "FashionMNIST": (
        partial(write_mnist, where="FashionMNIST/raw"),
        {"train": {"train": True}, "test": {"train": False}},
        True,
    ),
    "CIFAR10": (write_cifar10, {"train": {"train": True}, "test": {"train": False}}, True),
    "SVHN": (write_svhn, {"train": {"split": "train"}, "test": {"split": "test"}}, True),
}


@pytest.mark.parametrize("name", CASES)
def test_splits_images_and_labels_are_those_of_torchvision(name: str, tmp_path: Path) -> None:
    write, splits, in_memory = CASES[name]
    write(tmp_path)
    with checksums_of(tmp_path):
        data = TorchvisionData(name, str(tmp_path))
        data.prepare_data()
        data.setup()
        assert set(data.splits) == set(splits)
        names = None
        for split, arguments in splits.items():
            theirs = getattr(torchvision.datasets, name)(tmp_path, **arguments)
            ours, names = data.images(split), getattr(theirs, "classes", None)
            assert len(ours) == len(theirs)
            for i in range(len(ours)):
                (x, y), (image, label) = ours[i], theirs[i]
                assert torch.equal(x, pil_to_tensor(image).float() / 255)
                assert y == label
            assert isinstance(ours.image, np.ndarray) == in_memory
    assert data.class_names == names
    label = data.stored("train")[1]
    assert data.num_classes == (len(names) if names else label.max() + 1)
    train = data.train_data(False)
    pixels = np.concatenate([train[i][0].flatten(1).numpy() for i in range(len(train))], 1)
    np.testing.assert_allclose([data.mean, data.std], [pixels.mean(1), pixels.std(1)], atol=1e-4)
    assert sum(map(len, (data.train_set, data.val_set, data.test_set))) == sum(len(data.images(s)) for s in splits)


def test_labels_are_read_without_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gtsrb(tmp_path)
    read: list[int] = []
    kind = torchvision.datasets.GTSRB
    get = kind.__getitem__
    monkeypatch.setattr(kind, "__getitem__", lambda self, i: [read.append(i), get(self, i)][1])
    assert TorchvisionData("GTSRB", str(tmp_path)).stored("train")[1].tolist() == sorted([0, 1, 2] * 6)
    assert len(read) <= 5


def test_a_download_is_torchvisions_and_happens_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def download(self: Any) -> None:
        calls.append(self._split)
        if not (tmp_path / "gtsrb").exists():
            gtsrb(tmp_path)

    monkeypatch.setattr(torchvision.datasets.GTSRB, "download", download)
    assert TorchvisionData("GTSRB", str(tmp_path), download=True).num_classes == 3  # asked for, and so fetched
    assert calls == ["train"]
    TorchvisionData("GTSRB", str(tmp_path), download=True).prepare_data()
    assert calls == ["train"]


def test_a_name_that_there_is_not_and_missing_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"torchvision has no dataset 'CIFAR11'; did you mean 'CIFAR10'\?"):
        TorchvisionData("CIFAR11")
    told = r"torchvision cannot read the train set of GTSRB in .* Set `download: true`"
    with pytest.raises(ValueError, match=told):
        TorchvisionData("GTSRB", str(tmp_path)).setup("fit")


def test_options_reach_the_class(tmp_path: Path) -> None:
    data = TorchvisionData("FakeData", options={"size": 30, "image_size": [3, 5, 6], "num_classes": 4})
    data.setup()
    parts = (data.train_set, data.val_set, data.test_set)
    assert (data.num_classes, data.image_size, sum(map(len, parts))) == (4, (5, 6), 30)
    letters = TorchvisionData("EMNIST", str(tmp_path), options={"split": "letters"})
    assert letters.splits == ("train", "test")
