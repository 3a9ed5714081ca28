"""The samples that the evaluation of one data loader has collected, and the results for them."""

from typing import Any

import torch
from torch import Tensor

from lightning_robust.callbacks.figures import Examples
from lightning_robust.evaluation.checksums import checksums
from lightning_robust.evaluation.positions import Positions, by_content, refuse_overlap, refuse_repeats
from lightning_robust.evaluation.samples import Samples
from lightning_robust.evaluation.state import State
from lightning_robust.runtime.ranks import gather_objects
from lightning_robust.types import Batch


class Collected:
    """Holds this rank's share of one data loader's samples.

    Args:
        positions: counts through the loader; None on a rank that saw none of its batches.
    """

    samples: Samples
    """This rank's samples, once they are settled."""
    found: Samples
    """All ranks' samples without their images, once they are evaluated."""

    def __init__(self, positions: Positions | None = None) -> None:
        self.positions = positions
        self.batches: list[Samples] = []
        self.seconds = 0.0  # of the clean predictions
        self.largest = 1  # batch
        self.indexed = True  # where the samples stand in the dataset is known
        self.state: State | None = None
        self.examples: dict[str, dict[int, Tensor]] = {}
        self.report: dict[str, Any] = {}

    def collect(self, batch: Batch, position: Tensor, logits: Tensor, keep: Tensor, shown: int) -> None:
        """Add those samples of a batch that `keep` [b] marks; the first `shown` of the dataset will be drawn."""
        self.largest = max(self.largest, len(batch.x))
        if self.batches:
            _refuse_sizes([self.batches[0].x.shape[1:], batch.x.shape[1:]])
        self.indexed = batch.index is not None or (self.positions is not None and self.positions.meaningful)
        content = checksums(batch.x, batch.y)
        samples = Samples(
            index=position if batch.index is None else batch.index,
            y=batch.y.long(),
            clean=logits.argmax(1),
            checksum=content,
            shown=position < shown,
            x=batch.x.detach(),
            # so that a sample has the same numbers whatever the order and the rank in which a loader gives it
            key=content if batch.index is None else batch.index,
        )
        self.batches.append(samples.map(Tensor.cpu)[keep.cpu()])

    def settle(self) -> None:
        """Join the batches, and refuse samples that stand there twice; all ranks call it together.

        Raises:
            ValueError: if there are no samples, images of several sizes, samples that the loader repeats, or samples on
                several ranks of which nothing says whether they are repeats.
        """
        if not sum(gather_objects(sum(map(len, self.batches)))):
            raise ValueError(
                "No sample to evaluate: the data loader is empty, or every label equals ignore_index. Check both."
            )
        _refuse_sizes(
            [shape for part in gather_objects([batch.x.shape[1:] for batch in self.batches[:1]]) for shape in part]
        )
        self.samples = Samples.collect(self.batches)
        facts = gather_objects((self.indexed, self.samples.x.numel() > 0))
        attacked = any(held for _, held in facts)  # for clean accuracy alone no image is held
        if attacked and not all(indexed for indexed, _ in facts):
            refuse_overlap(self.samples.checksum)
            self.samples.index = by_content(self.samples.checksum)
        refuse_repeats(self.samples.index)

    def drawn(self, name: str) -> Examples | None:
        """Return the samples to draw under this attack, in the order of their index; None if there are none."""
        if not self.examples[name]:
            return None
        place = {int(index): i for i, index in enumerate(self.found.index)}
        pairs = sorted(self.examples[name].items())
        rows = torch.tensor([place[index] for index, _ in pairs])
        x, x_adv = torch.stack([pair for _, pair in pairs], dim=1)
        drawn = self.found[rows]
        return Examples(x, x_adv, drawn.y, drawn.clean, drawn.verdicts[name].predicted)

    def gather_examples(self, found: dict[str, dict[int, Tensor]]) -> None:
        """Take the examples that were found on all ranks, each from the rank that holds the sample now."""
        here = set(self.samples.index.tolist())
        mine = {name: {i: pair for i, pair in pairs.items() if i in here} for name, pairs in found.items()}
        parts = gather_objects(mine)
        self.examples = {name: {i: pair for part in parts for i, pair in part[name].items()} for name in found}


def _refuse_sizes(shapes: list[Any]) -> None:
    if len(set(shapes)) > 1:
        first, other = list(dict.fromkeys(map(tuple, shapes)))[:2]
        raise ValueError(
            f"The images are of several sizes, {first} and {other}, but attacks pool samples of different batches: "
            "resize them to one."
        )
