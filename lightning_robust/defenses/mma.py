"""MMA: max-margin adversarial training, in which every sample is trained at its own margin."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lightning_robust.defenses.own_moves import plain_pgd
from lightning_robust.defenses.sample_radii import SampleRadii
from lightning_robust.losses import cross_entropy, soft_margin
from lightning_robust.runtime.modes import AttackBN, frozen_running_stats, logits_no_grad
from lightning_robust.runtime.ranks import has_sync_batchnorm
from lightning_robust.threat import per_image
from lightning_robust.types import Batch, Losses, Views, to_float


class MMA(SampleRadii):
    """Trains on `(1 - c) 1[e < hinge] CE(f(x'), y) + c CE(f(x), y)`, with x' on the boundary of the sample's class.

    Where the label has more than half of the probability, PGD in the ball of the sample's last radius (at least
    `min_radius`) gives a direction, and bisection along it, between 0 and 1.05 hinge, the radius e at which the soft
    margin is 0: there x' lies. Elsewhere x' = x and e = 0. Samples whose margin has reached `hinge` no longer count.
    c = 0 is OMMA. With a reweighting w, the first term of each sample is multiplied by its weight.

    The radii are remembered from epoch to epoch, for which training batches must carry the samples' positions; see
    `SampleRadii`.

    Args:
        net: images [b c h w] in [0, 1] to logits [b k].
        hinge: largest margin that is trained for, in pixels, > 0; a fraction such as "12/255" is read as such. It is
            usually larger than the threat's radius, at which evaluations attack.
        min_radius: the smallest radius of the ball that gives the direction, in pixels, in (0, hinge].
        clean_weight: c, in [0, 1).
        search_steps: steps of the bisection, >= 1.
        search_bn: how batch norms run in the search for the boundary and for the samples to search, see `AttackBN`;
            "train" as the authors. But with "eval", batch norms over vectors refuse a batch with one sample to search.
        clamp: whether x' is clamped into the box, as the points of the search are; False as the authors.
        kwargs: settings of `Defense`. PGD's own radius counts in evaluations alone; its step is 2.5 radii / steps, if
            it has no `step_size`.

    Raises:
        ValueError: for settings out of range, an attack with settings that are not used, SyncBatchNorm in training mode
            in the attack or the search, or as `SampleRadii` does.

    Example:
        >>> from lightning_robust.attacks import PGD
        >>> from lightning_robust.models import SmallConvNet
        >>> model = MMA(SmallConvNet(), attack=PGD(steps=2))
        >>> model.radii.prepare(4, torch.device("cpu"))  # Lightning's fit does so, for the whole training set
        >>> batch = Batch(torch.rand(4, 1, 8, 8), torch.arange(4), index=torch.arange(4))
        >>> model.loss(batch, model.generate(batch)).total.shape
        torch.Size([4])

    Paper: Ding et al. 2020 (arXiv 1812.02637), algorithm 1.
    Reference: BorealisAI/mma_training@328e2e5, with `search_bn="train"` and `clamp=False`.
    Deviates: by default in these two settings: on the recorded step of tests/golden, `search_bn="eval"` changes a
    tenth of the radii's range, 5 % of the loss and 20 % of the gradient, `clamp=True` 1 % of the loss and 3 % of the
    gradient. The random start in l2 is uniform in the ball, not in the box around the image.
    """

    def __init__(
        self,
        net: nn.Module,
        hinge: float | str = "12/255",
        min_radius: float | str = 0.005,
        clean_weight: float = 1 / 3,
        search_steps: int = 10,
        search_bn: AttackBN = "eval",
        clamp: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(net, **kwargs)
        self.hinge = to_float(hinge)
        self.min_radius = to_float(min_radius)
        self.clean_weight = clean_weight
        self.search_steps = search_steps
        self.search_bn = search_bn
        self.clamp = clamp
        plain_pgd("MMA", self.attack, "threat, steps, step_size and start")
        if not 0 < self.min_radius <= self.hinge or not 0 <= clean_weight < 1 or search_steps < 1:
            raise ValueError(
                "MMA needs 0 < min_radius <= hinge, clean_weight in [0, 1) and search_steps >= 1, got "
                f"{min_radius}, {hinge}, {clean_weight}, {search_steps}."
            )

    def generate(self, batch: Batch) -> Views:
        """Move the samples with a positive margin to their boundary, and remember how far it is."""
        if (self.attack_bn, self.search_bn) != ("eval", "eval") and has_sync_batchnorm(self.net):
            raise ValueError(
                "MMA attacks some samples alone, others on each rank, which SyncBatchNorm in training mode waits for: "
                "set attack_bn and search_bn to eval."
            )
        index, rng = self.positions(batch), self.rng(batch)
        margin = self._margin(batch.x, batch.y)
        radii = torch.zeros_like(margin)
        x_adv = batch.x.clone()
        some = torch.nonzero(margin < 0)[:, 0]
        if len(some):
            x, y = batch.x[some], batch.y[some]
            radius = self.radii[index[some]].to(margin).clamp_min(self.min_radius)
            settings: dict[str, Any] = {"objective": soft_margin, "eps": radius, "bn": self.attack_bn, "rng": rng[some]}
            reached = self.attack(self.net, x, y, **settings)
            direction = (reached - x) / per_image(radius + 1e-12, x)
            radii[some] = self._to_boundary(x, y, direction, radius, self._margin(reached, y))
            moved = x + per_image(radii[some], x) * direction
            x_adv[some] = self._in_box(moved) if self.clamp else moved
        self.radii[index] = radii
        return Views(x_adv, more={"radii": radii})

    def loss(self, batch: Batch, views: Views) -> Losses:
        """Return the cross-entropy at the boundary and that of the clean image, weighted, of each sample."""
        clean = torch.zeros_like(views.more["radii"])
        if self.clean_weight:
            # with "train" the search has begun with this very pass, which counts once in running statistics
            with frozen_running_stats(self.net) if self.search_bn == "train" else nullcontext():
                clean = cross_entropy(self.logits(batch.x), batch.y)
        logits_adv = self.logits(views.adv)
        counts = views.more["radii"] < self.hinge
        margin = self.weigh(counts * cross_entropy(logits_adv, batch.y), logits_adv, batch.y)
        total = (1 - self.clean_weight) * margin + self.clean_weight * clean
        return Losses(total, {"margin": margin, **({"clean": clean} if self.clean_weight else {})}, logits_adv)

    def _to_boundary(self, x: Tensor, y: Tensor, direction: Tensor, radius: Tensor, margin: Tensor) -> Tensor:
        """Return the radii [b] at which the margin along a direction is 0, from its value at a first radius on."""
        low, high = torch.zeros_like(radius), torch.full_like(radius, 1.05 * self.hinge)
        for step in range(self.search_steps):
            low = torch.where(margin < 0, torch.maximum(low, radius), low)
            high = torch.where(margin < 0, high, torch.minimum(high, radius))
            radius = (low + high) / 2
            if step + 1 < self.search_steps or self.search_bn == "train":  # whose last pass running statistics notice
                margin = self._margin(self._in_box(x + per_image(radius, x) * direction), y)
        return radius

    def _margin(self, x: Tensor, y: Tensor) -> Tensor:
        return soft_margin(logits_no_grad(self.net, x, self.search_bn), y)

    def _in_box(self, x: Tensor) -> Tensor:
        return x.clamp(self.attack.threat.lower, self.attack.threat.upper)
