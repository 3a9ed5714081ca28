"""Checks an attack's input and prepares the net for gradients."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lightning_robust.runtime.gradients import detached
from lightning_robust.runtime.modes import AttackBN, attack_mode
from lightning_robust.runtime.outputs import LogitsNet
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat
from lightning_robust.types import Net
from lightning_robust.utils.images import check_image_type, check_images, reading_is_free
from lightning_robust.utils.labels import check_label_type, check_labels, hard_labels, is_soft
from lightning_robust.utils.logits import check_attacked_logits


class CheckedNet(LogitsNet):
    """A net whose first logits are checked against the labels, and all for NaN.

    Args:
        net: images to logits, or to what holds them.
        x: clean images [b c h w], to name the samples whose logits are NaN.
        y: labels [b] or [b k], or None where the target is no label.
    """

    def __init__(self, net: Net, x: Tensor, y: Tensor | None) -> None:
        super().__init__(net)
        self._x = x
        self._y = y
        self._checked = False
        self._highest: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return the net's logits [b k]."""
        logits = super().forward(x)
        seen = logits.detach()
        if not self._checked:
            check_attacked_logits(seen, len(x), self._y)
        if len(x):
            highest = seen.amax()  # one number to read, NaN if any logit is
            if reading_is_free(x) or not self._checked:
                value = float(highest)
                if value != value or (value == math.inf and not self._checked):
                    self._refuse(x, seen)
            else:  # read when all is done
                self._highest = highest if self._highest is None else torch.maximum(self._highest, highest)
        self._checked = True
        return logits

    def finish(self) -> None:
        """Raise if logits that were not read at once were NaN."""
        if self._highest is not None and self._highest.isnan():
            raise ValueError(
                "The net's logits became NaN during the attack: check its weights. Run the attack on a CPU to see "
                "which samples are affected."
            )

    def _refuse(self, x: Tensor, logits: Tensor) -> None:
        """Raise, naming the samples whose images are nearest to those with such logits."""
        bad = x.detach()[(logits.isnan() | logits.isposinf()).any(1)].flatten(1)
        samples = sorted(set(torch.cdist(bad, self._x.flatten(1)).argmin(1).tolist()))
        told = ", ".join(map(str, samples[:10])) + (", ..." if len(samples) > 10 else "")
        raise ValueError(
            f"The net's logits hold NaN or +inf on {len(samples)} of the batch's {len(self._x)} samples, or on images "
            f"made of them (rows {told}): look at its weights and its input scale."
        )


class WithinRegion(nn.Module):
    """A net whose input gradients are 0 outside the region of a threat, so that attacks stay within it.

    Args:
        net: images to logits.
        threat: with a region.
    """

    def __init__(self, net: Net, threat: Threat) -> None:
        super().__init__()
        self.net = net
        self.threat = threat

    def forward(self, x: Tensor) -> Tensor:
        """Return the net's logits [b k]."""
        return self.net(self.threat.restrict(x, x.detach()))


@contextmanager
def entered(
    net: Net,
    x: Tensor,
    target: Tensor,
    threat: Threat,
    bn: AttackBN,
    rng: SampleRNG | None,
    check: bool = True,
    reference: bool = False,
    soft: bool = False,
) -> Iterator[tuple[Net, Tensor, Tensor, SampleRNG]]:
    """Make a net, images and a target ready for an attack; on leaving, the net is exactly as it was.

    Inside, input gradients work whatever surrounds (`no_grad`, `inference_mode`), the net is in the mode `bn` with its
    parameters frozen, its outputs are logits, images and target are plain tensors, and class numbers are int64.

    Args:
        net: images to logits, or to an object, mapping or tuple that holds them.
        x: clean images [b c h w] in the threat's box.
        target: labels [b] or [b k], or reference logits [b k].
        threat: the perturbations allowed.
        bn: how the net's batch norms run.
        rng: random numbers of each sample; None seeds them once by torch's global generator.
        check: whether to validate the values, which on a GPU waits for the work queued there.
        reference: whether the target is reference logits.
        soft: whether soft labels [b k] stay what they are; otherwise the most probable class takes their place.

    Raises:
        TypeError: for images that are not float32 or float64, labels of another type or shape, outputs without logits.
        ValueError: for images outside the box, labels that are no class of the net or no probabilities, or logits that
            are NaN or +inf.
    """
    check_image_type(x, threat.lower, threat.upper)
    if not reference:
        check_label_type(target, len(x))
    check = check and len(x) > 0
    if check:
        check_images(x, threat.lower, threat.upper)
        if not reference:
            check_labels(target)
    with attack_mode(net, bn):
        x, target = detached(x), detached(target)
        ready = CheckedNet(net, x, None if reference else target) if check else LogitsNet(net)
        seen = ready if threat.region is None else WithinRegion(ready, threat)
        if not (reference or (soft and is_soft(target))):
            target = hard_labels(target)
        yield seen, x, target, rng or SampleRNG.from_global_seed(x)
        if isinstance(ready, CheckedNet):
            ready.finish()
