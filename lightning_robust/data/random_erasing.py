"""Random erasing, whose values lie in [0, 1] whatever the image's type."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2


class RandomErasing(v2.RandomErasing):  # type: ignore[misc]
    """torchvision's `RandomErasing` for images of bytes and of floats in [0, 1].

    torchvision writes its values into an image as they are: on bytes, 0.5 would be black, and its noise, which is meant
    for normalised images, would lie outside of the pixels' range.

    Args:
        p: probability that a part of an image is erased.
        scale: smallest and largest share of the image's area that is erased.
        ratio: smallest and largest aspect ratio of the erased part.
        value: what is written there: a number in [0, 1], one for each channel, or "random" for normal noise around 0.5
            with a standard deviation of 0.25, clamped into [0, 1].

    Raises:
        ValueError: for values outside of [0, 1].

    Example:
        >>> erased = RandomErasing(p=1.0, value=1.0)(torch.zeros(3, 8, 8, dtype=torch.uint8))
        >>> erased.unique()
        tensor([  0, 255], dtype=torch.uint8)

    Paper: Zhong et al. 2017 (arXiv 1708.04896).
    """

    def __init__(
        self,
        p: float = 0.5,
        scale: Sequence[float] = (0.02, 0.33),
        ratio: Sequence[float] = (0.3, 3.3),
        value: float | Sequence[float] | str = 0.0,
    ) -> None:
        super().__init__(p, scale, ratio, value)
        if self.value is not None and not all(0 <= v <= 1 for v in self.value):
            raise ValueError(f"RandomErasing writes a value in [0, 1], where 1 is white, got {value}.")

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the part that is erased and what is written there, as values of the image's type."""
        params: dict[str, Any] = super().make_params(flat_inputs)
        v: Tensor | None = params["v"]
        if v is None:  # no part of the right form was found
            return params
        v = (0.5 + v / 4).clamp(0, 1) if self.value is None else v
        return {**params, "v": v if flat_inputs[0].is_floating_point() else (255 * v).round().to(torch.uint8)}
