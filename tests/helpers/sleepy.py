"""Nets that take their time."""

import time
from typing import Any, TypeVar

from torch import nn

from lightning_robust.models import SmallConvNet

N = TypeVar("N", bound=nn.Module)


def slowed(net: N, seconds: float = 0.1) -> N:
    """The same net, waiting for so long before each forward pass."""
    net.register_forward_pre_hook(lambda *_: time.sleep(seconds))
    return net


class SleepyConvNet(SmallConvNet):
    """Waits before each forward pass.

    Args:
        seconds: for so long.
    """

    def __init__(self, seconds: float = 0.1, **settings: Any) -> None:
        super().__init__(**settings)
        slowed(self, seconds)
