"""SVHN: what is read of its .mat files, with and without the extra one, and what is refused."""

from pathlib import Path

import pytest
import torch
from scipy.io import loadmat

from lightning_robust.data import SVHN
from tests.helpers.files import checksums_of, write_svhn
from tests.helpers.pictures import by_position, equal, expected, fit_and_test, same_images


def test_pixels_and_labels_are_those_of_the_files(tmp_path: Path) -> None:
    arrays, data = write_svhn(tmp_path), SVHN(str(tmp_path), val_size=24, seed=0)
    with checksums_of(tmp_path):
        data.setup()
    same_images(data.test_set, *arrays["test"])
    held, kept = data.val_set.dataset.indices, data.train_set.dataset.indices
    image, label = arrays["train"]
    assert (len(held), sorted([*held, *kept])) == (24, list(range(64)))
    same_images(data.val_set, image[held], label[held])
    for i, x in by_position(data.train_dataloader()).items():  # not augmented
        assert torch.equal(x, expected(image[kept[i]]))
    assert data.test_set[0][0].shape == (3, 32, 32)
    assert data.num_classes == 10


def test_a_zero_is_labelled_ten_in_the_files_and_zero_here(tmp_path: Path) -> None:
    write_svhn(tmp_path)
    raw = loadmat(tmp_path / "test_32x32.mat")["y"].ravel().tolist()
    assert set(raw) == set(range(1, 11))
    data = SVHN(str(tmp_path))
    with checksums_of(tmp_path):
        data.setup("test")
    assert [y for _, y, _ in data.test_set] == [y % 10 for y in raw]


def test_the_extra_images_follow_the_training_set(tmp_path: Path) -> None:
    arrays = write_svhn(tmp_path, n_extra=100)
    data = SVHN(str(tmp_path), extra=True, val_size=41, stratified=True, seed=0)
    alone = SVHN(str(tmp_path), val_size=20)
    with checksums_of(tmp_path):
        for module in (data, alone):
            module.setup()
        whole = data.train_data(augment=False)
    assert (len(whole), len(data.train_set), len(data.val_set), len(alone.train_set)) == (164, 123, 41, 44)
    for split, start in (("train", 0), ("extra", 64)):
        image, label = arrays[split]
        for i in range(len(image)):
            assert torch.equal(whole[start + i][0], expected(image[i]))
            assert whole[start + i][1] == label[i]
    same_images(data.test_set, *arrays["test"])
    assert any(i >= 64 for i in data.val_set.dataset.indices)
    counts = torch.bincount(torch.tensor([y for _, y, _ in data.val_set]))
    assert counts.tolist() == [pytest.approx(n / 4, abs=1) for n in _counts([*arrays["train"][1], *arrays["extra"][1]])]
    data.num_workers = 2
    helped = by_position(data.train_dataloader())
    data.num_workers = 0
    assert equal(helped, by_position(data.train_dataloader()))


def _counts(label: list[int]) -> list[int]:
    return torch.bincount(torch.tensor(label)).tolist()


def test_files_that_are_not_there_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no .*train_32x32.mat: SVHN expects .* is empty .* Set `download: true`"):
        SVHN(str(tmp_path)).setup("fit")
    write_svhn(tmp_path)
    with (
        checksums_of(tmp_path),
        pytest.raises(ValueError, match=r"no .*extra_32x32.mat: .* holds only test_32x32.mat, "),
    ):
        SVHN(str(tmp_path), extra=True).setup("fit")


def test_other_files_are_refused(tmp_path: Path) -> None:
    write_svhn(tmp_path)
    with pytest.raises(ValueError, match=r"test set of SVHN in .* damaged \(.*test_32x32.mat: its MD5 is not"):
        SVHN(str(tmp_path)).setup("test")
    with checksums_of(tmp_path):
        path = tmp_path / "train_32x32.mat"
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(ValueError, match=rf"damaged \({path}: its MD5 is not"):
            SVHN(str(tmp_path)).setup("fit")


@pytest.mark.parametrize("extra", [False, True])
def test_what_is_downloaded(extra: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fetch(url: str, root: Path, filename: str, md5: str) -> None:
        asked.append((filename, Path(root)))
        if not (tmp_path / filename).exists():
            write_svhn(tmp_path, n_extra=8)

    monkeypatch.setattr("torchvision.datasets.svhn.download_url", fetch)
    monkeypatch.setattr("torchvision.datasets.svhn.check_integrity", lambda path, md5: Path(path).is_file())
    SVHN(str(tmp_path), extra=extra, download=True).prepare_data()
    names = ["train_32x32.mat", "test_32x32.mat", *(["extra_32x32.mat"] if extra else [])]
    assert asked == [(name, tmp_path) for name in names]


@pytest.mark.slow
def test_the_command_line_trains_and_tests(tmp_path: Path) -> None:
    write_svhn(tmp_path / "data", n_extra=16)
    with checksums_of(tmp_path / "data"):
        data = {"class_path": "SVHN", "init_args": {"val_size": 24, "extra": True}}
        assert fit_and_test(tmp_path, data, {"in_channels": 3})["n"] == 16
