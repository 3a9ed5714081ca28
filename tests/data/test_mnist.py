"""MNIST: what is read of its idx files, and what is refused."""

from pathlib import Path

import pytest
import torch

from lightning_robust.data import MNIST
from tests.helpers.files import checksums_of, write_mnist
from tests.helpers.pictures import by_position, equal, expected, fit_and_test, same_images


def test_pixels_and_labels_are_those_of_the_files(tmp_path: Path) -> None:
    arrays, data = write_mnist(tmp_path), MNIST(str(tmp_path), val_size=24)
    data.setup()
    same_images(data.test_set, *arrays["test"])
    image, label = arrays["train"]
    held, kept = data.val_set.dataset.indices, data.train_set.dataset.indices
    assert (len(held), sorted([*held, *kept])) == (24, list(range(64)))
    same_images(data.val_set, image[held], label[held])
    same_images(data.train_set, image[kept], label[kept])
    assert data.test_set[0][0].shape == (1, 28, 28)
    assert data.num_classes == 10


def test_nothing_is_augmented_and_workers_change_nothing(tmp_path: Path) -> None:
    arrays = write_mnist(tmp_path)
    seen = []
    for workers in (0, 2):
        data = MNIST(str(tmp_path), val_size=24, batch_size=7, seed=0, num_workers=workers)
        data.setup("fit")
        seen.append(by_position(data.train_dataloader()))
    assert equal(*seen)
    assert len(seen[0]) == 40
    for i, x in seen[0].items():
        assert torch.equal(x, expected(arrays["train"][0][data.train_set.dataset.indices[i]]))


def test_packed_files_are_unpacked_when_asked(tmp_path: Path) -> None:
    arrays = write_mnist(tmp_path, packed=True)
    missing = (
        r"no .*raw/train-images-idx3-ubyte: .* holds only t10k-images-idx3-ubyte.gz, .* `download: true` .* unpack"
    )
    with pytest.raises(ValueError, match=missing):
        MNIST(str(tmp_path)).setup("fit")
    data = MNIST(str(tmp_path), download=True)
    with checksums_of(tmp_path):
        data.prepare_data()
    data.setup("test")
    same_images(data.test_set, *arrays["test"])


def test_without_a_network_the_download_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no route")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", offline)
    with pytest.raises(OSError, match=r"(?s)MNIST could not be downloaded to .*no route.*put MNIST/raw/"):
        MNIST(str(tmp_path), download=True).prepare_data()
    MNIST(str(tmp_path)).prepare_data()  # nothing is asked of the network


@pytest.mark.parametrize("stage", ["fit", "test"])
def test_files_that_are_not_there_are_told(stage: str, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=rf"MNIST expects MNIST/raw/ with .* in the folder '{tmp_path}', but .* is empty"
    ):
        MNIST(str(tmp_path)).setup(stage)


@pytest.mark.parametrize("size", [0, 3, 20, -1])
def test_a_file_cut_short_is_refused(size: int, tmp_path: Path) -> None:
    write_mnist(tmp_path)
    path = tmp_path / "MNIST/raw/train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"The train set of MNIST in .* is damaged .*Delete it"):
        MNIST(str(tmp_path)).setup("fit")


def test_files_of_different_sets_are_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path, n_train=20, n_test=12)
    folder = tmp_path / "MNIST" / "raw"
    (folder / "t10k-labels-idx1-ubyte").write_bytes((folder / "train-labels-idx1-ubyte").read_bytes())
    with pytest.raises(ValueError, match=r"The test set of MNIST in .* has 12 images and int64 labels"):
        MNIST(str(tmp_path)).setup("test")


def test_labels_of_other_classes_are_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    path = tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\x0a")
    with pytest.raises(ValueError, match="each image needs a class number below 10"):
        MNIST(str(tmp_path)).setup("test")


@pytest.mark.slow
def test_the_command_line_trains_and_tests(tmp_path: Path) -> None:
    write_mnist(tmp_path / "data")
    data = {"class_path": "MNIST", "init_args": {"val_size": 24}}
    assert fit_and_test(tmp_path, data, {})["n"] == 16


@pytest.mark.parametrize("content", [b"", b"\x00\x00\x0a\x03", None])
def test_a_damaged_file_is_not_taken_for_a_missing_one(content: bytes | None, tmp_path: Path) -> None:
    """torchvision looks for its existence alone; to download again would not help."""
    write_mnist(tmp_path)
    path = tmp_path / "MNIST/raw/train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    data = MNIST(str(tmp_path), download=True)
    with pytest.raises(ValueError, match=rf"set of MNIST in .* is damaged \(one of {path}, .*Delete it"):
        data.prepare_data() or data.setup("fit")
