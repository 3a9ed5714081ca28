"""The pair that squeeze training trains on: an adversarial and a collaborative example of each sample."""

from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from lightning_robust.attacks import progress
from lightning_robust.attacks.call import one_per_sample
from lightning_robust.attacks.entrance import entered
from lightning_robust.attacks.start import Start, starting_point
from lightning_robust.losses import at_least_fp32, js_divergence, squared_l2, symmetric_kl
from lightning_robust.runtime.gradients import input_gradient
from lightning_robust.runtime.modes import AttackBN, samples_are_independent
from lightning_robust.runtime.ranks import has_sync_batchnorm
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat
from lightning_robust.types import Net, Objective, Radius
from lightning_robust.utils.images import reading_is_free
from lightning_robust.utils.labels import is_soft

Discrepancy: TypeAlias = Literal["symmetric_kl", "js", "l2"]
DISCREPANCIES: dict[str, Objective] = {"symmetric_kl": symmetric_kl, "js": js_divergence, "l2": squared_l2}


class Extremes(NamedTuple):
    """Which of a sample's views (0 clean, 1 collaborative, 2 adversarial) has the highest and the lowest cross-entropy.

    Args:
        upper: the view [b] with the highest cross-entropy.
        lower: the view [b] with the lowest cross-entropy.
    """

    upper: Tensor
    lower: Tensor

    @classmethod
    def of(cls, logits: Tensor, y: Tensor) -> "Extremes":
        """Return the extremes of the views with these logits [3 b k], for labels [b] or [b k]."""
        p = torch.softmax(at_least_fp32(logits.detach()), dim=2)
        if is_soft(y):  # exp(-cross-entropy), which of a one-hot label is that class's p to the bit
            own = torch.where(y == 1, p, p.pow(y)).prod(2)
        else:
            own = p.gather(2, y.expand(3, -1)[..., None])[..., 0]
        return cls(own.argmin(0), own.argmax(0))

    def pick(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """Return the upper and the lower one of each sample's views [3 b ...], each [b ...]."""
        sample = torch.arange(views.shape[1], device=views.device)
        return views[self.upper, sample], views[self.lower, sample]


def squeeze(
    net: Net,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int,
    step_size: Radius | str,
    discrepancy: Discrepancy = "symmetric_kl",
    start: Start = "normal",
    starts: tuple[Tensor, Tensor] | None = None,
    keep_roles: bool = False,
    bn: AttackBN = "batch",
    rng: SampleRNG | None = None,
) -> tuple[Tensor, Tensor]:
    """Craft an adversarial and a collaborative example of each sample by widening the gap between them.

    Of the clean image and the two examples, the one with the highest and the one with the lowest cross-entropy are
    taken; both are moved to increase the discrepancy of their outputs, and become the adversarial and the collaborative
    example.

    Args:
        net: images to logits; left as it was.
        x: clean images [b c h w].
        y: labels [b] or [b k].
        threat: the perturbations allowed.
        steps: gradient steps.
        step_size: in the units of the radius, one number or one per sample [b]; a fraction such as "2/255" is read as
            such.
        discrepancy: "symmetric_kl", "js" or "l2", of the softmax outputs.
        start: where each of the two begins: "normal" or "uniform".
        starts: the two starting points (adversarial, collaborative), taken as they are, instead of random ones.
        keep_roles: leave the images in their roles (but not their gradients) as long as no sample of the batch has the
            clean image among its extremes, as the authors' code does.
        bn: how the net's batch norms run meanwhile.
        rng: random numbers of each sample; by default seeded once by torch's global generator.

    Returns:
        Adversarial and collaborative examples [b c h w].

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> x, y = torch.rand(2, 3, 4, 4), torch.tensor([0, 2])
        >>> x_adv, x_col = squeeze(net, x, y, Threat(), steps=5, step_size=2 / 255, bn="eval")
        >>> loss = torch.nn.functional.cross_entropy
        >>> bool(loss(net(x_adv), y) > loss(net(x_col), y))
        True

    Raises:
        TypeError: for images that are not float32 or float64, and labels of another type or shape.
        ValueError: for images, labels or a step out of their range, logits that are NaN or +inf, and for start "none":
            at the clean image the gap has no gradient, and neither would ever move.

    Paper: squeeze training (arXiv 2205.11156), algorithm 1. Reference: qizhangli/ST-AT@82fc69f.
    """
    gap = DISCREPANCIES[discrepancy]
    if start == "none" and starts is None:
        raise ValueError(
            "Squeeze training cannot start at the clean image: set the attack's start to normal or uniform."
        )
    with entered(net, x, y, threat, bn, rng, check=reading_is_free(x), soft=True) as (net, x, y, rng):
        step = one_per_sample("step_size", step_size, x, reading_is_free(x))
        if starts is None:
            starts = (starting_point(x, threat, start, None, rng), starting_point(x, threat, start, None, rng))
        x_adv = starts[0]
        x_col = starts[1]
        with torch.no_grad():
            clean = net(x)
        together = samples_are_independent(net, bn)
        always = bn != "eval" and has_sync_batchnorm(net)  # then all ranks must run the same forwards
        for _ in progress.steps(steps):
            views = torch.stack([x, x_col, x_adv])
            extremes, clean_chosen = Extremes(y, y), False

            def widen(views: Tensor) -> Tensor:
                nonlocal extremes, clean_chosen
                if together:
                    pair = net(views[1:].flatten(0, 1)).chunk(2)
                else:
                    pair = (net(views[1].clone()), net(views[2].clone()))  # compiled nets see the same layout
                logits = [clean, *pair]
                extremes = Extremes.of(torch.stack(logits), y)
                clean_chosen = bool(((extremes.upper == 0) | (extremes.lower == 0)).any())
                if clean_chosen or always:
                    logits[0] = net(views[0])
                return gap(*extremes.pick(torch.stack(logits)))

            grads, _ = input_gradient(widen, views)
            up, low = extremes.pick(grads)
            if clean_chosen or not keep_roles:
                x_adv, x_col = extremes.pick(views)
            x_adv = threat.project(x_adv + step * threat.steepest(up, x_adv), x)
            x_col = threat.project(x_col + step * threat.steepest(low, x_col), x)
    return x_adv.detach(), x_col.detach()
