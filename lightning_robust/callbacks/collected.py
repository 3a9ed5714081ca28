"""The samples that the evaluation of one data loader collects, and the report on them."""

import math
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_robust.data import CorruptionSuite
from lightning_robust.evaluation.checksums import checksums
from lightning_robust.evaluation.corruption_rows import corruption_rows
from lightning_robust.evaluation.image_store import ImageStore
from lightning_robust.evaluation.images import Images
from lightning_robust.evaluation.positions import Positions, are_shares, by_content, refuse_overlap, refuse_repeats
from lightning_robust.evaluation.samples import Samples
from lightning_robust.evaluation.scores import scores
from lightning_robust.evaluation.state import State
from lightning_robust.runtime.ranks import gather_objects, rank, world_size
from lightning_robust.types import Batch


class Collected:
    """Collects this rank's share of one data loader's samples.

    Args:
        positions: counts through the loader; None on a rank that saw none of its batches.
        shown: how many samples, the first ones, will be drawn.
        suite: the corrupted images that the loader runs over, if it does.
        store: where the images wait; by default in main memory.
    """

    samples: Samples
    """All ranks' samples without their images, once they are evaluated."""

    def __init__(
        self,
        positions: Positions | None = None,
        shown: int = 0,
        suite: CorruptionSuite | None = None,
        store: ImageStore | None = None,
    ) -> None:
        self.positions, self.shown, self.suite = positions, shown, suite
        self.store = ImageStore() if store is None else store
        self.batches: list[Samples] = []
        self.seconds = 0.0  # of the clean predictions
        self.largest = 1  # batch
        self.places: list[Tensor] = []  # of each batch's samples in the loader
        self.explicit = True  # batches say where their samples stand in the dataset
        self.indexed = True  # it is known where they stand
        self.classes = 0  # of the net
        self.states: list[State] = []  # of unfinished evaluations
        self.report: dict[str, Any] = {}  # what `robustness.json` holds, once they are evaluated

    def collect(
        self, batch: Batch, position: Tensor, logits: Tensor, keep: Tensor, images: bool, identify: bool
    ) -> None:
        """Add those samples of a batch that `keep` [b] marks.

        Args:
            batch: images, labels and dataset positions, if it has them.
            position: positions [b] that the loader's order gives.
            logits: logits [b k] of the clean images.
            keep: which samples count [b].
            images: whether the images are needed again.
            identify: whether samples with dataset positions, too, have to be known again in another run.
        """
        assert self.positions is not None
        self.largest = max(self.largest, len(batch.x))
        if self.batches and images:
            _refuse_sizes([self.batches[0].x.shape[1:], batch.x.shape[1:]])
        self.explicit = batch.index is not None
        self.indexed = self.explicit or self.positions.meaningful
        self.classes = logits.shape[1]
        x, y, position = batch.x.detach()[keep], batch.y.long()[keep], position[keep]
        index = position if batch.index is None else batch.index[keep]
        needed = identify or not self.explicit or not self.positions.known
        content = checksums(x, y) if needed else torch.zeros(len(y), dtype=torch.int64)
        samples = Samples(
            index=index,
            y=y,
            clean=logits.argmax(1)[keep],
            scores=scores(logits[keep], y),
            checksum=content,
            shown=position < self.shown,
            x=Images.of(x, self.store) if images else Images.none(len(x)),
            # so that a sample has the same numbers whatever the order and the rank in which a loader gives it
            key=index if self.explicit else content,
        )
        if not self.positions.known:
            self.places.append(position.cpu())
        self.batches.append(samples.map(Tensor.cpu))
        # Of many small columns each would come to lie where the images of a batch were, so that those of the next
        # would not fit there again, and the process would grow by the images.
        while len(self.batches) > 1 and len(self.batches[-2]) <= len(self.batches[-1]):
            self.batches[-2:] = [Samples.join(self.batches[-2:])]

    def place(self, position: Tensor, index: Tensor | None) -> Tensor:
        """Return how many samples stand before each of these [b]; of corrupted images, in the same corruption.

        Args:
            position: positions [b] that the loader's order gives.
            index: positions [b] in the dataset that the batch gives, if it does.
        """
        if self.suite is None:
            return position
        where = position if index is None else index
        return self.suite.place_of(where.clamp(0, len(self.suite) - 1))

    def settle(self, most: int | None = None) -> Samples:
        """Join the batches, and refuse samples that stand there twice; all ranks call it together.

        Args:
            most: how many samples, the first ones, are evaluated; by default all.

        Returns:
            This rank's samples.

        Raises:
            ValueError: if there are none, images of several sizes, samples that are repeated, or samples of which it
                is not known on which rank they count.
        """
        if not sum(gather_objects(sum(map(len, self.batches)))):
            raise ValueError("No sample to evaluate: the data loader is empty, or every label equals ignore_index.")
        _refuse_sizes(
            [shape for part in gather_objects([batch.x.shape[1:] for batch in self.batches[:1]]) for shape in part]
        )
        most = None if self.suite is not None else most  # of each corruption, when they were collected
        samples = Samples.collect(self.batches)
        samples.x.store = self.store  # also where this rank had no batch
        self.classes = max(gather_objects(self.classes))
        known = self.positions is None or self.positions.known
        facts = gather_objects((known, self.explicit, self.indexed))
        known, self.explicit, self.indexed = (all(column) for column in zip(*facts, strict=True))
        if not known:
            samples = self._own_share(samples, most)
        if self.suite is not None and not self.indexed:
            raise ValueError(
                "A sample's corruption is known by its position: do not shuffle, wrap the dataset in "
                "lightning_robust.data.Indexed, or set index_key to where batches hold positions."
            )
        if not self.indexed:
            refuse_overlap(samples.checksum)
            samples.index = by_content(samples.checksum)
        refuse_repeats(samples.index)
        return samples

    def by_corruption(self) -> dict[str, Any] | None:
        """Return the accuracies on each group of corrupted images, see `corruption_rows`; None for other data."""
        if self.suite is None:
            return None
        sizes = torch.bincount(self.suite.group_of(self.samples.index), minlength=len(self.suite.groups)).tolist()
        if missing := [f"{name} {level}" for (name, level), n in zip(self.suite.groups, sizes, strict=True) if not n]:
            rank_zero_warn(
                f"No image of {', '.join(missing)} was evaluated: the trainer read too few batches. `evaluate` with "
                "`samples` reads all that it needs if it is given the data loader instead of a data module."
            )
        return corruption_rows(self.suite.groups, sizes, self.samples.right, self.samples.robust())

    def _own_share(self, samples: Samples, most: int | None) -> Samples:
        """Let the content tell whether every rank has all samples, of which rank 0's count, or a share of its own."""
        place = torch.cat([torch.empty(0, dtype=torch.int64), *self.places])
        if are_shares(samples.checksum):
            self.indexed = self.explicit
            place = place * world_size() + rank()
            samples.shown = place < self.shown
            keep = torch.ones_like(place, dtype=torch.bool) if most is None else place < most
        else:
            keep = torch.full_like(place, rank() == 0, dtype=torch.bool)
        return samples[keep]


def expected_bytes(loader: Collected, batches: float, most: int | None, ranks: int) -> float:
    """Return how many bytes the images of a loader are going to take on a rank; 0 where that is not known.

    Args:
        loader: after its first batch.
        batches: how many it will have.
        most: how many samples of all ranks are evaluated; None for all.
        ranks: how many there are.
    """
    first = loader.batches[0]
    if not len(first) or math.isinf(batches):
        return 0
    n = batches * loader.largest
    if most is not None and loader.suite is None:
        n = min(n, math.ceil(most / ranks))
    return n * first.x.nbytes / len(first)


def _refuse_sizes(shapes: list[Any]) -> None:
    if len(set(shapes)) > 1:
        first, other = list(dict.fromkeys(map(tuple, shapes)))[:2]
        raise ValueError(
            f"The images are of several sizes, {first} and {other}, but attacks pool samples of different batches: "
            "resize them to one."
        )
