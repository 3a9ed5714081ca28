"""Image files of every depth are read as what they show, or refused; many of them in little time and memory."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_robust.data import ImageNet, RobustDataModule
from lightning_robust.data.image_files import ImageFiles, class_files
from tests.helpers.command_line import refusal
from tests.helpers.files import write_imagenet

LEVELS = np.array([[0, 100, 127, 128, 255], [256, 10000, 32768, 65407, 65535]], dtype=np.uint16)
RIGHT = np.array([[round(value / 257) for value in row] for row in LEVELS.tolist()], dtype=np.uint8)


def read(path: Path) -> np.ndarray:
    return np.array(ImageFiles(path.parent, [path.name])[0])


def png_of_sixteen_bit_colours(path: Path, levels: np.ndarray) -> None:
    """By hand: Pillow does not write them."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    h, w = levels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 16, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_sixteen_grey_bits_are_scaled(name: str, dtype: str, tmp_path: Path) -> None:
    Image.fromarray(LEVELS.astype(dtype)).save(tmp_path / name)
    assert np.array_equal(read(tmp_path / name), np.repeat(RIGHT[..., None], 3, axis=2))


def test_sixteen_bits_a_colour_keep_the_upper_eight(tmp_path: Path) -> None:
    levels = np.stack([LEVELS, LEVELS[::-1], LEVELS[:, ::-1]], axis=2)
    png_of_sixteen_bit_colours(tmp_path / "a.png", levels)
    assert np.array_equal(read(tmp_path / "a.png"), levels >> 8)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_eight_bits_are_read_as_pillow_reads_them(mode: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    image.save(tmp_path / "a.tif")
    assert np.array_equal(read(tmp_path / "a.tif"), np.array(image.convert("RGB")))


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pixels_of_unknown_range_are_refused(dtype: Any, tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 2), 0.5, dtype=np.float32).astype(dtype)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif has mode '[FI]', whose value range is not known: convert"):
        read(tmp_path / "a.tif")


def test_the_command_line_refuses_them_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for path, _ in write_imagenet(tmp_path / "data", classes=2, per_class=3, test_per_class=1)["train"]:
        path.unlink()
        Image.fromarray(np.zeros((40, 48), dtype=np.float32)).save(path, format="TIFF")
    data = ["--data=ImageNet", "--data.root=data", "--data.num_classes=2", "--data.val_size=2", "--data.size=32"]
    net = ["--model.net.num_classes=2", "--model.net.in_channels=3", "--trainer.accelerator=cpu"]
    told = refusal(capsys, "fit", "--config=digits/at", *data, "--data.resize=36", "--data.num_workers=1", *net)
    assert "has mode 'F', whose value range" in told


def test_many_names_are_listed_without_a_path_for_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = write_imagenet(tmp_path, classes=2, per_class=3)["train"]
    expected = [(str(path.relative_to(tmp_path / "train")), k) for path, k in written]
    for folder in (tmp_path / "train", Path("train"), Path("./train/")):
        monkeypatch.chdir(tmp_path)
        names, labels = class_files(folder)
        assert list(zip([name.decode() for name in names], labels.tolist(), strict=True)) == sorted(expected)
    monkeypatch.setattr(Path, "relative_to", None)
    assert len(class_files(tmp_path / "train")[0]) == 6
    first = ImageFiles(tmp_path, names)
    assert ImageFiles(tmp_path / "other", names).names is first.names


def test_imagenet_reads_them_through_its_transform(tmp_path: Path) -> None:
    for path, _ in write_imagenet(tmp_path, classes=2, per_class=3)["train"]:
        path.unlink()
        Image.fromarray(np.full((40, 48), 32768, dtype=np.uint16)).save(path.with_suffix(".png"))
    data = ImageNet(str(tmp_path), size=32, resize=36, num_classes=2, val_size=2)
    data.setup("fit")
    x = data.val_set[0][0]
    torch.testing.assert_close(x, torch.full((3, 32, 32), round(32768 / 257) / 255), rtol=0, atol=1e-6)


def test_a_data_module_is_still_one(tmp_path: Path) -> None:
    assert issubclass(ImageNet, RobustDataModule)
