"""Where the arrays are that files, folders and patterns name."""

from collections.abc import Sequence
from glob import glob, has_magic
from pathlib import Path
from typing import TypeAlias

Source: TypeAlias = tuple[Path, str | None]
"""An `.npz` archive with an array's name, or an `.npy` file."""


def image_sources(given: str | Sequence[str]) -> list[Source]:
    """Return where the images are that files, folders or patterns name, in the order of the files' names.

    Args:
        given: `.npz` archives with "image", `.npy` files, folders of either, or patterns such as "edm/*_image.npy".
    """
    return _sources(given, "image")


def label_sources(given: str | Sequence[str]) -> list[Source]:
    """Return where the labels are that files, folders or patterns name, in the order of the files' names.

    Args:
        given: `.npz` archives with "label", `.npy` files, folders of either, or patterns such as "edm/*_label.npy".
    """
    return _sources(given, "label")


def labels_beside(images: Sequence[Source]) -> list[Source]:
    """Return where the labels of images are: in the same archive, or for `x_image.npy` in `x_label.npy`.

    Raises:
        ValueError: for an `.npy` file of another name.

    Example:
        >>> labels_beside([(Path("edm_image.npy"), None), (Path("edm.npz"), "image")])
        [(PosixPath('edm_label.npy'), None), (PosixPath('edm.npz'), 'label')]
    """
    return [(path, "label") if name else (_label_file(path), None) for path, name in images]


def _label_file(path: Path) -> Path:
    if not path.stem.endswith("image"):
        raise ValueError(
            f"The labels of {path} are not known: call it {path.stem}_image.npy with its labels in "
            f"{path.stem}_label.npy, or give the file of the `labels`."
        )
    return path.with_name(f"{path.stem.removesuffix('image')}label.npy")


def _sources(given: str | Sequence[str], name: str) -> list[Source]:
    found = [path for one in ([given] if isinstance(given, str) else given) for path in _files(one, name)]
    return [(path, None if path.suffix == ".npy" else name) for path in found]


def _files(given: str, name: str) -> list[Path]:
    path = Path(given).expanduser()
    if path.is_dir():
        found = sorted(path.glob(f"*{name}.npy")) or sorted(path.glob("*.npz"))
    elif has_magic(given) and not path.exists():
        found = [Path(file) for file in sorted(glob(str(path)))]
    else:
        return [path]
    if not found:
        raise ValueError(f"There are no files {given!r}: they should be .npz archives or *{name}.npy files.")
    return found
