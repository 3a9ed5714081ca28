"""CIFAR-10 and CIFAR-100: what is read, how it is augmented, and what is refused."""

import pickle
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision.datasets.cifar

from lightning_robust.data import CIFAR10, CIFAR100, SemiSupervised
from tests.helpers.files import WRITERS, Arrays, checksums_of, random_arrays, write_cifar10
from tests.helpers.pictures import by_position, equal, expected, fit_and_test, place, same_images, windows


def cifar10(root: Path, stage: str = "fit", **settings: Any) -> tuple[CIFAR10, Arrays]:
    """The module after `setup`, on files that are taken for the published ones."""
    arrays = write_cifar10(root)
    data = CIFAR10(str(root), **{"val_size": 20, "batch_size": 16, "seed": 0, **settings})
    with checksums_of(root):
        data.setup(stage)
    return data, arrays


@pytest.mark.parametrize(("kind", "folder"), [(CIFAR10, "cifar-10-batches-py"), (CIFAR100, "cifar-100-python")])
def test_pixels_and_labels_are_those_of_the_files(kind: Any, folder: str, tmp_path: Path) -> None:
    arrays, data = WRITERS[kind.__name__](tmp_path), kind(str(tmp_path), val_size=20)
    assert (tmp_path / folder).is_dir()
    with checksums_of(tmp_path):
        data.setup()
        same_images(data.test_set, *arrays["test"])
        same_images(data.train_data(augment=False), *arrays["train"])
    image, label = arrays["train"]
    held, kept = data.val_set.dataset.indices, data.train_set.dataset.indices
    assert sorted([*held, *kept]) == list(range(len(image)))
    assert len(held) == 20
    same_images(data.val_set, image[held], label[held])  # held-out ones are not augmented
    assert [data.train_set[i][1] for i in range(len(kept))] == label[kept].tolist()
    assert data.num_classes == len(set(label.tolist())) == {"CIFAR10": 10, "CIFAR100": 100}[kind.__name__]
    assert data.class_names == [f"class {k}" for k in range(kind.num_classes)]  # as the files tell


@pytest.mark.parametrize(("padding", "mode"), [(4, "constant"), (4, "reflect"), (2, "constant"), (0, "constant")])
def test_training_images_are_windows_of_the_padded_ones(padding: int, mode: Any, tmp_path: Path) -> None:
    data, arrays = cifar10(tmp_path, padding=padding, padding_mode=mode)
    crops = [windows(arrays["train"][0][i], padding, mode) for i in data.train_set.dataset.indices]
    found = []
    loader = data.train_dataloader()
    for epoch in range(8):
        loader.sampler.set_epoch(epoch)
        found.append({i: place(x, crops[i]) for i, x in by_position(loader).items()})
    rows, columns, mirrored = zip(*(p for epoch in found for p in epoch.values()), strict=True)
    for shifts in (rows, columns):
        assert set(shifts) == set(range(2 * padding + 1))
        assert max(Counter(shifts).values()) < 2.2 * len(shifts) / (2 * padding + 1)
    assert 0.4 < np.mean(mirrored) < 0.6
    assert found[0] != found[1]


def test_defaults_are_a_zero_padding_of_four(tmp_path: Path) -> None:
    data, arrays = cifar10(tmp_path)
    for i, x in by_position(data.train_dataloader()).items():
        place(x, windows(arrays["train"][0][data.train_set.dataset.indices[i]], 4))


def test_each_image_of_a_batch_has_its_own_draws(tmp_path: Path) -> None:
    data, arrays = cifar10(tmp_path)
    x, _, index = next(iter(data.train_dataloader()))
    crops = [windows(arrays["train"][0][data.train_set.dataset.indices[int(i)]], 4) for i in index]
    places = [place(image, crop) for image, crop in zip(x, crops, strict=True)]
    assert {mirrored for *_, mirrored in places} == {False, True}
    assert len({(row, column) for row, column, _ in places}) > 8


def test_workers_ranks_and_a_restart_change_no_draw(tmp_path: Path) -> None:
    data, _ = cifar10(tmp_path)
    alone = by_position(data.train_dataloader())
    assert len(alone) == 60
    data.num_workers = 2
    assert equal(by_position(data.train_dataloader()), alone)
    data.num_workers = 0
    resumed = data.train_dataloader()
    resumed.load_state_dict({"epoch": 0, "batches": 2})
    rest = by_position(resumed)
    begun = by_position(islice(data.train_dataloader(), 2))
    assert (len(begun), len(rest)) == (32, 28)
    assert equal({**begun, **rest}, alone)
    keys = [key for rank in (0, 1) for key in data.train_sampler(0, world_size=2, rank=rank)]
    assert equal({key[0]: data.train_set[key][0] for key in keys}, alone)
    sent = pickle.loads(pickle.dumps(data.train_set))  # as to workers that are not forked
    assert equal({key[0]: sent[key][0] for key in keys}, alone)
    torch.rand(5)  # draws elsewhere do not matter
    assert equal(by_position(data.train_dataloader()), alone)
    data.seed = 1
    assert not equal(by_position(data.train_dataloader()), alone)


def test_batches_are_contiguous_whatever_the_workers(tmp_path: Path) -> None:
    data, _ = cifar10(tmp_path)
    assert next(iter(data.train_dataloader()))[0].is_contiguous()
    assert next(iter(data.val_dataloader()))[0].is_contiguous()


