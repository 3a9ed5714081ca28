"""The idx files in which MNIST and its likes are published, also packed by gzip."""

import gzip
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an array of bytes: a head of two zeros, the type, the number of axes and their sizes, then the values.

    Args:
        path: the file; it is unpacked in memory if its name ends in `.gz`.

    Raises:
        ValueError: for a file that is damaged or of another type.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if content[:3] != b"\0\0\x08":
            raise ValueError("it is no idx file of bytes")
        head = 4 + 4 * content[3]
        shape = np.frombuffer(content[4:head], dtype=">i4")
        return np.frombuffer(content, dtype=np.uint8, offset=head).reshape(shape).copy()
    except (EOFError, IndexError, OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}): put the published file there.") from error
