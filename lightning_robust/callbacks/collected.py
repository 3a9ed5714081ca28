"""What the evaluation of one data loader has collected, and what was found out about it."""

from typing import Any

import torch
from lightning import Trainer
from torch import Tensor

from lightning_robust.callbacks.figures import Examples
from lightning_robust.evaluation.samples import Samples
from lightning_robust.evaluation.state import State, checksums
from lightning_robust.types import Batch


class Collected:
    """The samples of one data loader, this rank's share."""

    def __init__(self) -> None:
        self.samples = Samples()
        self.seconds = 0.0  # of the clean predictions
        self.largest = 1  # batch
        self.state: State | None = None
        self.columns: dict[str, Tensor] = {}  # of all ranks, once evaluated
        self.examples: dict[str, dict[int, Tensor]] = {}
        self.report: dict[str, Any] = {}
        self._seen = 0

    def advance(self, trainer: Trainer, b: int) -> Tensor:
        """Dataset positions of the next batch, dealt to the ranks in turn as every distributed sampler does."""
        first, self._seen = self._seen, self._seen + b
        return torch.arange(first, first + b) * trainer.world_size + trainer.global_rank

    def collect(self, batch: Batch, position: Tensor, logits: Tensor, keep: Tensor, shown: int) -> None:
        """Add those samples of a batch that `keep` [b] marks; the first `shown` of the dataset will be drawn."""
        self.largest = max(self.largest, len(batch.x))
        rows = {
            "index": position if batch.index is None else batch.index,
            "y": batch.y.long(),
            "clean": logits.argmax(1),
            "checksum": checksums(batch.x, batch.y),
            "shown": position < shown,
            "x": batch.x,
        }
        keep = keep.cpu()
        self.samples.append({name: value.cpu()[keep] for name, value in rows.items()})

    def drawn(self, name: str) -> Examples:
        """The samples to draw under this attack, in the order of their index."""
        place = {int(index): i for i, index in enumerate(self.columns["index"])}
        pairs = sorted(self.examples[name].items())
        rows = torch.tensor([place[index] for index, _ in pairs])
        x, x_adv = torch.stack([pair for _, pair in pairs], dim=1)
        return Examples(x, x_adv, *(self.columns[column][rows] for column in ("y", "clean", f"{name}/class")))


def merged(parts: list[dict[str, dict[int, Tensor]]]) -> dict[str, dict[int, Tensor]]:
    """The examples of all ranks; a sample that moved counts as its last rank found it."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: {i: pair for part in parts for i, pair in part.get(name, {}).items()} for name in names}
