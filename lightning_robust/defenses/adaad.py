"""AdaAD: adversarial distillation at examples where net and teacher differ most."""

from typing import Any

from torch import Tensor, nn

from lightning_robust.defenses.distillation import Distillation
from lightning_robust.losses import kl_divergence
from lightning_robust.types import Batch, Losses, Views


class AdaAD(Distillation):
    """Trains on `scale / k (alpha KL(t(x') || f(x')) + (1 - alpha) KL(t(x) || f(x)))`, without any label.

    t is the teacher and k the number of classes; x' maximises KL(t(x') || f(x')), so that the attack forwards the
    teacher at each step, and takes the gradient of its answer too. With a reweighting w, the first divergence of each
    sample is multiplied by its weight. The clean images are forwarded also where alpha is 1, for the running statistics
    of batch norms.

    Args:
        net: the net that learns: images [b c h w] in [0, 1] to logits [b k].
        teacher: the net that it learns from, see `Distillation`.
        alpha: weight of the adversarial images' divergence, in [0, 1].
        scale: factor of the loss, > 0; the authors' is 1 on CIFAR-10 and 100 on CIFAR-100, where they leave 1 / k out.
        kwargs: settings of `Defense`. The authors' attack is `PGD(start="normal")`.

    Raises:
        ValueError: for settings out of range, or label_smoothing, since no label is used.

    Example:
        >>> import torch
        >>> from lightning_robust.attacks import PGD
        >>> from lightning_robust.models import SmallConvNet
        >>> model = AdaAD(SmallConvNet(), teacher=SmallConvNet(width=8), attack=PGD(steps=2, start="normal"))
        >>> batch = Batch(torch.rand(4, 1, 8, 8), torch.arange(4))
        >>> model.loss(batch, model.generate(batch)).total.shape
        torch.Size([4])

    Paper: Huang et al. 2023 (CVPR), "Boosting accuracy and robustness of student models via adaptive adversarial
    distillation".
    Reference: boyellow/AdaAD@9e5c6e5.
    Deviates: the random start is clamped into the box before the first gradient; given the start, the step is the
    reference's to rounding. There is no record of it: the tests hold the formula, written anew.
    """

    def __init__(
        self, net: nn.Module, teacher: nn.Module, alpha: float = 1.0, scale: float = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(net, teacher, **kwargs)
        if not 0 <= alpha <= 1 or not scale > 0:
            raise ValueError(f"AdaAD needs alpha in [0, 1] and scale > 0, got {alpha} and {scale}.")
        if self.label_smoothing:
            raise ValueError("AdaAD learns from the teacher's outputs and no labels: leave label_smoothing out.")
        self.alpha = alpha
        self.scale = scale

    def generate(self, batch: Batch) -> Views:
        """Craft examples that maximise KL(t(x') || f(x'))."""
        taught: list[Tensor] = []  # the teacher's logits at the points that the net was last asked about

        def with_teacher(x: Tensor) -> Tensor:
            taught[:] = [self.teacher.with_gradient(x, self._classes)]
            return self.logits(x)

        clean = self.taught(batch.x)
        x_adv = self.craft(batch, clean, net=with_teacher, objective=lambda logits, _: kl_divergence(logits, taught[0]))
        return Views(x_adv, more={"teacher": clean, "teacher_adv": self.taught(x_adv)})

    def loss(self, batch: Batch, views: Views) -> Losses:
        """Return the weighted divergences from the teacher of each sample."""
        logits = self.logits(batch.x)
        logits_adv = self.logits(views.adv)
        classes = (~logits.isneginf()).sum(1)
        natural = kl_divergence(logits, views.more["teacher"]) / classes
        robust = self.weigh(kl_divergence(logits_adv, views.more["teacher_adv"]) / classes, logits_adv, batch.y)
        total = self.scale * (self.alpha * robust + (1 - self.alpha) * natural)
        return Losses(total, {"natural": natural, "robust": robust}, logits_adv)
