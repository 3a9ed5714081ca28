"""A training loader that can go on in the middle of an epoch."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from lightning_robust.data.epoch_sampler import EpochSampler


class ResumableLoader(DataLoader[Any]):
    """Loader over an `EpochSampler` that continues an epoch from the batch at which its state was taken.

    Lightning stores and restores the state with the checkpoint. Skipped samples are not loaded. It takes the arguments
    of torch's `DataLoader`. With another sampler, as Lightning's `overfit_batches` puts in, each epoch starts anew.

    Example:
        >>> from lightning_robust.data import Indexed
        >>> dataset = Indexed([(i, 0) for i in range(6)])
        >>> loader = ResumableLoader(dataset, batch_size=2, sampler=EpochSampler(dataset, seed=0))
        >>> loader.load_state_dict({"epoch": 0, "batches": 2})
        >>> len(list(loader)), len(list(loader))
        (1, 3)
    """

    _state: tuple[int, int] = (-1, 0)
    _yielded: int = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        if not isinstance(self.sampler, EpochSampler):
            yield from super().__iter__()
            return
        epoch, batches = self._state
        self._state = (-1, 0)
        self._yielded = batches if epoch == self.sampler.epoch and batches < len(self) else 0
        self.sampler.skip = self._yielded * (self.batch_size or 1)
        for batch in super().__iter__():
            self._yielded += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the epoch and the number of its batches that were yielded."""
        present = (getattr(self.sampler, "epoch", 0), self._yielded)  # another sampler has no epochs
        epoch, batches = self._state if self._state[0] >= 0 else present
        return {"epoch": epoch, "batches": batches}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Skip the batches that were yielded before, when the state's epoch is iterated next.

        Args:
            state: what `state_dict` returned.
        """
        self._state = (state["epoch"], state["batches"])
