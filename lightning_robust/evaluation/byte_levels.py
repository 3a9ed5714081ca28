"""Images of 8 bits as bytes, from which their values come back bit for bit."""

import math

import torch
from torch import Tensor

_BITS = {torch.float32: torch.int32, torch.float64: torch.int64}

_PIECE = 2**20
"""Values that are turned into bytes at a time, so that little memory is needed beside the images."""


class ByteLevels:
    """The values that a data set's images of 8 bits take, by channel and byte.

    They are learned from the images, so it does not matter how bytes became values: divided by 255, multiplied by
    1/255, or normalised and back.

    Example:
        >>> x = torch.arange(256).view(1, 1, 16, 16) / 255
        >>> levels = ByteLevels()
        >>> data = levels.encode(x)
        >>> data.dtype, torch.equal(levels.decode(data), x), levels.encode(x * 0.999)
        (torch.uint8, True, None)
    """

    def __init__(self) -> None:
        self._values: Tensor | None = None  # [c 256], NaN where no image had the byte

    def encode(self, x: Tensor) -> Tensor | None:
        """Return images as bytes of the same shape, or None if `decode` would not give back each bit of them.

        Bytes that were returned before keep their values.

        Args:
            x: images [b c h w], in [0, 1] if they are to become bytes.
        """
        if x.dim() != 4 or x.dtype not in _BITS:
            return None
        shape = (x.shape[1], 256)
        values = x.new_full(shape, torch.nan) if self._values is None else self._values.to(x.device)
        if values.shape != shape or values.dtype != x.dtype:
            return None
        data = torch.empty(x.shape, dtype=torch.uint8, device=x.device)
        size = max(1, _PIECE // max(1, math.prod(x.shape[1:])))
        for first in (0, *range(1, len(x), size)):  # the first image alone: most others than those of 8 bits show there
            rows = slice(first, first + size if first else 1)
            data[rows] = part = (x[rows] * 255).round_().clamp_(0, 255).to(torch.uint8)
            other = _differ(_decoded(part, values), x[rows])
            if other.any():
                values = _learned(values, _places(part)[other], x[rows][other])
                if _differ(_decoded(part, values), x[rows]).any():
                    return None
        self._values = values.cpu()
        return data

    def decode(self, data: Tensor) -> Tensor:
        """Return the images [b c h w] that `encode` turned into these bytes, on their device."""
        assert self._values is not None
        return _decoded(data, self._values.to(data.device))


def _learned(values: Tensor, places: Tensor, new: Tensor) -> Tensor:
    """Return the values with those at places where none was known."""
    candidates = values.flatten()
    candidates = candidates.index_put((places.long(),), new).view_as(values)
    return torch.where(values.isnan(), candidates, values)


def _decoded(data: Tensor, values: Tensor) -> Tensor:
    return values.flatten().index_select(0, _places(data).flatten()).view(data.shape)


def _places(data: Tensor) -> Tensor:
    """Return where in the flattened values [c 256] each byte's stands [b c h w]."""
    channel = torch.arange(data.shape[1], dtype=torch.int32, device=data.device)
    return data.int() + 256 * channel.view(-1, 1, 1)


def _differ(x: Tensor, other: Tensor) -> Tensor:
    """Mark the values in which a bit differs, so that 0 and -0 do."""
    bits = _BITS[x.dtype]
    return x.view(bits) != other.view(bits)
