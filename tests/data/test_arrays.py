"""Images and labels in NumPy files: what is read of them, what nets and figures learn, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from lightning_robust.data import Arrays, CommonCorruptions, Digits, SemiSupervised
from tests.helpers.pictures import by_position, equal, same_images

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (60, 10, 12, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (60, 10, 12), dtype=np.uint8)
LABEL = np.arange(60) % 4


def write(folder: Path, form: str, **arrays: np.ndarray) -> str:
    if form == "npz":
        np.savez(folder / "data.npz", **arrays)
        return str(folder / "data.npz")
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return str(folder)


def halves(image: np.ndarray, label: np.ndarray = LABEL, names: str = "x_{0} y_{0}") -> dict[str, np.ndarray]:
    """The first forty are for training, the others for the test."""
    parts = {"train": slice(40), "test": slice(40, None)}
    return {
        name.format(split): array[part]
        for split, part in parts.items()
        for name, array in zip(names.split(), (image, label), strict=True)
    }


@pytest.mark.parametrize("form", ["npz", "npy"])
@pytest.mark.parametrize("names", ["x_{0} y_{0}", "{0}_images {0}_labels"])
@pytest.mark.parametrize(
    ("stored", "shown"),
    [(GREY, GREY), (GREY[..., None], GREY), (COLOUR, COLOUR), (COLOUR.transpose(0, 3, 1, 2), COLOUR)],
    ids=["NHW", "NHW1", "NHWC", "NCHW"],
)
def test_the_images_are_those_of_the_files(
    form: str, names: str, stored: np.ndarray, shown: np.ndarray, tmp_path: Path
) -> None:
    data = Arrays(write(tmp_path, form, **halves(stored, LABEL[:, None], names)))
    data.setup()
    assert (len(data.train_set), len(data.val_set), len(data.test_set)) == (36, 4, 20)
    same_images(data.test_set, shown[40:], LABEL[40:])
    for part in (data.train_set, data.val_set):
        kept = part.dataset.indices
        same_images(part, shown[kept], LABEL[kept])
    assert sorted([*data.train_set.dataset.indices, *data.val_set.dataset.indices]) == list(range(40))
    assert (data.num_classes, data.in_channels, data.image_size) == (4, 1 if shown.ndim == 3 else 3, (10, 12))


def test_npy_files_are_not_read_as_a_whole(tmp_path: Path) -> None:
    folder = write(tmp_path, "npy", **halves(COLOUR))
    assert isinstance(Arrays(folder).stored("train")[0], np.memmap)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_taken_as_they_are(dtype: Any, tmp_path: Path) -> None:
    image = (COLOUR / 300).astype(dtype)
    data = Arrays(write(tmp_path, "npz", **halves(image)))
    data.setup("test")
    x = torch.stack([data.test_set[i][0] for i in range(20)])
    assert x.dtype == torch.float32
    assert torch.equal(x, torch.from_numpy(image[40:].astype(np.float32)).permute(0, 3, 1, 2))


@pytest.mark.parametrize("shown", [GREY, COLOUR, COLOUR / 255.0], ids=["grey", "colour", "floats"])
def test_the_statistics_are_those_of_the_training_images(shown: np.ndarray, tmp_path: Path) -> None:
    data = Arrays(write(tmp_path, "npz", **halves(shown)))
    pixels = shown[:40].reshape(40 * 120, -1) / (255 if shown.dtype == np.uint8 else 1)
    np.testing.assert_allclose(data.mean, pixels.mean(0), atol=6e-5)
    np.testing.assert_allclose(data.std, pixels.std(0), atol=6e-5)


def test_of_many_images_some_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evenly spaced ones, although the classes stand one after the other and differ in brightness."""
    image = np.repeat(np.arange(200, dtype=np.uint8), 50)[:, None, None] + np.zeros((2, 2), dtype=np.uint8)
    data = Arrays(write(tmp_path, "npz", x_train=image, y_train=np.arange(10000) % 2, x_test=image, y_test=LABEL[:1]))
    read: list[int] = []
    plain = data.train_data(False)
    monkeypatch.setattr(type(plain), "__getitem__", _counted(type(plain).__getitem__, read))
    assert abs(data.mean[0] - image.mean() / 255) < 0.002
    assert abs(data.std[0] - image.std() / 255) < 0.002
    assert len(read) == 5000


