"""A number for every training sample, the same on all ranks."""

from typing import Any

import torch
import torch.distributed
from torch import Tensor

from lightning_robust.runtime.ranks import world_size


class PerSample:
    """Memory of one float for each training sample, neither a parameter nor a buffer of the net.

    A buffer would be overwritten by rank 0's in each step of distributed training, and averaged by weight averaging.
    Here each rank writes the samples that it sees, and `synchronise` exchanges what was written since the last time.
    It takes 4 bytes for each sample, 5 if there are several ranks.

    Example:
        >>> radii = PerSample()
        >>> radii.prepare(5, torch.device("cpu"))
        >>> radii[torch.tensor([1, 3])] = torch.tensor([0.5, 0.25])
        >>> radii[torch.tensor([0, 1])]
        tensor([0.0000, 0.5000])
    """

    def __init__(self) -> None:
        self.values = torch.zeros(0)
        self._written = torch.zeros(0, dtype=torch.bool)

    def prepare(self, n: int, device: torch.device) -> None:
        """Allocate n samples on a device: zeros, or what was loaded before.

        Args:
            n: number of training samples.
            device: device that the values are kept on.

        Raises:
            ValueError: if another number of samples was loaded.
        """
        if len(self.values) not in (0, n):
            raise ValueError(
                f"The checkpoint remembers {len(self.values)} training samples but the training set has {n}: resume "
                "with the dataset and validation split it was trained on."
            )
        self.values = self.values.to(device) if len(self.values) else torch.zeros(n, device=device)
        self._written = torch.zeros(n if world_size() > 1 else 0, dtype=torch.bool, device=device)

    def check(self, index: Tensor, distinct: bool) -> None:
        """Raise unless these can be positions [b] of the training samples.

        Args:
            index: what a batch gave as positions.
            distinct: whether a sample stands in a batch at most once.

        Raises:
            ValueError: for positions beyond the training set, or repeated ones.
        """
        low, high = (int(v) for v in torch.aminmax(index))
        if low < 0 or high >= len(self.values):
            raise ValueError(
                f"Positions in the training set of {len(self.values)} samples range over [{low}, {high}] in a batch: "
                "set index_key to where it holds positions."
            )
        if distinct and len(set(index.tolist())) < len(index):
            raise ValueError(
                f"What index_key names stands several times in a batch ({int(index.mode().values)}, for example), and "
                "so is not the samples' position in the training set: name another key."
            )

    @property
    def nbytes(self) -> int:
        """The memory on this rank in bytes."""
        return self.values.nbytes + self._written.nbytes

    def __getitem__(self, index: Tensor) -> Tensor:
        return self.values[index]

    def __setitem__(self, index: Tensor, value: Tensor) -> None:
        self.values[index] = value.to(self.values)
        if len(self._written):
            self._written[index] = True

    def synchronise(self) -> None:
        """Exchange between the ranks what was written since the last call.

        A sample that several ranks wrote gets the mean of their values.
        """
        if world_size() > 1:
            total = self.values * self._written
            count = self._written.float()
            torch.distributed.all_reduce(total)
            torch.distributed.all_reduce(count)
            self.values = torch.where(count > 0, total / count.clamp_min(1), self.values)
        self._written.zero_()

    def state_dict(self) -> dict[str, Any]:
        """Return the values, to be called after `synchronise`."""
        return {"values": self.values.cpu()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over saved values; `prepare` checks their number.

        Args:
            state: what `state_dict` returned.
        """
        self.values = state["values"].clone()
