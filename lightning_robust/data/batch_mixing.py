"""MixUp and CutMix of the training batches, and label smoothing."""

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torchvision.transforms import v2

from lightning_robust.runtime.seeded import torch_seeded
from lightning_robust.utils.images import reading_is_free
from lightning_robust.utils.labels import check_label_type, check_labels, is_soft, smoothed


@dataclass(frozen=True)
class BatchMixing:
    """MixUp or CutMix of every image with another of its batch; the labels become probabilities [b k].

    One lambda, or one box, is drawn for a batch: MixUp gives `lambda x + (1 - lambda) x'`, CutMix puts a box of x' into
    x, and labels are mixed by the same shares. As the `mixing` of a data module, it acts on training batches alone, on
    the device; its random numbers depend on (seed, epoch, step), so that an interrupted run goes on as it would have.
    They are the same on all devices, but an image's partner is one of its own device.

    A batch's positions remain those of the images x. Methods that remember something for each sample (IAAT), or for
    each class, take a mixed image for the sample x, and the class with the larger share for its label.

    Defenses smooth labels as well (`label_smoothing`): smooth in one place.

    Args:
        mixup_alpha: parameter of the distribution Beta(alpha, alpha) of MixUp's lambda; 0 leaves MixUp out.
        cutmix_alpha: parameter of the same distribution for CutMix, whose box takes the share 1 - lambda of the image;
            0 leaves CutMix out.
        prob: probability that a batch is mixed, in [0, 1].
        switch_prob: probability of CutMix instead of MixUp where neither alpha is 0, in [0, 1].
        label_smoothing: weight of the uniform distribution in the labels, in [0, 1).

    Raises:
        ValueError: for settings out of range; when called, for class numbers without their number of classes.

    Example:
        >>> mixing = BatchMixing(mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.1)
        >>> x, y = mixing(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 1]), num_classes=3, seed=0)
        >>> x.shape, y.shape, y.sum(1)
        (torch.Size([4, 3, 8, 8]), torch.Size([4, 3]), tensor([1.0000, 1.0000, 1.0000, 1.0000]))

    Paper: Zhang et al. 2017 (arXiv 1710.09412), MixUp; Yun et al. 2019 (arXiv 1905.04899), CutMix.
    Reference: torchvision's `MixUp` and `CutMix`; settings as in `timm.data.Mixup`.
    Deviates: an image's partner is its neighbour in the batch, where timm takes the batch in reverse order.
    """

    mixup_alpha: float = 0.8
    cutmix_alpha: float = 1.0
    prob: float = 1.0
    switch_prob: float = 0.5
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        shares = 0 <= self.prob <= 1 and 0 <= self.switch_prob <= 1 and 0 <= self.label_smoothing < 1
        if self.mixup_alpha < 0 or self.cutmix_alpha < 0 or not shares:
            raise ValueError(
                f"Mixing needs alphas >= 0, probabilities in [0, 1] and label_smoothing in [0, 1), got {self}."
            )

    @property
    def mixes(self) -> bool:
        """Whether it does more than smooth labels."""
        return self.prob > 0 and bool(self.mixup_alpha or self.cutmix_alpha)

    def __call__(
        self,
        x: Float[Tensor, "b c h w"],
        y: Shaped[Tensor, "b ..."],
        num_classes: int | None = None,
        seed: int | None = None,
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b k"]]:
        """Mix a batch.

        Args:
            x: images [b c h w].
            y: labels, class numbers [b] or probabilities [b k].
            num_classes: number of classes k; may be left out with probabilities.
            seed: seed of what is drawn; by default it comes from torch's global generator.

        Returns:
            The mixed images, and their labels as probabilities [b k].
        """
        check_label_type(y, len(x))
        k = y.shape[1] if is_soft(y) else num_classes
        if not k:
            raise ValueError(
                "Mixed labels are probabilities of all classes, but the number of classes is not known: give "
                "`num_classes`, which is an attribute of a data module."
            )
        if reading_is_free(y):
            check_labels(y, k)
        y = smoothed(y, k, self.label_smoothing, like=x)
        with nullcontext() if seed is None else torch_seeded(seed):
            mix = self._draw()
            return (x, y) if mix is None else mix(x, y)

    def _draw(self) -> v2.Transform | None:
        """Return what is done with a batch; None leaves it as it is."""
        mixed, switched = torch.rand(2).tolist()
        if mixed >= self.prob or not self.mixes:
            return None
        cuts = bool(self.cutmix_alpha) and (not self.mixup_alpha or switched < self.switch_prob)
        # torchvision cannot draw with an alpha that is an integer
        return v2.CutMix(alpha=float(self.cutmix_alpha)) if cuts else v2.MixUp(alpha=float(self.mixup_alpha))
