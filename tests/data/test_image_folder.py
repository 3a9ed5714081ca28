"""One's own trees of images: what is read, how it is split, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from lightning_robust.data import ImageFolder
from lightning_robust.data.statistics import evenly
from tests.helpers.pictures import expected, same_images

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 12, 10, 3), dtype=np.uint8)


def tree(root: Path, names: list[str], n: int, first: int = 0, suffix: str = ".png", mode: str = "RGB") -> None:
    """`<root>/<class>/<i><suffix>`, n images for each class."""
    for k, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for i in range(n):
            Image.fromarray(PIXELS[first + k * n + i]).convert(mode).save(root / name / f"{i}{suffix}")


def test_folders_of_splits_are_kept_and_classes_have_the_order_of_their_names(tmp_path: Path) -> None:
    for place, (split, n, first) in enumerate([("train", 5, 0), ("valid", 2, 20), ("test", 3, 28)]):
        tree(tmp_path / split, ["wolf", "cat", "Ant"], n, first)
        (tmp_path / split / ".hidden").mkdir()
        (tmp_path / split / "cat" / "notes.txt").write_text(f"{place}")
    data = ImageFolder(str(tmp_path))
    data.setup()
    assert data.class_names == ["Ant", "cat", "wolf"]
    assert (data.num_classes, data.in_channels, data.image_size) == (3, 3, (12, 10))
    for part, n, first in ((data.train_set, 5, 0), (data.val_set, 2, 20), (data.test_set, 3, 28)):
        written = [first + place * n + i for place in (2, 1, 0) for i in range(n)]  # "Ant" came last
        same_images(part, PIXELS[written], np.repeat([0, 1, 2], n))
    pixels = (PIXELS[:15] / 255).reshape(-1, 3)
    np.testing.assert_allclose([data.mean, data.std], [pixels.mean(0), pixels.std(0)], atol=6e-5)


def test_a_single_tree_is_split_and_a_class_may_be_absent_from_the_test(tmp_path: Path) -> None:
    tree(tmp_path / "a", ["cat", "dog"], 20)
    data = ImageFolder(str(tmp_path / "a"))
    data.setup()
    parts = (data.train_set, data.val_set, data.test_set)
    labels = [[part[i][1] for i in range(len(part))] for part in parts]
    assert [np.bincount(label).tolist() for label in labels] == [[15, 14], [1, 2], [4, 4]]
    tree(tmp_path / "b/train", ["cat", "dog"], 10)
    tree(tmp_path / "b/test", ["dog"], 2)
    data = ImageFolder(str(tmp_path / "b"))
    data.setup("test")
    assert [data.test_set[i][1] for i in range(2)] == [1, 1]


@pytest.mark.parametrize(("modes", "channels"), [(["L", "1"], 1), (["L", "RGB"], 3), (["P", "P"], 3)])
def test_grey_images_have_one_channel_unless_some_have_colours(modes: list[str], channels: int, tmp_path: Path) -> None:
    for name, mode in zip("ab", modes, strict=True):
        tree(tmp_path, [name], 5, mode=mode)
    data = ImageFolder(str(tmp_path))
    data.setup()
    assert data.in_channels == channels == len(data.train_set[0][0])
    assert len(ImageFolder(str(tmp_path), channels=3).mean) == 3
    assert len(ImageFolder(str(tmp_path), channels=1).mean) == 1


def test_images_of_several_sizes_need_one_and_are_resized_as_torchvision_does(tmp_path: Path) -> None:
    tree(tmp_path / "train", ["a", "b"], 4)
    large = np.random.default_rng(1).integers(0, 256, (31, 20, 3), dtype=np.uint8)
    Image.fromarray(large).save(tmp_path / "train/a/large.png")
    tree(tmp_path / "test", ["a", "b"], 2)
    told = r"are of several sizes, from \(12, 10\) to \(31, 20\): set `size` to the height and width"
    with pytest.raises(ValueError, match=told):
        ImageFolder(str(tmp_path)).setup("fit")
    data = ImageFolder(str(tmp_path), size=8, val_size=0)
    data.setup("fit")
    found = {tuple(x.shape) for x, _, _ in map(data.train_set.__getitem__, range(9))}
    assert found == {(3, 8, 8)}
    right = v2.Compose([v2.Resize(8), v2.CenterCrop(8)])(Image.fromarray(large))
    assert torch.equal(data.train_set[4][0], expected(np.asarray(right)))  # after 0 to 3.png


def test_a_size_that_differs_where_nobody_looked_is_told(tmp_path: Path) -> None:
    tree(tmp_path / "train", ["a", "b"], 4)
    tree(tmp_path / "test", ["a", "b"], 1)
    Image.fromarray(PIXELS[0, :7]).save(tmp_path / "test/a/0.png")
    data = ImageFolder(str(tmp_path))
    data.setup()
    with pytest.raises(
        ValueError, match=r"shape \[3, 7, 10\] where the others have \[3, 12, 10\]: set the data's `size`"
    ):
        data.test_set[0]


def test_training_images_are_augmented_and_others_are_not(tmp_path: Path) -> None:
    tree(tmp_path, ["a", "b"], 20)
    plain = ImageFolder(str(tmp_path))
    plain.setup()

    def seen(**settings: Any) -> list[torch.Tensor]:
        data = ImageFolder(str(tmp_path), **settings)
        data.setup()
        for part, other in ((data.val_set, plain.val_set), (data.test_set, plain.test_set)):
            assert all(torch.equal(part[i][0], other[i][0]) for i in range(len(other)))
        torch.manual_seed(0)
        return [data.train_set[i][0] for i in range(len(plain.train_set))]

    originals = [plain.train_set[i][0] for i in range(len(plain.train_set))]
    either = [(torch.equal(x, y), torch.equal(x.flip(2), y)) for x, y in zip(seen(flip=True), originals, strict=True)]
    assert all(any(pair) for pair in either)
    assert 5 < sum(second for _, second in either) < 24
    cropped = seen(padding=2)
    assert {tuple(x.shape) for x in cropped} == {(3, 12, 10)}
    assert sum(torch.equal(x, y) for x, y in zip(cropped, originals, strict=True)) < 8
    mirrored = seen(augmentation=[v2.RandomVerticalFlip(1.0)])
    assert all(torch.equal(x.flip(1), y) for x, y in zip(mirrored, originals, strict=True))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            lambda root: None,
            "There is no .*<class>: ImageFolder expects train/<class>/<image>, with val/<class>/",
        ),
        (
            lambda root: (root / "train").mkdir(),
            "There is no .*train/<class>: ImageFolder expects train/<class>",
        ),
        (
            lambda root: (root / "val/a").mkdir(parents=True),
            "no .*train: ImageFolder expects .* holds only val",
        ),
        (lambda root: (root / "a").mkdir(), "There is no .*a/<image>: ImageFolder expects"),
    ],
)
def test_a_folder_laid_out_differently_is_told_what_is_expected(make: Any, told: str, tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(ValueError, match=told):
        ImageFolder(str(tmp_path)).setup("fit")


def test_a_class_that_training_lacks_and_a_damaged_file_are_told(tmp_path: Path) -> None:
    tree(tmp_path / "train", ["a", "b"], 4)
    tree(tmp_path / "test", ["a", "c"], 1)
    with pytest.raises(ValueError, match=r"test has a class 'c' that the training images lack: they have a, b\."):
        ImageFolder(str(tmp_path)).setup("test")
    (tmp_path / "train/a/0.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"train/a/0.png is not a whole image"):
        ImageFolder(str(tmp_path)).setup("fit")


def test_one_image_in_colour_anywhere_makes_all_so(tmp_path: Path) -> None:
    """Sixty-four images are decoded, of eighty: the one in colour is not among these."""
    for folder in ("a", "b"):
        tree(tmp_path, [folder], 40, mode="L")
    files = ImageFolder(str(tmp_path)).stored("train")[0]
    unseen = min({*range(80)} - {*evenly(80, 64)})
    Image.fromarray(PIXELS[0]).save(tmp_path / files.names[unseen].decode())
    assert ImageFolder(str(tmp_path)).in_channels == 3


def test_a_test_image_in_colour_is_not_made_grey_unless_asked(tmp_path: Path) -> None:
    tree(tmp_path / "train", ["a", "b"], 4, mode="L")
    tree(tmp_path / "test", ["a", "b"], 1)
    data = ImageFolder(str(tmp_path))
    data.setup("test")
    with pytest.raises(ValueError, match=r"in colour but those for training are grey: set the data's `channels` to 3"):
        data.test_set[0]
    for channels in (1, 3):
        data = ImageFolder(str(tmp_path), channels=channels)
        data.setup("test")
        assert len(data.test_set[0][0]) == channels
