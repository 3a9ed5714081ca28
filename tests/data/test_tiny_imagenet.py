"""Tiny ImageNet: its folders, its list of test labels, its augmentation, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_robust.data import TinyImageNet
from tests.helpers.files import Files, write_tiny_imagenet
from tests.helpers.pictures import by_position, equal, expected, fit_and_test, place, windows


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Files]:
    """Written once: 600 files; tests that change something copy it."""
    root = tmp_path_factory.mktemp("tiny")
    return root, write_tiny_imagenet(root, per_class=2)


def decoded(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_pixels_and_labels_are_those_of_the_files(tree: tuple[Path, Files]) -> None:
    root, written = tree
    data = TinyImageNet(str(root), val_size=50)
    data.setup()
    whole = data.train_data(augment=False)
    found = {}
    for name, dataset, n in (("train", whole, 400), ("test", data.test_set, 200)):
        assert len(dataset) == n
        found[name] = {dataset[i][0].numpy().tobytes(): dataset[i][1] for i in range(n)}
        assert found[name] == {expected(decoded(path)).numpy().tobytes(): k for path, k in written[name]}
    assert data.test_set[0][0].shape == (3, 64, 64)
    assert sorted([*data.val_set.dataset.indices, *data.train_set.dataset.indices]) == list(range(400))
    x, y, _ = data.val_set[7]
    assert found["train"][x.numpy().tobytes()] == y
    assert data.num_classes == 200


@pytest.mark.parametrize(("padding", "mode"), [(4, "constant"), (8, "reflect")])
def test_training_images_are_windows_of_the_padded_ones(padding: int, mode: Any, tree: tuple[Path, Files]) -> None:
    settings = {} if padding == 4 else {"padding": padding, "padding_mode": mode}
    data = TinyImageNet(str(tree[0]), val_size=360, batch_size=16, seed=0, **settings)  # type: ignore[arg-type]
    data.setup("fit")
    alone = by_position(data.train_dataloader())
    places = []
    for i, x in alone.items():
        original = data.train_data(False)[data.train_set.dataset.indices[i]][0]
        image = (original * 255).round().byte().permute(1, 2, 0).numpy()
        places.append(place(x, windows(image, padding, mode)))
    assert len(places) == 40
    assert len({(row, column) for row, column, _ in places}) > 20
    assert max(row for row, *_ in places) > 1.5 * padding
    assert {mirrored for *_, mirrored in places} == {False, True}
    data.num_workers = 2
    assert equal(by_position(data.train_dataloader()), alone)
    keys = [key for rank in (0, 1) for key in data.train_sampler(0, world_size=2, rank=rank)]
    assert equal({key[0]: data.train_set[key][0] for key in keys}, alone)


def test_a_stratified_split_decodes_no_image(tree: tuple[Path, Files], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.Image.open", lambda *_: pytest.fail("an image was opened"))
    data = TinyImageNet(str(tree[0]), val_size=200, stratified=True)
    data.setup("fit")
    assert sorted(data.train_data(False).label[data.val_set.dataset.indices]) == list(range(200))


def test_grey_images_have_three_channels(tmp_path: Path) -> None:
    written = write_tiny_imagenet(tmp_path)
    path, _ = written["train"][0]
    Image.fromarray(np.full((64, 64), 100, np.uint8)).save(path, format="JPEG")
    x = TinyImageNet(str(tmp_path)).train_data(False)[0][0]
    assert torch.equal(x, torch.full((3, 64, 64), 100 / 255))


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    written = write_tiny_imagenet(tmp_path)
    data = TinyImageNet(str(tmp_path), val_size=20)
    for position, cut in ((0, -2000), (1, 0)):
        path, _ = written["train"][position]
        path.write_bytes(path.read_bytes()[:cut])
        with pytest.raises(ValueError, match=rf"{path} is not a whole image"):
            data.train_data(False)[position]


LAYOUT = r"TinyImageNet expects tiny-imagenet-200/ with wnids.txt, .* Unpack http\S*/tiny-imagenet-200.zip there"


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("wnids.txt", "fit"),
        ("val/val_annotations.txt", "test"),
        ("val/images", "test"),
        ("train/n01443544/images", "fit"),
    ],
)
def test_what_is_not_there_is_told(name: str, stage: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"There is no .*wnids.txt: {LAYOUT}"):
        TinyImageNet(str(tmp_path)).setup(stage)
    write_tiny_imagenet(tmp_path)
    (tmp_path / "tiny-imagenet-200" / name).rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=rf"There is no .*{name}.*: {LAYOUT}"):
        TinyImageNet(str(tmp_path)).setup(stage)


def test_a_test_set_that_does_not_fit_its_list_is_refused(tmp_path: Path) -> None:
    path, _ = write_tiny_imagenet(tmp_path)["test"][3]
    path.unlink()
    with pytest.raises(ValueError, match=r"has 199 images, and val_annotations.txt lists 200: they must be the same"):
        TinyImageNet(str(tmp_path)).setup("test")
    path.write_bytes(b"")
    rows = tmp_path / "tiny-imagenet-200/val/val_annotations.txt"
    rows.write_text(rows.read_text().replace("n01443537", "n99999999"))
    with pytest.raises(ValueError, match=r"each once and of a class of wnids.txt"):
        TinyImageNet(str(tmp_path)).setup("test")


def test_another_number_of_classes_is_refused(tmp_path: Path) -> None:
    write_tiny_imagenet(tmp_path, classes=5, n_test=10)
    with pytest.raises(ValueError, match=r"wnids.txt lists 5 classes, not 200"):
        TinyImageNet(str(tmp_path)).setup("fit")


@pytest.mark.slow
def test_the_command_line_trains_and_tests(tmp_path: Path) -> None:
    write_tiny_imagenet(tmp_path / "data")
    data = {"class_path": "TinyImageNet", "init_args": {"val_size": 24, "num_workers": 2}}
    assert fit_and_test(tmp_path, data, {"in_channels": 3, "num_classes": 200})["n"] == 16


@pytest.mark.parametrize("tail", [b"val_0.JPEG", b"\xff\xfe\n", b"again"])
def test_a_damaged_list_is_refused(tail: bytes, tmp_path: Path) -> None:
    write_tiny_imagenet(tmp_path)
    rows = tmp_path / "tiny-imagenet-200/val/val_annotations.txt"
    first = rows.read_bytes().splitlines(keepends=True)[0]
    rows.write_bytes(rows.read_bytes() + (first if tail == b"again" else tail))
    with pytest.raises(ValueError, match=r"val has 200 images, and val_annotations.txt lists 201: .* each once"):
        TinyImageNet(str(tmp_path)).setup("test")
