"""The samples under evaluation and what is known of each; every rank holds a share."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lightning_robust.evaluation.images import Images
from lightning_robust.evaluation.scores import unknown_scores
from lightning_robust.evaluation.verdicts import Verdicts
from lightning_robust.runtime.ranks import gather_objects


@dataclass
class Samples:
    """Holds n samples and what is known of each, on the CPU whatever device evaluates.

    Args:
        index: position of each sample in the dataset [n].
        y: labels [n].
        clean: classes that the net predicts on the clean images [n].
        checksum: identifies image and label [n], see `checksums`.
        key: selects each sample's random numbers [n]: its index, or its checksum where the index is not known.
        shown: whether the sample is drawn in the figure of examples [n].
        x: clean images [n c h w], those that are still needed.
        verdicts: what each attack has found, by the attack's name.
        examples: by the attack's name, the images (x, x_adv) [2 c h w] of the samples that are drawn, by their index.
        scores: of the clean images [n 3], see `lightning_robust.evaluation.scores`; NaN where they are not known.

    Example:
        >>> import torch
        >>> from lightning_robust.evaluation.verdicts import Verdicts
        >>> index, y, clean = torch.arange(3), torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0])
        >>> x = Images.of(torch.rand(3, 1, 8, 8))
        >>> samples = Samples(index, y, clean, checksum=index, key=index, shown=index < 0, x=x)
        >>> samples.verdicts["pgd"] = Verdicts.initial(clean)
        >>> samples.verdicts["pgd"].broken[0] = 0
        >>> samples.right.tolist(), samples.robust().tolist()
        ([True, True, False], [False, True, False])
    """

    index: Tensor
    y: Tensor
    clean: Tensor
    checksum: Tensor
    key: Tensor
    shown: Tensor
    x: Images
    verdicts: dict[str, Verdicts] = field(default_factory=dict)
    examples: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    scores: Tensor = field(default_factory=lambda: unknown_scores(0))

    def __post_init__(self) -> None:
        """Leave open what is not given."""
        if len(self.scores) != len(self.index):
            self.scores = unknown_scores(len(self.index))

    @classmethod
    def join(cls, batches: list["Samples"]) -> "Samples":
        """Concatenate batches, and empty the list, so that it does not hold images that are let go later."""
        n = sum(map(len, batches))
        done = 0
        joined = batches[0].empty(n)
        joined.examples = {name: {} for name in joined.examples}
        joined.x = Images.join([batch.x for batch in batches])
        while batches:
            batch = batches.pop(0)
            for whole, part in zip(joined.tensors(), batch.tensors(), strict=True):
                whole[done : done + len(batch)] = part
            for name, pairs in batch.examples.items():
                joined.examples[name].update(pairs)
            done += len(batch)
        return joined

    @classmethod
    def collect(cls, batches: list["Samples"]) -> "Samples":
        """Join this rank's batches; all ranks call it, so that one without batches learns the images' shape.

        Args:
            batches: this rank's batches; the list is emptied.
        """
        known = [empty for part in gather_objects([batch.empty() for batch in batches[:1]]) for empty in part]
        return cls.join(batches or known[:1])

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: Tensor) -> "Samples":
        """Select samples by a mask or by positions."""
        return replace(self.map(lambda column: column[rows]), x=self.x.select(rows))

    def map(self, change: Callable[[Tensor], Tensor]) -> "Samples":
        """Apply a function to every column, the verdicts' included; the images and examples stay."""
        columns = {name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)}
        verdicts = {name: found.map(change) for name, found in self.verdicts.items()}
        return Samples(**columns, x=self.x, verdicts=verdicts, examples=self.examples)

    def empty(self, n: int = 0) -> "Samples":
        """Return n samples of the same kind, of which nothing is known yet."""
        # not slices: these would be sent to other ranks with the whole storage that they are a view of
        columns = self.map(lambda column: column.new_empty(n, *column.shape[1:]))
        return replace(columns, x=Images.none(n, self.x.size, self.x.dtype))

    def tensors(self) -> list[Tensor]:
        """List all columns, the verdicts' last, in the same order on every rank."""
        columns = [value for value in vars(self).values() if isinstance(value, Tensor)]
        return columns + [column for verdicts in self.verdicts.values() for column in vars(verdicts).values()]

    @property
    def right(self) -> Tensor:
        """Mark the samples [n] that are classified correctly without an attack."""
        return self.clean == self.y

    def robust(self, attacks: Iterable[str] | None = None) -> Tensor:
        """Mark the correct samples [n] that none of these attacks has broken; by default none of all attacks."""
        names = self.verdicts if attacks is None else attacks
        return torch.stack([self.right, *(self.verdicts[name].standing for name in names)]).all(0)

    def light(self) -> "Samples":
        """Return the samples without their images."""
        return replace(self, x=Images.none(len(self)))

    def sha256(self) -> str:
        """Return a digest of all images with their labels, in the order of their index."""
        return hashlib.sha256(self.checksum[self.index.argsort()].numpy().tobytes()).hexdigest()

    def stages_done(self) -> Tensor:
        """Count the stages that each sample [n] has been through, those of all attacks together."""
        return sum((verdicts.done.long() for verdicts in self.verdicts.values()), torch.zeros_like(self.index))

    def gather(self) -> "Samples":
        """Gather all ranks' samples without the images, in the order of `index`, on every rank."""
        whole = Samples.join(gather_objects(self.light()))
        return whole[whole.index.argsort()]
