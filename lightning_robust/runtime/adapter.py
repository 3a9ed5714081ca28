"""Adapter from a user's module to a net from pixels to logits."""

import functools
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from lightning_robust.runtime.outputs import logits_of


class NetAdapter(nn.Module):
    """Net from pixels in [0, 1] to logits, made of a module that wants its images otherwise or is called otherwise.

    With `mean` and `std` the module takes normalised images, `(x - mean) / std`. An attack on the adapter then works on
    pixels, so that radii and the box are in pixels; `to_pixels` converts what a loader of normalised images gives, and
    `from_pixels` converts examples back.

    The module itself is registered, not a copy: its modes, parameters and buffers are those that attacks switch and
    restore.

    Args:
        module: the module.
        forward: how it is called, a function from (module, images) to logits, or the name of one of its methods, such
            as "predict_logits" or "model.classify"; by default `module(images)`. What comes out may be whatever
            `logits_of` reads.
        mean: mean of each channel, in pixels in [0, 1], if the module takes normalised images: a sequence with one
            value for each channel, or with a single value for all channels, such as [0.5].
        std: standard deviation of each channel, > 0, as many as `mean`.

    Raises:
        TypeError: for a `forward` that is neither a function nor the name of a method.
        ValueError: for only one of `mean` and `std`, different lengths, or a std that is not > 0; when called, for
            images with another number of channels.

    Example:
        >>> class Foreign(nn.Module):
        ...     def predict_logits(self, x):
        ...         return {"logits": x.flatten(1)}
        >>> net = NetAdapter(Foreign(), "predict_logits", mean=[0.5], std=[0.25])
        >>> net(torch.full((1, 1, 1, 2), 0.75))
        tensor([[1., 1.]])
        >>> net.to_pixels(torch.ones(1, 1, 1, 2))
        tensor([[[[0.7500, 0.7500]]]])
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(
        self,
        module: nn.Module,
        forward: Callable[[nn.Module, Tensor], Any] | str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if isinstance(forward, str) and not callable(_attribute(module, forward)):
            raise TypeError(f"{type(module).__name__} has no method {forward!r}: give forward the name of one it has.")
        if forward is not None and not isinstance(forward, str) and not callable(forward):
            raise TypeError(
                f"forward must be a function (module, images) -> logits or a method's name, got {forward!r}."
            )
        if (mean is None) != (std is None):
            raise ValueError(f"mean and std belong together, got mean {mean} and std {std}: give both or neither.")
        if mean is not None and std is not None and (len(mean) != len(std) or not all(s > 0 for s in std)):
            raise ValueError(f"mean and std must be equally long and std > 0, got {list(mean)} and {list(std)}.")
        self.module = module
        self.net = functools.partial(_call, module, forward)
        with torch.inference_mode(False):
            for name, values in {"mean": mean, "std": std}.items():
                self.register_buffer(name, None if values is None else torch.tensor(values), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the module's logits [b k] of images [b c ...] in pixels."""
        return logits_of(self.net(self.from_pixels(x)))

    def to_pixels(self, x: Tensor) -> Tensor:
        """Return the pixels [b c ...] of images as the module takes them."""
        if self.mean is None or self.std is None:
            return x
        return x * self._per_channel("std", x) + self._per_channel("mean", x)

    def from_pixels(self, x: Tensor) -> Tensor:
        """Return images [b c ...] in pixels as the module takes them."""
        if self.mean is None or self.std is None:
            return x
        return (x - self._per_channel("mean", x)) / self._per_channel("std", x)

    def _per_channel(self, name: str, x: Tensor) -> Tensor:
        values: Tensor = getattr(self, name)
        if len(values) not in (1, x.shape[1] if x.dim() > 1 else 0):
            raise ValueError(
                f"mean and std are for {len(values)} channels, but the images are of shape {tuple(x.shape)}: give one "
                "value for each channel, or a single one."
            )
        if values.device != x.device:
            with torch.inference_mode(False):
                values = values.to(x.device)
            setattr(self, name, values)  # the module was moved: nobody moves its adapter
        return values.to(x.dtype).view(-1, *[1] * (x.dim() - 2))


def _call(module: nn.Module, forward: Callable[[nn.Module, Tensor], Any] | str | None, x: Tensor) -> Any:
    if forward is None:
        return module(x)
    return _attribute(module, forward)(x) if isinstance(forward, str) else forward(module, x)


def _attribute(module: nn.Module, name: str) -> Any:
    try:
        return attrgetter(name)(module)
    except AttributeError:
        return None
