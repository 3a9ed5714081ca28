"""The newest value of a scalar on a device, read without waiting for the device."""

import torch
from torch import Tensor


class HostValue:
    """Keeps the newest value of a scalar that has reached the host.

    On a CUDA device `follow` only queues a copy, and takes what an earlier copy has brought; so `value` may be a few
    steps old, and the device's queue never runs dry for it. On other devices the value is read at once.

    Example:
        >>> loss = HostValue()
        >>> loss.follow(torch.tensor(0.5))
        >>> loss.value
        0.5
    """

    def __init__(self) -> None:
        self.value: float | None = None
        self._copy: Tensor | None = None
        self._copied: torch.cuda.Event | None = None

    def follow(self, scalar: Tensor) -> None:
        """Ask for the value of a scalar tensor, unless the last one asked for is still on its way."""
        if scalar.device.type != "cuda":
            self.value = float(scalar.detach())
            return
        if self._copy is None or self._copied is None:
            self._copy = torch.empty((), pin_memory=True)
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        elif self._copied.query():  # type: ignore[no-untyped-call]
            self.value = float(self._copy)
        else:
            return
        self._copy.copy_(scalar.detach().float(), non_blocking=True)
        self._copied.record(torch.cuda.current_stream(scalar.device))
