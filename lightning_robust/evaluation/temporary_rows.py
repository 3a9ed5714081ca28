"""Rows of tensors that lie in a temporary file until they are read."""

import math
import tempfile
import weakref
from pathlib import Path

import torch
from torch import Tensor


class TemporaryRows:
    """A temporary file of rows, which no other process can open, and which vanishes with the process.

    Args:
        folder: where it lies; a missing folder is created. By default the system's folder of temporary files.

    Example:
        >>> rows = TemporaryRows().append(torch.arange(6).view(3, 2))
        >>> rows.index_select(0, torch.tensor([2, 0]))
        tensor([[4, 5],
                [0, 1]])
    """

    def __init__(self, folder: Path | None = None) -> None:
        if folder is not None:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (open as long as anyone refers to rows in it)
        weakref.finalize(self, self.file.close)

    def append(self, data: Tensor) -> "RowsInFile":
        """Write the rows of a tensor [n ...] on the CPU.

        Raises:
            OSError: if the file system has no room for them.
        """
        first = self.file.seek(0, 2)
        self.file.write(data.contiguous().flatten().view(torch.uint8).numpy().data)
        self.file.flush()
        return RowsInFile(self, first, data.shape, data.dtype)


class RowsInFile:
    """The rows of a tensor in a file, which are read by their positions.

    Args:
        within: the file.
        first: where in it they begin.
        shape: of the tensor [n ...].
        dtype: of the tensor.
    """

    def __init__(self, within: TemporaryRows, first: int, shape: torch.Size, dtype: torch.dtype) -> None:
        self._within, self._first, self._shape, self._dtype = within, first, shape, dtype

    def __len__(self) -> int:
        return self._shape[0]

    @property
    def nbytes(self) -> int:
        """The number of bytes that the rows take in the file."""
        return math.prod(self._shape) * self._dtype.itemsize

    def index_select(self, dim: int, rows: Tensor) -> Tensor:
        """Read the rows at these positions [m], as a tensor [m ...]; a tensor's method of this name does the same.

        Args:
            dim: 0, the dimension of the rows.
            rows: their positions.
        """
        assert dim == 0
        found = torch.empty(len(rows), *self._shape[1:], dtype=self._dtype)
        size = math.prod(self._shape[1:]) * self._dtype.itemsize
        file, space = self._within.file, found.flatten().view(torch.uint8).numpy().reshape(len(rows), size)
        for row, into in zip(rows.tolist(), space, strict=True):
            file.seek(self._first + row * size)
            if file.readinto(into.data) != size:
                raise OSError("A temporary file of images was cut off while they were evaluated.")
        return found
