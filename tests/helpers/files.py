"""Small datasets written in the forms in which the real ones are published.

`write(name, folder)` puts one where its data module looks for it when run in `folder`.

torchvision knows its files by their MD5s, which no other content can have. Within `checksums_of(root)`, this process
and those forked from it take the files in `root` for the published ones: `lightning_robust.cli.main([...])` can be
called there. A command in a process of its own needs `TinyImageNet`, `ImageNet` or `MNIST`: unpacked, they have no MD5.
"""

import gzip
import io
import pickle
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torchvision.datasets
from PIL import Image
from scipy.io import savemat
from torchvision.datasets import imagenet
from torchvision.datasets.utils import calculate_md5

Arrays = dict[str, tuple[np.ndarray, np.ndarray]]
"""Of each split: bytes [n h w] or [n h w c], and labels [n]."""
Files = dict[str, list[tuple[Path, int]]]
"""Of each split: image files and their labels."""


def write(name: str, folder: Path, **settings: Any) -> Path:
    """The dataset of the data module `name`, in the root that the module has by default; returns that root."""
    root = folder / ("data/imagenet" if name == "ImageNet" else "data")
    WRITERS[name](root, **settings)
    return root


@contextmanager
def checksums_of(root: Path) -> Iterator[None]:
    """The MD5s of the files now in `root`, where there are such, stand for those of the published ones.

    What reads, checks and unpacks is torchvision's own code: a file that changes afterwards is refused.
    """

    def md5(name: str, published: str, folder: Path = root) -> str:
        return calculate_md5(folder / name) if (folder / name).is_file() else published

    with ExitStack() as patches:
        for kind in (torchvision.datasets.CIFAR10, torchvision.datasets.CIFAR100):
            folder = root / kind.base_folder
            for part in ("train_list", "test_list"):
                listed = [[name, md5(name, old, folder)] for name, old in getattr(kind, part)]
                patches.enter_context(patch.object(kind, part, listed))
            meta = {**kind.meta, "md5": md5(kind.meta["filename"], kind.meta["md5"], folder)}
            patches.enter_context(patch.object(kind, "meta", meta))
            patches.enter_context(patch.object(kind, "tgz_md5", md5(kind.filename, kind.tgz_md5)))
        split_list = {k: [url, name, md5(name, old)] for k, (url, name, old) in _SVHN.split_list.items()}
        patches.enter_context(patch.object(_SVHN, "split_list", split_list))
        resources = [(name, md5(name, old, root / "MNIST/raw")) for name, old in _MNIST.resources]
        patches.enter_context(patch.object(_MNIST, "resources", resources))
        archives = {k: (name, md5(name, old)) for k, (name, old) in imagenet.ARCHIVE_META.items()}
        patches.enter_context(patch.dict(imagenet.ARCHIVE_META, archives))
        yield


_MNIST, _SVHN = torchvision.datasets.MNIST, torchvision.datasets.SVHN


def random_arrays(sizes: dict[str, int], shape: tuple[int, ...], classes: int = 10, seed: int = 0) -> Arrays:
    """Random pixels, every class in turn."""
    generator = np.random.default_rng(seed)
    draw = {split: generator.integers(0, 256, (n, *shape), dtype=np.uint8) for split, n in sizes.items()}
    return {split: (image, generator.permutation(np.arange(len(image)) % classes)) for split, image in draw.items()}


def write_mnist(
    root: Path, n_train: int = 64, n_test: int = 32, packed: bool = False, where: str = "MNIST/raw"
) -> Arrays:
    """`<root>/MNIST/raw/*-ubyte`: big-endian magic number and sizes, then the bytes; `packed`: as .gz alone."""
    arrays = random_arrays({"train": n_train, "test": n_test}, (28, 28))
    folder = root / where
    folder.mkdir(parents=True, exist_ok=True)
    for split, prefix in (("train", "train"), ("test", "t10k")):
        for kind, array in zip(("images-idx3", "labels-idx1"), arrays[split], strict=True):
            header = np.array([8 * 256 + array.ndim, *array.shape], dtype=">i4").tobytes()
            content, name = header + array.astype(np.uint8).tobytes(), f"{prefix}-{kind}-ubyte"
            if packed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / name).write_bytes(content)
    return arrays


