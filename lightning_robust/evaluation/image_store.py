"""Where the images of an evaluation wait until they are attacked: as bytes if possible, in memory or in a file."""

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lightning_robust.evaluation.byte_levels import ByteLevels
from lightning_robust.evaluation.temporary_rows import RowsInFile, TemporaryRows


@dataclass(frozen=True)
class Block:
    """Some images, as an `ImageStore` keeps them.

    Args:
        data: the images [m ...], or their bytes.
        levels: what turns bytes into images; None where the data are images.
    """

    data: Tensor | RowsInFile
    levels: ByteLevels | None

    def read(self, rows: Tensor, device: torch.device) -> Tensor:
        """Return the images at these rows on a device."""
        found = self.data.index_select(0, rows).to(device)
        return found if self.levels is None else self.levels.decode(found)

    def only(self, rows: Tensor) -> "Block":
        """Return a block of these rows alone."""
        return Block(self.data.index_select(0, rows), self.levels)

    @property
    def in_memory(self) -> int:
        """The number of bytes that it takes in main memory."""
        return 0 if isinstance(self.data, RowsInFile) else self.data.nbytes


MUCH = 2**30
"""Bytes from which on it is said beforehand how much memory the images take."""


class ImageStore:
    """Keeps images as bytes where that is exact, and in a temporary file where they need more than some memory.

    The file has no name that another process could open, and vanishes with the process, however it ends.

    Args:
        memory: how many bytes of main memory they may take; by default without a limit.
        folder: where the file is; by default the system's folder of temporary files. A missing one is created.

    Example:
        >>> store = ImageStore(memory=100)
        >>> blocks = [store.put(torch.ones(2, 1, 5, 5)) for _ in range(3)]
        >>> [block.in_memory for block in blocks], blocks[2].read(torch.tensor([1]), torch.device("cpu")).shape
        ([50, 50, 0], torch.Size([1, 1, 5, 5]))
    """

    def __init__(self, memory: float = math.inf, folder: Path | None = None) -> None:
        self.memory, self.folder = memory, folder
        self.used = 0
        """How many bytes of main memory the images take."""
        self._levels = ByteLevels()
        self._file: TemporaryRows | None = None

    def put(self, x: Tensor) -> Block:
        """Keep images [b ...] until they are read.

        Raises:
            OSError: if the file that they go to cannot take them.
        """
        encoded = self._levels.encode(x)
        data = (x if encoded is None else encoded).cpu()
        fits = self.used + data.nbytes <= self.memory
        block = Block(data if fits else self._written(data), None if encoded is None else self._levels)
        self.used += block.in_memory
        return block

    def shorten(self, block: Block, rows: Tensor) -> Block:
        """Return a block of these rows alone, and count the memory that this sets free."""
        shorter = block.only(rows)
        self.used -= block.in_memory - shorter.in_memory
        return shorter

    def drop(self, blocks: Sequence[Block]) -> None:
        """Count the memory of blocks that are not needed any more as free."""
        self.used -= sum(block.in_memory for block in blocks)

    def announcement(self, nbytes: float) -> str | None:
        """Return a sentence that says where so many bytes of images will wait; None where they are not much.

        Example:
            >>> ImageStore(2**33, Path("runs")).announcement(7 * 2**30)
            'Until they are attacked, about 7.0 GiB of images wait in main memory on each rank.'
            >>> ImageStore(2**33, Path("runs")).announcement(28 * 2**30)
            'Until they are attacked, about 28.0 GiB of images wait on each rank, 20.0 GiB of them in a file in runs.'
        """
        if nbytes <= MUCH:
            return None
        told, beyond = f"about {nbytes / 2**30:.1f} GiB of images wait", nbytes - self.memory
        if beyond <= 0:
            return f"Until they are attacked, {told} in main memory on each rank."
        place = self.folder or tempfile.gettempdir()
        return f"Until they are attacked, {told} on each rank, {beyond / 2**30:.1f} GiB of them in a file in {place}."

    def _written(self, data: Tensor) -> RowsInFile:
        try:
            if self._file is None:
                self._file = TemporaryRows(self.folder)
            return self._file.append(data)
        except OSError as error:
            raise OSError(
                f"The images that wait for their attacks do not fit into {self.folder or tempfile.gettempdir()} "
                f"({error.strerror or error}): name a folder with more room by state_dir, keep more in main memory by "
                "image_memory, or evaluate fewer samples."
            ) from error
