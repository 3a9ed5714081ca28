"""Fashion-MNIST: torchvision's files and Debian's packed ones, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from lightning_robust.data import FashionMNIST
from tests.helpers.files import Arrays, write_mnist
from tests.helpers.pictures import same_images


def write(root: Path, form: str) -> Arrays:
    """As torchvision lays the files out, or in the folder itself, packed as Debian's package does or not."""
    where = "FashionMNIST/raw" if "torchvision" in form else "."
    return write_mnist(root, packed="packed" in form, where=where)


@pytest.mark.parametrize("form", ["torchvision", "torchvision packed", "alone", "packed"])
def test_pixels_and_labels_are_those_of_the_files(form: str, tmp_path: Path) -> None:
    arrays, data = write(tmp_path, form), FashionMNIST(str(tmp_path))
    data.prepare_data()
    data.setup()
    same_images(data.test_set, *arrays["test"])
    image, label = arrays["train"]
    for part in (data.val_set, data.train_set):
        kept = part.dataset.indices
        same_images(part, image[kept], label[kept])
    assert (len(data.val_set), len(data.train_set)) == (6, 58)
    assert (data.num_classes, data.in_channels, data.image_size) == (10, 1, (28, 28))
    assert data.class_names[7] == "Sneaker"
    np.testing.assert_allclose([data.mean[0], data.std[0]], [(image / 255).mean(), (image / 255).std()], atol=6e-5)


def test_files_that_are_missing_or_damaged_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"FashionMNIST expects train-images-idx3-ubyte.*\.gz\), there or in"):
        FashionMNIST(str(tmp_path)).setup("fit")
    write(tmp_path, "packed")
    path = tmp_path / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    for damaged in (b"", b"no gzip", whole[:1000], whole[:-20] + b"\0" * 20):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"{path} is damaged \(.*put the published file there"):
            FashionMNIST(str(tmp_path)).setup("fit")