def test_a_stratified_split_has_as_many_of_each_class(tmp_path: Path) -> None:
    data, arrays = cifar10(tmp_path, stratified=True)
    label = arrays["train"][1]
    held, kept = data.val_set.dataset.indices, data.train_set.dataset.indices
    assert set(Counter(label[held].tolist()).values()) == {2}
    assert set(Counter(label[kept].tolist()).values()) == {6}
    assert not {*held} & {*kept}
    plain, _ = cifar10(tmp_path / "other")
    assert len(set(Counter(label[plain.val_set.dataset.indices].tolist()).values())) > 1


def test_pseudo_labelled_images_are_augmented_like_the_labelled(tmp_path: Path) -> None:
    image, label = random_arrays({"extra": 40}, (32, 32, 3), seed=9)["extra"]
    np.savez(tmp_path / "extra.npz", image=image, label=label)
    arrays = write_cifar10(tmp_path)
    labelled = CIFAR10(str(tmp_path), padding=3, padding_mode="reflect")
    data = SemiSupervised(labelled, str(tmp_path / "extra.npz"), batch_size=20, val_size=20, seed=0, stratified=True)
    with checksums_of(tmp_path):
        data.setup()
    originals = [*(arrays["train"][0][i] for i in data.train_set.dataset.datasets[0].dataset.indices), *image]
    kinds, flips = Counter(), set()
    for batch in data.train_dataloader():
        for x, y, i in zip(*batch, strict=True):
            kinds[int(i) >= 60] += 1
            flips.add((int(i) >= 60, place(x, windows(originals[int(i)], 3, "reflect"))[2]))
            assert int(i) < 60 or int(y) == label[int(i) - 60]
    assert kinds == {False: 30, True: 30}
    assert flips == {(False, False), (False, True), (True, False), (True, True)}
    assert set(Counter(y for _, y, _ in data.val_set).values()) == {2}
    data.setup("predict")
    assert torch.equal(data.predict_set[5][0], expected(image[5]))


# --------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(("kind", "first"), [(CIFAR10, "data_batch_1"), (CIFAR100, "train")])
def test_missing_files_are_told_with_the_layout_and_the_remedy(kind: Any, first: str, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=rf"There is no .*{first}: .* is empty or does not exist. Set `download: true`"
    ):
        kind(str(tmp_path / "nowhere")).setup("fit")
    (tmp_path / "SVHN").mkdir()
    with pytest.raises(ValueError, match=rf"{kind.__name__} expects cifar-10.*{tmp_path} holds only SVHN. Set"):
        kind(str(tmp_path)).setup("test")


def test_one_missing_file_is_named(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").unlink()
    with pytest.raises(ValueError, match=r"There is no .*data_batch_3: .* holds only batches.meta, data_batch_1, "):
        CIFAR10(str(tmp_path)).setup("fit")


def test_files_that_are_not_the_published_ones_are_refused(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    with pytest.raises(ValueError, match=r"damaged \(.*data_batch_1, .*batches.meta: its MD5 is not .* Delete it"):
        CIFAR10(str(tmp_path)).setup("fit")


@pytest.mark.parametrize("name", ["data_batch_2", "test_batch", "batches.meta"])
def test_a_damaged_file_is_named(name: str, tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    with checksums_of(tmp_path):
        path = tmp_path / "cifar-10-batches-py" / name
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(ValueError, match=rf"damaged \({path}: its MD5"):
            CIFAR10(str(tmp_path)).setup("fit")


@pytest.mark.parametrize("kind", [CIFAR10, CIFAR100])
def test_an_archive_that_lies_there_is_unpacked_once_per_node(kind: Any, tmp_path: Path) -> None:
    arrays = WRITERS[kind.__name__](tmp_path, packed=True)
    with checksums_of(tmp_path):  # of the archive
        data = kind(str(tmp_path), val_size=20)
        data.prepare_data()
        with pytest.raises(ValueError, match="There is no"):
            data.setup("test")
        with pytest.raises(
            ValueError, match="its MD5 is not that of the published"
        ):  # what is in it is not what was published
            kind(str(tmp_path), download=True).prepare_data()
    with checksums_of(tmp_path):  # of what was in it, too
        kind(str(tmp_path), download=True).prepare_data()
        data.setup("test")
    same_images(data.test_set, *arrays["test"])


def test_a_failed_download_is_told(tmp_path: Path) -> None:
    failing = patch.object(torchvision.datasets.cifar, "download_and_extract_archive", side_effect=URLError("no route"))
    with failing, pytest.raises(OSError, match=r"CIFAR10 could not be downloaded to .*no route.*put cifar-10-batches"):
        CIFAR10(str(tmp_path), download=True).prepare_data()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [CIFAR10, CIFAR100])
def test_the_command_line_trains_and_tests(kind: Any, tmp_path: Path) -> None:
    WRITERS[kind.__name__](tmp_path / "data")
    with checksums_of(tmp_path / "data"):
        data = {"class_path": kind.__name__, "init_args": {"val_size": 20, "stratified": kind is CIFAR10}}
        report = fit_and_test(tmp_path, data, {"in_channels": 3, "num_classes": kind.num_classes})
    assert report["n"] == 16
