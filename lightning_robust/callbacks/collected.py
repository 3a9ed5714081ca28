"""The samples that the evaluation of one data loader has collected, and the results for them."""

from typing import Any

import torch
from torch import Tensor

from lightning_robust.callbacks.figures import Examples
from lightning_robust.evaluation.checksums import checksums
from lightning_robust.evaluation.positions import Positions, are_shares, by_content, refuse_overlap, refuse_repeats
from lightning_robust.evaluation.samples import Samples
from lightning_robust.evaluation.state import State
from lightning_robust.runtime.ranks import gather_objects, rank, world_size
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
        self.places: list[Tensor] = []  # of each batch's samples in the loader
        self.explicit = True  # batches say where their samples stand in the dataset
        self.indexed = True  # it is known where they stand
        self.shown = 0
        self.state: State | None = None
        self.examples: dict[str, dict[int, Tensor]] = {}
        self.report: dict[str, Any] = {}

    def collect(
        self, batch: Batch, position: Tensor, logits: Tensor, keep: Tensor, shown: int, images: bool, identify: bool
    ) -> None:
        """Add those samples of a batch that `keep` [b] marks.

        Args:
            batch: images, labels and dataset positions, if it has them.
            position: positions [b] that the loader's order gives.
            logits: logits [b k] of the clean images.
            keep: which samples count [b].
            shown: how many samples, the first ones, will be drawn.
            images: whether the images are needed again.
            identify: whether samples with dataset positions, too, have to be known again in another run.
        """
        assert self.positions is not None
        self.largest = max(self.largest, len(batch.x))
        if self.batches and images:
            _refuse_sizes([self.batches[0].x.shape[1:], batch.x.shape[1:]])
        self.explicit = batch.index is not None
        self.indexed = self.explicit or self.positions.meaningful
        self.shown = shown
        x, y, position = batch.x.detach()[keep], batch.y.long()[keep], position[keep]
        index = position if batch.index is None else batch.index[keep]
        needed = identify or not self.explicit or not self.positions.known
        content = checksums(x, y) if needed else torch.zeros(len(y), dtype=torch.int64)
        samples = Samples(
            index=index,
            y=y,
            clean=logits.argmax(1)[keep],
            checksum=content,
            shown=position < shown,
            x=x if images else x.flatten(1)[:, :0],
            # so that a sample has the same numbers whatever the order and the rank in which a loader gives it
            key=index if self.explicit else content,
        )
        self.places.append(position.cpu())
        self.batches.append(samples.map(Tensor.cpu))

    def settle(self, most: int | None = None) -> None:
        """Join the batches, and refuse samples that stand there twice; all ranks call it together.

        Args:
            most: how many samples, the first ones, are evaluated; by default all.

        Raises:
            ValueError: if there are none, images of several sizes, samples that are repeated, or samples of which it
                is not known on which rank they count.
        """
        if not sum(gather_objects(sum(map(len, self.batches)))):
            raise ValueError("No sample to evaluate: the data loader is empty, or every label equals ignore_index.")
        _refuse_sizes(
            [shape for part in gather_objects([batch.x.shape[1:] for batch in self.batches[:1]]) for shape in part]
        )
        self.samples = Samples.collect(self.batches)
        known = self.positions is None or self.positions.known
        facts = gather_objects((known, self.explicit, self.indexed))
        known, self.explicit, self.indexed = (all(column) for column in zip(*facts, strict=True))
        if not known:
            self._find_shares(most)
        if not self.indexed:
            refuse_overlap(self.samples.checksum)
            self.samples.index = by_content(self.samples.checksum)
        refuse_repeats(self.samples.index)

    def _find_shares(self, most: int | None) -> None:
        """Let the content tell whether every rank has all samples, of which rank 0's count, or a share of its own."""
        place = torch.cat([torch.empty(0, dtype=torch.int64), *self.places])
        if are_shares(self.samples.checksum):
            self.indexed = self.explicit
            place = place * world_size() + rank()
            self.samples.shown = place < self.shown
            keep = torch.ones_like(place, dtype=torch.bool) if most is None else place < most
        else:
            keep = torch.full_like(place, rank() == 0, dtype=torch.bool)
        self.samples = self.samples[keep]

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
