"""The images of the samples under evaluation, each of them until it is not needed any more."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_robust.evaluation.image_store import Block, ImageStore

_CPU = torch.device("cpu")


class Images:
    """The images of n samples, which lie in the blocks of an `ImageStore` and come as tensors by their positions.

    Selecting or joining them copies none.

    Args:
        store: where more images are kept.
        blocks: what is kept.
        place: the number of each image's block, and its row there [n 2]; -1 for one that is not kept any more.
        size: of an image, such as (c, h, w).
        dtype: of an image.

    Example:
        >>> images = Images.of(torch.arange(3.0).view(3, 1, 1, 1).repeat(1, 1, 2, 2) / 2)
        >>> images.shape, images.nbytes, images[torch.tensor([2, 1])].mean((1, 2, 3)).tolist()
        ((3, 1, 2, 2), 12, [1.0, 0.5])
        >>> images.keep_only(torch.tensor([True, False, True]))
        >>> len(images), images.nbytes, images[2].mean().item()
        (3, 8, 1.0)
    """

    def __init__(
        self, store: ImageStore, blocks: list[Block], place: Tensor, size: Sequence[int], dtype: torch.dtype
    ) -> None:
        self.store, self.blocks, self.place = store, blocks, place
        self.size, self.dtype = tuple(size), dtype

    @classmethod
    def of(cls, x: Tensor, store: ImageStore | None = None) -> "Images":
        """Keep images [n ...] of any device.

        Args:
            x: the images.
            store: where; by default in main memory.
        """
        store = ImageStore() if store is None else store
        rows = torch.arange(len(x))
        return cls(store, [store.put(x)], torch.stack([torch.zeros_like(rows), rows], 1), x.shape[1:], x.dtype)

    @classmethod
    def none(
        cls,
        n: int,
        size: Sequence[int] = (0,),
        dtype: torch.dtype = torch.float32,
        store: ImageStore | None = None,
    ) -> "Images":
        """Return n images that are not kept."""
        return cls(ImageStore() if store is None else store, [], torch.full((n, 2), -1), size, dtype)

    @classmethod
    def join(cls, parts: Sequence["Images"]) -> "Images":
        """Put images of one size after each other; more are kept where those of the first part are."""
        blocks: list[Block] = []
        places = []
        for part in parts:
            first = torch.where(part.place[:, :1] < 0, 0, len(blocks))
            places.append(torch.cat([part.place[:, :1] + first, part.place[:, 1:]], 1))
            blocks += part.blocks
        return cls(parts[0].store, blocks, torch.cat(places), parts[0].size, parts[0].dtype)

    def __len__(self) -> int:
        return len(self.place)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape [n ...] of all images as one tensor."""
        return len(self), *self.size

    @property
    def nbytes(self) -> int:
        """How many bytes the images take, in memory and in a file."""
        return sum(block.data.nbytes for block in self.blocks)

    def __getitem__(self, rows: Any) -> Tensor:
        """Return images as a tensor on the CPU: one, those of a slice, or those that a tensor selects."""
        if isinstance(rows, int):
            return self.read(torch.tensor([rows]), _CPU)[0]
        return self.read(torch.arange(len(self))[rows], _CPU)

    def read(self, rows: Tensor, device: torch.device) -> Tensor:
        """Return the images at these positions [m] as a tensor [m ...] on a device.

        Raises:
            LookupError: if one of them is not kept any more.
        """
        number, row = self.place[rows].unbind(1)
        blocks: list[int] = torch.unique(number).tolist()
        if blocks and blocks[0] < 0:
            raise LookupError("An image was let go that is needed again.")
        if len(blocks) == 1:
            return self.blocks[blocks[0]].read(row, device)
        found = torch.empty(len(rows), *self.size, dtype=self.dtype, device=device)
        for block in blocks:
            here = torch.nonzero(number == block)[:, 0]
            found.index_copy_(0, here.to(device), self.blocks[block].read(row[here], device))
        return found

    def select(self, rows: Tensor) -> "Images":
        """Return the images that a mask or positions select; they lie in the same memory as before."""
        return Images(self.store, list(self.blocks), self.place[rows], self.size, self.dtype)

    def keep_only(self, needed: Tensor) -> None:
        """Let go of all images but those that `needed` [n] marks, and free the memory of what nobody refers to.

        Args:
            needed: marks the images that are read again.
        """
        self.place = torch.where(needed[:, None], self.place, -1)
        numbers, counts = torch.unique(self.place[:, 0], return_counts=True)
        parts = torch.split(self.place[:, 0].argsort(stable=True), counts.tolist())
        kept: list[Block] = []
        old, self.blocks = self.blocks, []
        for number, here in zip(numbers.tolist(), parts, strict=True):
            if number < 0:
                continue
            block, rows = old[number], self.place[here, 1]
            if block.in_memory and len(here) < len(block.data):
                # block by block, so that there are never two copies of all
                old[number] = block = self.store.shorten(block, rows)
                self.place[here, 1] = torch.arange(len(here))
            self.place[here, 0] = len(kept)
            kept.append(block)
        used = set(numbers.tolist())
        self.store.drop([block for number, block in enumerate(old) if number not in used])
        self.blocks = kept
