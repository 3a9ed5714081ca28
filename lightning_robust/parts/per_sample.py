"""A number remembered for every training sample, the same on all ranks."""

from typing import Any

import torch
import torch.distributed
from torch import Tensor

from lightning_robust.runtime.ranks import world_size


class PerSample:
    """One float for each training sample: 4 bytes each (5 where there are several ranks), no parameter and no buffer.

    A buffer would be overwritten by rank 0's at each step of distributed training and averaged by weight averaging.
    Here each rank writes the samples it sees, and `synchronise` exchanges what was written since.
    """

    def __init__(self) -> None:
        self.values = torch.zeros(0)
        self._written = torch.zeros(0, dtype=torch.bool)

    def prepare(self, n: int, device: torch.device) -> None:
        """Hold n samples on this device: zeros, or what was loaded.

        Raises:
            ValueError: if what was loaded is of another number of samples.
        """
        if len(self.values) not in (0, n):
            raise ValueError(
                f"The checkpoint remembers {len(self.values)} training samples but the training set has {n}: resume "
                "with the dataset and validation split it was trained on."
            )
        self.values = self.values.to(device) if len(self.values) else torch.zeros(n, device=device)
        self._written = torch.zeros(n if world_size() > 1 else 0, dtype=torch.bool, device=device)

    @property
    def nbytes(self) -> int:
        """Bytes of memory on this rank."""
        return self.values.nbytes + self._written.nbytes

    def __getitem__(self, index: Tensor) -> Tensor:
        return self.values[index]

    def __setitem__(self, index: Tensor, value: Tensor) -> None:
        self.values[index] = value.to(self.values)
        if len(self._written):
            self._written[index] = True

    def synchronise(self) -> None:
        """Exchange between the ranks what was written since; a sample written by several gets their mean."""
        if world_size() > 1:
            total, count = self.values * self._written, self._written.float()
            torch.distributed.all_reduce(total)
            torch.distributed.all_reduce(count)
            self.values = torch.where(count > 0, total / count.clamp_min(1), self.values)
        self._written.zero_()

    def state_dict(self) -> dict[str, Any]:
        """The values; call `synchronise` first."""
        return {"values": self.values.cpu()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the values; `prepare` checks their number."""
        self.values = state["values"].clone()
