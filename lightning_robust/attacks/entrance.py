"""The one place where an attack takes hold of a net: input is checked and made ready for gradients."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from lightning_robust.runtime.gradients import detached
from lightning_robust.runtime.modes import AttackBN, attack_mode
from lightning_robust.runtime.outputs import LogitsNet
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat
from lightning_robust.types import Net
from lightning_robust.utils.checks import check_attacked_logits, check_images, check_labels


class CheckedNet(LogitsNet):
    """A net whose first logits are checked against the labels.

    Args:
        net: images to logits, or to what holds them.
        y: labels [b], or None where the target is no label.
    """

    def __init__(self, net: Net, y: Tensor | None) -> None:
        super().__init__(net)
        self._y = y
        self._checked = False

    def forward(self, x: Tensor) -> Tensor:
        """Return the net's logits [b k]."""
        logits = super().forward(x)
        if not self._checked:
            check_attacked_logits(logits.detach(), len(x), self._y)
            self._checked = True
        return logits


@contextmanager
def entered(
    net: Net, x: Tensor, target: Tensor, threat: Threat, bn: AttackBN, rng: SampleRNG | None, check: bool = True
) -> Iterator[tuple[Net, Tensor, Tensor, SampleRNG]]:
    """Make a net, images and a target ready for an attack; on leaving, the net is exactly as it was.

    Inside, input gradients work whatever surrounds (`no_grad`, `inference_mode`), the net is in the mode `bn` with its
    parameters frozen, and its outputs are logits.

    Args:
        net: images to logits, or to an object, mapping or tuple that holds them.
        x: clean images [b c h w] in the threat's box.
        target: labels [b], or reference logits [b k].
        threat: the perturbations allowed.
        bn: how the net's batch norms run.
        rng: random numbers of each sample; None seeds them once by torch's global generator.
        check: whether to validate the values, which on a GPU waits for the work queued there.

    Raises:
        TypeError: for images that are not floating-point, labels that are not integers, outputs without logits.
        ValueError: for images outside the box, or labels that are no class of the net.
    """
    labels = None if target.is_floating_point() else target
    check = check and len(x) > 0
    if check:
        check_images(x, threat.lower, threat.upper)
        if labels is not None:
            check_labels(labels, count=len(x))
    with attack_mode(net, bn):
        ready = CheckedNet(net, labels) if check else LogitsNet(net)
        yield ready, detached(x), detached(target), rng or SampleRNG.from_global_seed(x)
