"""The mean of something for each class, from epoch to epoch, the same on all ranks."""

from typing import Any

import torch
import torch.distributed
from torch import Tensor

from lightning_robust.runtime.ranks import world_size


class ClassMeans:
    """Memory of a mean for each class, over the samples that were added in the epoch before.

    In the first epoch, and until a class has been seen, it is an initial value. A class that an epoch has not seen
    keeps its mean. Each rank adds its samples, and the ranks exchange them when an epoch is over. It is neither a
    parameter nor a buffer, so that neither distributed training nor averages of weights touch it.

    Args:
        size: how many values a sample has; by default one for each class, as a net's outputs.
        initial: what each value begins with; by default 1 / size.

    Example:
        >>> means = ClassMeans()
        >>> labels = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
        >>> means.enter(0, labels)
        >>> means.add(labels, torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
        >>> means.enter(1, labels)
        >>> means(torch.eye(2))
        tensor([[0.7500, 0.2500],
                [0.5000, 0.5000]])
    """

    def __init__(self, size: int | None = None, initial: float | None = None) -> None:
        self.size, self.initial = size, initial
        self.values = torch.zeros(0, 0)
        self._sums = torch.zeros(0, 0)  # and in the last column how many samples they are of
        self._epoch = 0

    def __call__(self, labels: Tensor) -> Tensor:
        """Return the mean [b m] of each sample's class; of soft labels, the mixture of theirs.

        Args:
            labels: the probability of each class [b k]: one-hot, or soft labels.
        """
        return (labels.to(self.values) @ self.values).to(labels)

    def enter(self, epoch: int, like: Tensor) -> None:
        """Take over what was added in an earlier epoch; all ranks call it before each batch.

        Args:
            epoch: epoch, counting from 0.
            like: a tensor [b k], whose device and number of classes it takes.
        """
        k = like.shape[1]
        if len(self.values) not in (0, k):
            raise ValueError(f"The checkpoint remembers {len(self.values)} classes but the net has {k} logits.")
        if not len(self.values):
            kind = torch.float32 if like.device.type == "mps" else torch.float64  # which MPS does not have
            size = k if self.size is None else self.size
            self.values = torch.full((k, size), 1 / size if self.initial is None else self.initial, dtype=kind)
            self._sums = torch.zeros(k, size + 1, dtype=kind)
        self.values, self._sums = self.values.to(like.device), self._sums.to(like.device)
        if epoch != self._epoch:
            sums = self.gathered()
            count = sums[:, -1:]
            self.values = torch.where(count > 0, sums[:, :-1] / count.clamp_min(1e-12), self.values)
            self._sums.zero_()
            self._epoch = epoch

    def add(self, labels: Tensor, values: Tensor) -> None:
        """Add a batch to its classes; a sample with soft labels counts in all of theirs.

        Args:
            labels: the probability of each class [b k]: one-hot, or soft labels.
            values: the samples' values [b m].
        """
        counted = torch.cat([values.detach().to(self._sums), self._sums.new_ones(len(values), 1)], 1)
        self._sums += labels.to(self._sums).T @ counted

    def gathered(self) -> Tensor:
        """Return sums and counts of what all ranks have added in this epoch [k m+1]; they call it together."""
        sums = self._sums.clone()
        if world_size() > 1:
            torch.distributed.all_reduce(sums)
        return sums

    def state_dict(self, alone: bool = False) -> dict[str, Any]:
        """Return the memory, exchanged between the ranks unless this one stands alone after a failure.

        Args:
            alone: whether the other ranks may be gone.
        """
        sums = self._sums if alone else self.gathered()
        return {"values": self.values.cpu(), "sums": sums.cpu(), "epoch": self._epoch}

    def load_state_dict(self, state: dict[str, Any], first: bool = True) -> None:
        """Take over a saved memory.

        Args:
            state: what `state_dict` returned.
            first: whether this is the first rank, which alone goes on with what all had added.
        """
        self.values, self._epoch = state["values"].clone(), state["epoch"]
        self._sums = state["sums"].clone() if first else torch.zeros_like(state["sums"])
