"""Memory-mapping of arrays in an archive."""

from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile

import numpy as np

_LOCAL_HEADER = 30
"""Bytes before the name of a file in an archive; the last four of them are the lengths of the name and of the rest."""


def map_stored(path: Path, name: str) -> Any:
    """Memory-map one array of an `.npz` archive; None if it is compressed, as by `numpy.savez_compressed`.

    An array that `numpy.savez` wrote lies in the archive as it would in an `.npy` file.

    Args:
        path: the archive.
        name: the array's name.

    Raises:
        ValueError: for objects, which would be unpickled.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "a.npz"
        >>> np.savez(file, image=np.arange(6).reshape(2, 3))
        >>> map_stored(file, "image")[1]
        memmap([3, 4, 5])
    """
    with ZipFile(path) as archive:
        member = archive.getinfo(f"{name}.npy")
    if member.compress_type != ZIP_STORED:
        return None
    with path.open("rb") as file:
        file.seek(member.header_offset + _LOCAL_HEADER - 4)
        lengths = np.frombuffer(file.read(4), "<u2")
        file.seek(int(lengths.sum(dtype=int)), 1)
        major, _ = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        shape, by_column, dtype = read(file)
        if dtype.hasobject:
            raise ValueError("Object arrays cannot be loaded")
        if not np.prod(shape):
            return np.empty(shape, dtype)  # nothing can be mapped
        return np.memmap(path, dtype, "r", file.tell(), shape, "F" if by_column else "C")