def _counted(method: Any, calls: list[int]) -> Any:
    def counted(self: Any, i: int) -> Any:
        calls.append(i)
        return method(self, i)

    return counted


def test_a_single_set_is_split_by_its_seed_with_every_class_in_each_part(tmp_path: Path) -> None:
    label = np.repeat([0, 1, 2], [60, 30, 10])
    image = np.arange(100, dtype=np.uint8)[:, None, None] + np.zeros((4, 4), dtype=np.uint8)
    file = write(tmp_path, "npz", images=image, labels=label)

    def parts(**settings: Any) -> list[list[int]]:
        data = Arrays(file, **settings)
        data.setup()
        return [
            [round(255 * float(part[i][0].max())) for i in range(len(part))]
            for part in (data.train_set, data.val_set, data.test_set)
        ]

    train, val, test = parts()
    assert sorted(train + val + test) == list(range(100))
    assert [np.bincount(label[part]).tolist() for part in (train, val, test)] == [[43, 22, 7], [5, 2, 1], [12, 6, 2]]
    assert parts() == [train, val, test]
    assert parts(val_size=20)[2] == test
    assert parts(split_seed=1)[2] != test
    assert [len(part) for part in parts(test_size=30, val_size=0.1)] == [63, 7, 30]


def test_a_validation_set_of_the_data_is_used_unless_another_size_is_asked_for(tmp_path: Path) -> None:
    parts = {"x_val": GREY[:7], "y_val": LABEL[:7]}
    file = write(tmp_path, "npz", **halves(GREY), **parts)
    data = Arrays(file)
    data.setup()
    assert (len(data.train_set), len(data.val_set), len(data.test_set)) == (40, 7, 20)
    same_images(data.val_set, GREY[:7], LABEL[:7])
    data = Arrays(file, val_size=10)
    data.setup()
    assert (len(data.train_set), len(data.val_set), len(data.test_set)) == (30, 10, 20)


def test_a_validation_set_alone_is_the_test_set(tmp_path: Path) -> None:
    file = write(tmp_path, "npz", x_train=GREY, y_train=LABEL, x_val=GREY[:7], y_val=LABEL[:7])
    data = Arrays(file)
    data.setup()
    assert (len(data.train_set), len(data.val_set)) == (54, 6)
    same_images(data.test_set, GREY[:7], LABEL[:7])


@pytest.mark.parametrize("image", [GREY, COLOUR, COLOUR / np.float32(255)], ids=["grey", "colour", "floats"])
@pytest.mark.parametrize("settings", [{}, {"padding": 2}, {"flip": True}, {"padding": 1, "flip": True}], ids=str)
def test_on_the_device_images_are_the_same(image: np.ndarray, settings: dict[str, Any], tmp_path: Path) -> None:
    file = write(tmp_path, "npz", **halves(image))
    seen = []
    for on_device in (False, True):
        data = Arrays(file, on_device=on_device, seed=0, batch_size=9, **settings)
        data.setup("fit")
        loader = data.train_dataloader()
        images = data._on_device_images
        found = by_position(loader)
        if images is not None:
            found = {}
            for x, _, index in loader:
                whole = images.gather(index, drawn=x)
                whole = whole / torch.tensor(255.0) if whole.dtype == torch.uint8 else whole
                found |= dict(zip(index.tolist(), whole, strict=True))
        seen.append(found)
    assert len(seen[0]) == 36
    assert equal(*seen)
    plain = Arrays(file, seed=0)
    plain.setup("fit")
    same = [torch.equal(x, plain.train_set[i][0]) for i, x in seen[0].items()]
    assert all(same) == (not settings)