def write_svhn(root: Path, n_train: int = 64, n_test: int = 32, n_extra: int = 0) -> Arrays:
    """`<root>/<split>_32x32.mat`: X [32 32 3 n], y [n 1] with 10 for a zero."""
    root.mkdir(parents=True, exist_ok=True)
    sizes = {"train": n_train, "test": n_test, **({"extra": n_extra} if n_extra else {})}
    arrays = random_arrays(sizes, (32, 32, 3))
    for split, (image, label) in arrays.items():
        y = np.where(label == 0, 10, label).astype(np.uint8)[:, None]
        savemat(root / f"{split}_32x32.mat", {"X": image.transpose(1, 2, 3, 0), "y": y}, do_compression=True)
    return arrays


def write_cifar10(root: Path, n_train: int = 80, n_test: int = 32, packed: bool = False) -> Arrays:
    """`<root>/cifar-10-batches-py`: five pickled batches, rows of red, green and blue planes; `packed`: as .tar.gz."""
    arrays = random_arrays({"train": n_train, "test": n_test}, (32, 32, 3))
    parts = zip(*(np.array_split(a, 5) for a in arrays["train"]), strict=True)
    files = {f"data_batch_{i}": _cifar_batch(*part, "labels") for i, part in enumerate(parts, 1)}
    files["test_batch"] = _cifar_batch(*arrays["test"], "labels")
    files["batches.meta"] = {"label_names": [f"class {k}" for k in range(10)], "num_vis": 3072}
    _write_pickles(root / "cifar-10-batches-py", files, root / "cifar-10-python.tar.gz" if packed else None)
    return arrays


