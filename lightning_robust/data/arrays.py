"""Arrays of images and labels in NumPy's files, and what they must be."""

from pathlib import Path
from typing import Any

import numpy as np


def read_array(path: Path, name: str | None = None) -> Any:
    """The array of an `.npy` file, mapped from disk; with a `name` that of an `.npz` archive, in memory.

    Raises:
        ValueError: for a file that is not there or not whole, holds more than plain arrays, or lacks the name.
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
                return archive[name]
    except Exception as error:  # of zip, of pickle, of NumPy, of a tokenizer
        raise ValueError(f"{path} cannot be read as {kind}: {error}.") from error
    raise ValueError(f"{path} holds {found} but no {name!r}.")


def check_bytes(image: Any, path: Path) -> None:
    """That these are images as bytes [n h w] or [n h w c].

    Raises:
        ValueError: if not.
    """
    if image.dtype != np.uint8 or image.ndim not in (3, 4):
        raise ValueError(
            f"The images in {path} must be bytes [n h w] or [n h w c] from 0 to 255, got {image.dtype} {image.shape}."
        )


def check_classes(label: Any, num_classes: int, n: int, where: str | Path) -> None:
    """That these are n class numbers.

    Raises:
        ValueError: if not.
    """
    label = np.asarray(label)
    whole = label.shape == (n,) and (label.dtype.kind in "iu" or not n)
    if not whole or not np.isin(label, range(num_classes)).all():
        span = f" from {label.min()} to {label.max()}" if label.size else ""
        raise ValueError(
            f"{where} has {n} images and {label.dtype} labels {list(label.shape)}{span}: each image needs a class "
            f"number below {num_classes}."
        )