def test_images_are_brought_to_the_size_and_colours_that_are_asked_for(tmp_path: Path) -> None:
    file = write(tmp_path, "npz", **halves(GREY))
    data = Arrays(file, size=6, channels=3)
    data.setup()
    assert data.test_set[0][0].shape == data.train_set[0][0].shape == (3, 6, 6)
    assert (data.in_channels, data.image_size, len(data.mean)) == (3, (6, 6), 3)
    plain = Arrays(file, channels=3)
    plain.setup("test")
    same_images(plain.test_set, np.repeat(GREY[40:, ..., None], 3, 3), LABEL[40:])


def test_augmentation_of_torchvision_is_drawn_for_each_sample(tmp_path: Path) -> None:
    file = write(tmp_path, "npz", **halves(COLOUR))
    data = Arrays(file, augmentation=[v2.RandomVerticalFlip()], seed=0)
    plain = Arrays(file)
    data.setup("fit"), plain.setup("fit")
    flipped = 0
    for i, x in by_position(data.train_dataloader()).items():
        y = plain.train_set[i][0]
        assert torch.equal(x, y) or torch.equal(x, y.flip(1))
        flipped += torch.equal(x, y.flip(1))
    assert 5 < flipped < 31
    assert all(torch.equal(data.val_set[i][0], plain.val_set[i][0]) for i in range(4))


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({}, r"there are only none\): Arrays expects an .npz archive with x_train"),
        ({"x_train": GREY}, "there are only x_train"),
        ({"x_train": GREY.astype(int), "y_train": LABEL}, r"x_train is int64 \[60, 10, 12\]"),
        ({"x_train": GREY[0], "y_train": LABEL}, r"x_train is uint8 \[10, 12\]"),
        ({"x_train": GREY.astype(np.float32), "y_train": LABEL}, "x_train has floats from 0 to 255.*Arrays expects"),
        ({"x_train": GREY, "y_train": LABEL[:50]}, r"60 images and int64 labels \[50\]"),
        ({"x_train": GREY, "y_train": LABEL - 1}, "from -1 to 2: each image needs a class number below 3"),
        ({"x_train": GREY, "y_train": LABEL / 2}, "float64 labels"),
        ({"x_train": COLOUR[:, :3], "y_train": LABEL}, "can be read in two ways: set `axes` to NHWC or NCHW"),
        ({"x_train": np.zeros((60, 5, 6, 7), np.uint8), "y_train": LABEL}, "can be read in two ways"),
    ],
)
def test_arrays_of_another_form_are_refused(arrays: dict[str, np.ndarray], told: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=told):
        Arrays(write(tmp_path, "npz", **arrays)).setup("fit")


def test_a_file_that_is_missing_or_no_archive_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"There is no .*none.npz: Arrays expects an .npz archive"):
        Arrays(str(tmp_path / "none.npz")).setup("fit")
    (tmp_path / "bad.npz").write_bytes(b"no zip")
    with pytest.raises(ValueError, match=r"cannot be read as an \.npz archive"):
        Arrays(str(tmp_path / "bad.npz")).setup("fit")


def test_the_axes_can_be_said(tmp_path: Path) -> None:
    data = Arrays(write(tmp_path, "npz", **halves(COLOUR[:, :3])), axes="NHWC")
    assert data.image_size == (3, 12)


def test_a_data_module_around_another_tells_what_it_tells(tmp_path: Path) -> None:
    data = Arrays(write(tmp_path, "npz", **halves(GREY)), class_names=["a", "b", "c", "d"])
    for outer in (SemiSupervised(data), CommonCorruptions(data)):
        told = (outer.num_classes, outer.class_names, outer.in_channels, outer.mean, outer.std)
        assert told == (4, ["a", "b", "c", "d"], 1, data.mean, data.std)


def test_a_share_is_held_out_of_any_data() -> None:
    data = Digits(val_size=0.25)
    data.setup("fit")
    assert (len(data.train_set), len(data.val_set)) == (1010, 337)
    with pytest.raises(ValueError, match="must be at least 0 and below 1, got 1"):
        Digits(val_size=1.5).setup("fit")