def write_cifar100(root: Path, n_train: int = 200, n_test: int = 32, packed: bool = False) -> Arrays:
    """`<root>/cifar-100-python`: one pickled batch a split, with fine and coarse labels; `packed`: as .tar.gz."""
    arrays = random_arrays({"train": n_train, "test": n_test}, (32, 32, 3), classes=100)
    files = {split: _cifar_batch(*part, "fine_labels") for split, part in arrays.items()}
    for content in files.values():
        content["coarse_labels"] = [k // 5 for k in content["fine_labels"]]
    files["meta"] = {"fine_label_names": [f"class {k}" for k in range(100)], "coarse_label_names": ["some"] * 20}
    _write_pickles(root / "cifar-100-python", files, root / "cifar-100-python.tar.gz" if packed else None)
    return arrays


def _cifar_batch(image: np.ndarray, label: np.ndarray, key: str) -> dict[str, Any]:
    rows = np.ascontiguousarray(image.transpose(0, 3, 1, 2)).reshape(len(image), 3072)
    return {"data": rows, key: label.tolist(), "filenames": [f"{i}.png" for i in range(len(image))]}


def _write_pickles(folder: Path, files: dict[str, Any], archive: Path | None) -> None:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    if archive:
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(folder, folder.name)
        shutil.rmtree(folder)


def write_tiny_imagenet(root: Path, per_class: int = 1, n_test: int = 200, classes: int = 200) -> Files:
    """`<root>/tiny-imagenet-200`: JPEGs of 64 x 64 in folders, those to test in one with a list of their classes."""
    folder, pixels = root / "tiny-imagenet-200", np.random.default_rng(0)
    wnids = [f"n{1443537 + 7 * k:08d}" for k in range(classes)]
    written: Files = {"train": [], "test": []}
    for k, wnid in enumerate(wnids):
        written["train"] += [(folder / f"train/{wnid}/images/{wnid}_{i}.JPEG", k) for i in range(per_class)]
    written["test"] = [(folder / f"val/images/val_{i}.JPEG", (7 * i) % classes) for i in range(n_test)]
    for path, _ in written["train"] + written["test"]:
        save_jpeg(path, pixels.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    for wnid in wnids:
        (folder / f"train/{wnid}/{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t63\t63\n")
    (folder / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in reversed(wnids)))  # in no order
    rows = [f"{path.name}\t{wnids[k]}\t0\t0\t63\t63\n" for path, k in written["test"]]
    (folder / "val/val_annotations.txt").write_text("".join(rows))
    return written


def write_imagenet(
    root: Path, classes: int = 3, per_class: int = 4, test_per_class: int = 2, size: tuple[int, int] = (40, 48)
) -> Files:
    """`<root>/{train,val}/<class>/*.JPEG`, of `ramps` of this height and width."""
    written: Files = {"train": [], "test": []}
    for k in range(classes):
        wnid = f"n{1440764 + 9 * k:08d}"
        written["train"] += [(root / f"train/{wnid}/{wnid}_{i}.JPEG", k) for i in range(per_class)]
        names = [f"ILSVRC2012_val_{classes * i + k + 1:08d}.JPEG" for i in range(test_per_class)]
        written["test"] += [(root / f"val/{wnid}/{name}", k) for name in names]
    for path, k in written["train"] + written["test"]:
        save_jpeg(path, ramps(*size, blue=40 + 10 * (k % 16)))
    return written


def ramps(h: int, w: int, blue: int) -> np.ndarray:
    """Red grows from left to right, green from top to bottom, from 0 at one edge to 250 at the other."""
    x, y = 250 * (np.arange(w) + 0.5) / w, 250 * (np.arange(h) + 0.5) / h
    red, green = np.meshgrid(x, y)
    return np.stack([red, green, np.full((h, w), blue)], axis=2).round().astype(np.uint8)


def save_jpeg(path: Path, image: np.ndarray) -> None:
    """At the best quality."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, format="JPEG", quality=100, subsampling=0)


def pack_imagenet(root: Path, written: Files) -> None:
    """What `write_imagenet` wrote, packed in the form in which ImageNet is handed out, instead of the folders."""
    wnids = sorted(path.name for path in (root / "train").iterdir())
    for wnid in wnids:
        _tar(root / "train" / f"{wnid}.tar", sorted((root / "train" / wnid).iterdir()))
    _tar(root / "ILSVRC2012_img_train.tar", sorted((root / "train").glob("*.tar")))
    images = sorted(written["test"], key=lambda item: item[0].name)
    _tar(root / "ILSVRC2012_img_val.tar", [path for path, _ in images])
    fields = ["ILSVRC2012_ID", "WNID", "words", "gloss", "num_children"]
    number = {k: len(wnids) - k for k in range(len(wnids))}  # the devkit's numbers are in another order
    rows = [(number[k], wnid, f"word {k}, other word", "a gloss", 0) for k, wnid in enumerate(wnids)]
    rows.append((len(wnids) + 1, "n00000001", "a parent", "of all", len(wnids)))
    synsets, matrix = np.array(rows, dtype=[(name, object) for name in fields]), io.BytesIO()
    savemat(matrix, {"synsets": synsets[:, None]})
    truth = "".join(f"{number[k]}\n" for _, k in images).encode()
    with tarfile.open(root / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as tar:
        content = {"meta.mat": matrix.getvalue(), "ILSVRC2012_validation_ground_truth.txt": truth}
        for name, data in content.items():
            info = tarfile.TarInfo(f"ILSVRC2012_devkit_t12/data/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    shutil.rmtree(root / "train")
    shutil.rmtree(root / "val")


def _tar(archive: Path, files: list[Path]) -> None:
    with tarfile.open(archive, "w") as tar:
        for path in files:
            tar.add(path, path.name)


WRITERS: dict[str, Callable[..., Any]] = {
    "FashionMNIST": partial(write_mnist, where="FashionMNIST/raw"),
    "MNIST": write_mnist,
    "SVHN": write_svhn,
    "CIFAR10": write_cifar10,
    "CIFAR100": write_cifar100,
    "TinyImageNet": write_tiny_imagenet,
    "ImageNet": write_imagenet,
}
