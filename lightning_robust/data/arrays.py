"""Reading and checking images and labels in NumPy files."""

from pathlib import Path
from typing import Any

import numpy as np

from lightning_robust.data.npz_mapping import map_stored
from lightning_robust.utils.labels import SUM_TOLERANCE


def read_array(path: Path, name: str | None = None) -> Any:
    """Read the array of an `.npy` file, or one array of an `.npz` archive; compressed archives alone into memory.

    The others are memory-mapped.

    Args:
        path: the file.
        name: the array's name in an `.npz` archive; None for an `.npy` file.

    Raises:
        ValueError: for a file that is missing or damaged, holds more than plain arrays, or lacks the name.
    """
    kind = "a NumPy array" if name is None else f"an .npz archive with {name!r}"
    if not path.is_file():
        raise ValueError(f"There is no file {str(path)!r}: it should be {kind}.")
    try:
        if name is None:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            found = sorted(archive)
            if name in found:
                mapped = map_stored(path, name)
                return archive[name] if mapped is None else mapped
    except MemoryError as error:
        raise ValueError(
            f"{path} is compressed, and {name!r} is too large to be unpacked into memory: write it with numpy.savez or "
            "as an .npy file, which are read as they are needed."
        ) from error
    except Exception as error:  # zip, pickle and NumPy's header parser each raise their own kinds
        raise ValueError(f"{path} cannot be read as {kind}: {error}.") from error
    raise ValueError(f"{path} holds {found} but no {name!r}.")


def array_names(path: Path) -> list[str]:
    """Return the names of the arrays in an `.npz` archive.

    Args:
        path: the file.

    Raises:
        ValueError: for any other file.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return sorted(archive)
    except Exception as error:  # zip, pickle and NumPy's header parser each raise their own kinds
        raise ValueError(f"{path} cannot be read as an .npz archive: {error}.") from error


def check_bytes(image: Any, path: Path) -> None:
    """Raise unless the array holds images as bytes [n h w] or [n h w c].

    Args:
        image: the array.
        path: where it was read from, for the message.

    Raises:
        ValueError: for another type or shape.
    """
    if image.dtype != np.uint8 or image.ndim not in (3, 4):
        raise ValueError(
            f"The images in {path} must be bytes [n h w] or [n h w c] from 0 to 255, got {image.dtype} {image.shape}."
        )


def check_classes(label: Any, num_classes: int, n: int, where: str | Path) -> None:
    """Raise unless the array holds n integers in [0, num_classes).

    Args:
        label: the array.
        num_classes: number of classes.
        n: number of images that need a label.
        where: what the labels belong to, for the message.

    Raises:
        ValueError: for another type, shape or range.
    """
    label = np.asarray(label)
    valid = label.shape == (n,) and (label.dtype.kind in "iu" or not n)
    if not valid or (n and not 0 <= label.min() <= label.max() < num_classes):
        span = f" from {label.min()} to {label.max()}" if label.size else ""
        raise ValueError(
            f"{where} has {n} images and {label.dtype} labels {list(label.shape)}{span}: each image needs a class "
            f"number below {num_classes}."
        )


def check_probabilities(label: Any, num_classes: int, where: str | Path) -> None:
    """Raise unless the rows of an array [n num_classes] are probabilities; they are read a part at a time.

    Args:
        label: the array.
        num_classes: number of classes.
        where: what the labels belong to, for the message.

    Raises:
        ValueError: for another number of columns, values below 0, or rows whose sum is not 1.
    """
    if label.shape[1] != num_classes:
        raise ValueError(f"The soft labels in {where} are of {label.shape[1]} classes where there are {num_classes}.")
    for start in range(0, len(label), 100_000):
        rows = np.asarray(label[start : start + 100_000], dtype=np.float64)
        low, sums = rows.min(), rows.sum(1)
        worst = sums[np.abs(sums - 1).argmax()]  # NaN too
        if not (low >= 0 and abs(worst - 1) <= SUM_TOLERANCE):
            raise ValueError(
                f"The soft labels in {where} must be probabilities, but they go down to {low:.4g} and a row sums to "
                f"{worst:.4g}."
            )
