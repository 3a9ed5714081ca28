"""ImageNet: its folders and its archives, the geometry of its crops, and what is refused."""

import shutil
from itertools import islice
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from lightning_robust.data import ImageNet, SemiSupervised
from tests.helpers.ddp import run_ddp
from tests.helpers.files import checksums_of, pack_imagenet, save_jpeg, write_imagenet
from tests.helpers.pictures import by_position, equal, expected, fit_and_test


def imagenet(root: Path, stage: str = "fit", **settings: int) -> ImageNet:
    """The module after `setup`, for the default tree of `write_imagenet`."""
    data = ImageNet(str(root), **{"size": 32, "resize": 36, "num_classes": 3, "val_size": 3, "seed": 0, **settings})
    data.setup(stage)
    return data


def part(x: torch.Tensor) -> tuple[float, float, float, float, bool]:
    """Of a crop [3 h w] of `ramps`: its left, top, width and height as shares of the image, and whether it is mirrored.

    Read off the colours of its middle: the edges of an image that is enlarged have none further out to blend with.
    """
    h, w = x.shape[1:]
    inner = x[:, h // 4 : 3 * h // 4, w // 4 : 3 * w // 4] * 255 / 250
    across = np.polyfit((np.arange(w // 4, 3 * w // 4) + 0.5) / w, inner[0].mean(0).numpy(), 1)
    down = np.polyfit((np.arange(h // 4, 3 * h // 4) + 0.5) / h, inner[1].mean(1).numpy(), 1)
    left = across[1] if across[0] > 0 else across[1] + across[0]
    return float(left), float(down[1]), float(abs(across[0])), float(down[0]), bool(across[0] < 0)


def test_labels_files_and_parts(tmp_path: Path) -> None:
    written, data = write_imagenet(tmp_path), imagenet(tmp_path, stage=None, size=40, resize=40, val_size=4)  # type: ignore[arg-type]
    whole = data.train_data(augment=False)
    for name, dataset in (("train", whole), ("test", data.test_set.dataset)):
        files = [dataset.image.root / file.decode() for file in dataset.image.names]
        assert list(zip(files, dataset.label.tolist(), strict=True)) == sorted(written[name])
    x, y = whole[5]
    with Image.open(sorted(written["train"])[5][0]) as image:  # 40 x 48: its central 40 x 40, not resized
        assert torch.equal(x, expected(np.asarray(image)[:, 4:44]))
    assert (x.dtype, y) == (torch.float32, 1)
    assert sorted([*data.val_set.dataset.indices, *data.train_set.dataset.indices]) == list(range(12))
    assert torch.equal(data.val_set[0][0], whole[data.val_set.dataset.indices[0]][0])
    assert data.num_classes == 3


def test_evaluation_takes_the_central_part_of_the_resized_image(tmp_path: Path) -> None:
    write_imagenet(tmp_path, size=(300, 400))
    data = imagenet(tmp_path, "test", size=224, resize=256)
    assert data.test_set[0][0].shape == (3, 224, 224)
    left, top, width, height, mirrored = part(data.test_set[0][0])
    scale = 300 / 256  # the shorter side
    assert (width, height) == pytest.approx((224 * scale / 400, 224 * scale / 300), abs=0.01)
    assert (left, top) == pytest.approx(((1 - width) / 2, (1 - height) / 2), abs=0.01)
    assert not mirrored


def test_training_takes_random_parts(tmp_path: Path) -> None:
    write_imagenet(tmp_path, size=(96, 120))
    data, parts = imagenet(tmp_path), []
    loader = data.train_dataloader()
    for epoch in range(30):
        loader.sampler.set_epoch(epoch)
        parts += [part(x) for x in by_position(loader).values()]
    left, top, width, height, mirrored = np.array(parts).T
    area, shape = width * height, width * 120 / (height * 96)
    slack = 0.03
    assert min(left.min(), top.min()) > -slack
    assert max((left + width).max(), (top + height).max()) < 1 + slack
    assert 0.08 - slack < area.min() < 0.15
    assert 0.75 < area.max() < 1 + slack
    assert 0.7 < shape.min() < 0.85
    assert 1.2 < shape.max() < 1.4
    assert 0.35 < mirrored.mean() < 0.65
    assert len({round(float(a), 4) for a in area[:9]}) == 9  # of one batch


def test_workers_ranks_and_a_restart_change_no_draw(tmp_path: Path) -> None:
    write_imagenet(tmp_path)
    data = imagenet(tmp_path, batch_size=5, val_size=2)
    alone = by_position(data.train_dataloader())
    assert len(alone) == 10
    assert all(x.shape == (3, 32, 32) for x in alone.values())
    data.num_workers = 2
    assert equal(by_position(data.train_dataloader()), alone)
    data.num_workers = 0
    resumed = data.train_dataloader()
    resumed.load_state_dict({"epoch": 0, "batches": 1})
    assert equal({**by_position(islice(data.train_dataloader(), 1)), **by_position(resumed)}, alone)
    keys = [key for rank in (0, 1) for key in data.train_sampler(0, world_size=2, rank=rank)]
    assert equal({key[0]: data.train_set[key][0] for key in keys}, alone)


def test_the_archives_are_unpacked_and_read_as_the_folders(tmp_path: Path) -> None:
    written = write_imagenet(tmp_path)
    before = imagenet(tmp_path, "test").test_set
    train = imagenet(tmp_path).train_data(False)
    pack_imagenet(tmp_path, written)
    assert not (tmp_path / "val").exists()
    data = ImageNet(str(tmp_path), size=32, resize=36, num_classes=3, val_size=3)
    with pytest.raises(
        ValueError, match=r"ImageNet's archives in .* were not unpacked .*The archive ILSVRC2012_devkit_t12.*corrupt"
    ):
        data.prepare_data()
    with checksums_of(tmp_path):
        data.prepare_data()
    assert (tmp_path / "meta.bin").is_file()
    assert sorted(tmp_path.rglob("*.JPEG")) == sorted(path for files in written.values() for path, _ in files)
    (tmp_path / "meta.bin").unlink()
    data.prepare_data()  # nothing is left to do: the archives are not asked
    data.setup()
    for one, other in ((data.test_set, before), (data.train_data(False), train)):
        assert len(one) == len(other)
        assert all(torch.equal(one[i][0], other[i][0]) and one[i][1] == other[i][1] for i in range(len(one)))


def test_archives_unpacked_in_part_are_refused(tmp_path: Path) -> None:
    written = write_imagenet(tmp_path)
    shutil.move(written["test"][0][0], tmp_path / "val")
    with pytest.raises(ValueError, match=r"val itself holds ILSVRC2012_val_00000001.JPEG: .* remove .*val, and it is"):
        imagenet(tmp_path, "test")
    (tmp_path / "train" / "n01440764.tar").write_bytes(b"")
    with pytest.raises(ValueError, match=r"train itself holds n01440764.tar"):
        imagenet(tmp_path)


@pytest.mark.parametrize(("stage", "folder"), [("fit", "train"), ("test", "val")])
def test_what_is_not_there_is_told(stage: str, folder: str, tmp_path: Path) -> None:
    message = rf"There is no .*{folder}: ImageNet expects train/<class>/<image> .*, but {tmp_path}"
    with pytest.raises(ValueError, match=rf"{message} is empty .*image-net.org"):
        imagenet(tmp_path, stage)
    (tmp_path / "images").mkdir()
    with pytest.raises(ValueError, match=rf"{message} holds only images. Get the archives from"):
        imagenet(tmp_path, stage)


def test_the_test_set_needs_no_training_set(tmp_path: Path) -> None:
    write_imagenet(tmp_path)
    shutil.rmtree(tmp_path / "train")
    assert len(imagenet(tmp_path, "test").test_set) == 6


def test_classes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    write_imagenet(tmp_path)
    with pytest.raises(ValueError, match=r"train has 3 folders of classes: there must be `num_classes` of them, 1000"):
        ImageNet(str(tmp_path)).setup("fit")
    (tmp_path / "val" / "n01440764").rename(tmp_path / "val" / "other")
    with pytest.raises(ValueError, match="train and val must have the same"):
        imagenet(tmp_path, "test")
    (tmp_path / "val" / "other").rename(tmp_path / "val" / "n01440764")
    for path in (tmp_path / "val" / "n01440764").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"val lacks images: .* n01440764"):
        imagenet(tmp_path, "test")


def test_a_size_beyond_the_resized_image_is_refused() -> None:
    with pytest.raises(ValueError, match="Of images resized to 256 pixels, no 288 can be taken"):
        ImageNet(size=288)


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    path = write_imagenet(tmp_path)["test"][0][0]
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=rf"{path} is not a whole image"):
        imagenet(tmp_path, "test").test_set[0]


def test_grey_and_cmyk_images_have_three_channels(tmp_path: Path) -> None:
    written = write_imagenet(tmp_path)
    paths = [path for path, _ in sorted(written["test"])[:2]]
    Image.new("L", (48, 40), 90).save(paths[0], format="JPEG")
    Image.new("CMYK", (48, 40)).save(paths[1], format="JPEG")
    test = imagenet(tmp_path, "test").test_set
    assert [test[i][0].shape for i in range(2)] == [(3, 32, 32)] * 2
    assert torch.equal(test[0][0], torch.full((3, 32, 32), 90 / 255))


def test_pseudo_labelled_images_get_the_same_crops(tmp_path: Path) -> None:
    write_imagenet(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (4, 50, 60, 3), dtype=np.uint8)
    np.savez(tmp_path / "extra.npz", image=image, label=[0, 1, 2, 0])
    labelled = ImageNet(str(tmp_path), size=32, resize=36, num_classes=3)
    data = SemiSupervised(labelled, str(tmp_path / "extra.npz"), batch_size=4, val_size=4, seed=0)
    data.setup()
    seen = by_position(data.train_dataloader())
    assert all(x.shape == (3, 32, 32) for x in seen.values())
    assert any(i >= 8 for i in seen)
    data.setup("predict")
    assert data.predict_set[0][0].shape == (3, 32, 32)


def test_file_names_may_have_any_letters(tmp_path: Path) -> None:
    for name in ("train/Käse/é.jpeg", "val/Käse/日本.png"):
        save_jpeg(tmp_path / name, np.full((40, 40, 3), 7, np.uint8))
    data = imagenet(tmp_path, "test", num_classes=1)
    assert torch.equal(data.test_set[0][0], torch.full((3, 32, 32), 7 / 255))


@pytest.mark.slow
def test_the_command_line_trains_and_tests(tmp_path: Path) -> None:
    write_imagenet(tmp_path / "data" / "imagenet", test_per_class=6)
    settings = {"num_classes": 3, "val_size": 3, "size": 32, "resize": 36, "num_workers": 2}
    report = fit_and_test(
        tmp_path, {"class_path": "ImageNet", "init_args": settings}, {"in_channels": 3, "num_classes": 3}
    )
    assert report["n"] == 16


def test_a_damaged_list_of_classes_is_told_before_anything_is_unpacked(tmp_path: Path) -> None:
    written = write_imagenet(tmp_path)
    pack_imagenet(tmp_path, written)
    data = ImageNet(str(tmp_path), size=32, resize=36, num_classes=3, val_size=3)
    (tmp_path / "meta.bin").write_bytes(b"")
    with checksums_of(tmp_path), pytest.raises(ValueError, match=r"meta.bin is damaged .*Delete it"):
        data.prepare_data()
    assert not (tmp_path / "train").exists()
    (tmp_path / "meta.bin").unlink()
    with checksums_of(tmp_path):
        data.prepare_data()


def test_two_nodes_with_one_folder_unpack_it_once(tmp_path: Path) -> None:
    written = write_imagenet(tmp_path)
    pack_imagenet(tmp_path, written)
    data = ImageNet(str(tmp_path), size=32, resize=36, num_classes=3, val_size=3)
    with checksums_of(tmp_path):
        run_ddp(lambda rank: data.prepare_data(), 2)
    data.setup()
    assert sorted(tmp_path.rglob("*.JPEG")) == sorted(path for files in written.values() for path, _ in files)


def test_what_a_kill_left_of_an_unpacking_is_in_nobodys_way(tmp_path: Path) -> None:
    written = write_imagenet(tmp_path)
    pack_imagenet(tmp_path, written)
    (tmp_path / ".unpacking/train").mkdir(parents=True)
    (tmp_path / ".unpacking/train/n01440764.tar").touch()
    data = ImageNet(str(tmp_path), size=32, resize=36, num_classes=3, val_size=3)
    with checksums_of(tmp_path):
        data.prepare_data()
    data.setup()
    assert not (tmp_path / ".unpacking").exists()
    assert sorted(tmp_path.rglob("*.JPEG")) == sorted(path for files in written.values() for path, _ in files)


def test_a_full_disk_while_unpacking_is_told(tmp_path: Path) -> None:
    pack_imagenet(tmp_path, write_imagenet(tmp_path))
    full = patch.object(torchvision.datasets.imagenet, "extract_archive", side_effect=OSError(28, "No space left"))
    with (
        full,
        checksums_of(tmp_path),
        pytest.raises(ValueError, match=r"not unpacked \(OSError.*No space.*room"),
    ):
        ImageNet(str(tmp_path), size=32, resize=36, num_classes=3, val_size=3).prepare_data()
