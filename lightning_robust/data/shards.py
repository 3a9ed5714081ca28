"""Rows of arrays in several files, which are read as they are needed."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from lightning_robust.data.arrays import check_classes, check_probabilities, read_array
from lightning_robust.data.shard_files import Source


class Shards:
    """Sequence of the rows of several arrays, memory-mapped where their files allow it.

    `.npy` files do, and `.npz` archives unless they are compressed. Loading processes open the files anew instead of
    receiving what is in them.

    Args:
        sources: where the arrays are; all have rows of one type and shape.

    Raises:
        ValueError: for files that are missing or damaged, or rows of several types or shapes.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from lightning_robust.data.shard_files import image_sources
        >>> folder = Path(tempfile.mkdtemp())
        >>> for i in range(2):
        ...     np.save(folder / f"{i}_image.npy", np.full((3, 4, 4), i, dtype=np.uint8))
        >>> shards = Shards(image_sources(str(folder)))
        >>> len(shards), int(shards[2].max()), int(shards[3].max())
        (6, 0, 1)
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = sources
        self.parts = [read_array(*source) for source in sources]
        self.ends = [*accumulate(len(part) for part in self.parts)]
        first = self.parts[0]
        for (path, _), part in zip(sources, self.parts, strict=True):
            if (part.dtype, part.shape[1:]) != (first.dtype, first.shape[1:]):
                raise ValueError(
                    f"{path} holds {part.dtype} {list(part.shape)} where {sources[0][0]} holds {first.dtype} "
                    f"{list(first.shape)}: all files must have rows of one type and shape."
                )

    def __reduce__(self) -> Any:
        return Shards, (self.sources,)

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, i: int) -> Any:
        if not 0 <= i < len(self):
            raise IndexError(f"There is no row {i} of {len(self)}.")
        part = bisect_right(self.ends, i)
        return self.parts[part][i - self.ends[part]]  # counted from the part's end


def check_beside(image: Shards, label: Shards) -> None:
    """Raise unless each file of images has as many labels beside it; elsewhere rows would belong to other images.

    Args:
        image: images, whose files are more than one.
        label: what lies beside them, file by file.

    Raises:
        ValueError: naming the file.
    """
    for (path, _), labels, images in zip(label.sources, label.parts, image.parts, strict=True):
        if len(labels) != len(images):
            raise ValueError(f"{path} holds {len(labels)} labels for the {len(images)} images beside: each needs one.")


def pseudo_labels(label: Shards, num_classes: int, n: int) -> Any:
    """Check labels, of which each image needs one, and return them.

    Args:
        label: class numbers [n] or probabilities [n k].
        num_classes: number of classes k.
        n: number of images.

    Returns:
        Class numbers [n], in memory as the smallest type that holds them; or the probabilities, left in their files.

    Raises:
        ValueError: for another number, type or range of labels.
    """
    places = ", ".join(str(path) for path, _ in label.sources)
    soft = label.parts[0].ndim == 2 and label.parts[0].dtype.kind == "f"
    if len(label) != n:
        raise ValueError(f"There are {len(label)} labels in {places} for {n} images: each image needs one.")
    for (path, _), part in zip(label.sources, label.parts, strict=True):
        if soft:
            check_probabilities(part, num_classes, path)
        else:
            check_classes(part, num_classes, len(part), path)
    if soft:
        return label
    return np.concatenate([part.astype(np.min_scalar_type(num_classes)) for part in label.parts])
