"""Other forward passes of modules for a while."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def replaced_forwards(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Let modules run other functions instead of their `forward` within a `with` block.

    Their hooks run as ever, and whatever holds the modules need not know. Modules should not be copied or pickled
    inside the block.

    Args:
        forwards: what runs instead, by module.

    Example:
        >>> import torch
        >>> layer, x = nn.ReLU(), torch.tensor([-1.0])
        >>> with replaced_forwards({layer: torch.abs}):
        ...     layer(x)
        tensor([1.])
        >>> layer(x)
        tensor([0.])
    """
    before = {module: module.__dict__["forward"] for module in forwards if "forward" in module.__dict__}
    for module, forward in forwards.items():
        module.__dict__["forward"] = forward
    try:
        yield
    finally:
        for module in forwards:
            module.__dict__.pop("forward", None)
            module.__dict__.update({"forward": before[module]} if module in before else {})
