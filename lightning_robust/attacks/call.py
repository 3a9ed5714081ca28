"""The arguments of one call of an attack, checked and made one per sample."""

from dataclasses import dataclass, fields, replace

from torch import Tensor

from lightning_robust.attacks.rows import select
from lightning_robust.runtime.gradients import detached
from lightning_robust.runtime.modes import AttackBN
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat, per_image
from lightning_robust.types import Objective, Radius, Watch, to_float
from lightning_robust.utils.radii import check_fits_box, check_radius


@dataclass(frozen=True)
class Call:
    """The arguments of one call: `Attack.__call__` makes the record, `Attack._perturb` reads it.

    Args:
        eps: radius of each sample [b 1 1 1].
        step_size: step of each sample [b 1 1 1], or None for the attack's own.
        objective: per-sample value of (logits, target) to ascend, or None for the attack's own.
        start: the points [b c h w] to start from, or None for the attack's own.
        bn: how the net's batch norms run.
        rng: random numbers of each sample.
        watch: is told the logits of each point at which a gradient is taken, or None.
        labels: labels [b] or [b k] where the target is none, or None.
    """

    eps: Tensor
    step_size: Tensor | None
    objective: Objective | None
    start: Tensor | None
    bn: AttackBN
    rng: SampleRNG
    watch: Watch | None = None
    labels: Tensor | None = None

    def __getitem__(self, which: Tensor) -> "Call":
        """Return the same call for some of the samples (a mask or positions)."""
        return replace(self, **{field.name: select(getattr(self, field.name), which) for field in fields(self)})


def one_per_sample(
    name: str, value: Radius | str, x: Tensor, check: bool = True, threat: Threat | None = None
) -> Tensor:
    """Read a radius or a step, one number or one per sample [b], as one per sample [b 1 1 1].

    Args:
        name: what it is called, for the message.
        value: a number, a fraction such as "8/255", or a tensor [] or [b].
        x: images [b c h w], whose type and device it takes.
        check: whether to validate a tensor's values, which on a GPU waits for the work queued there.
        threat: whose box a radius in linf must not exceed.

    Raises:
        TypeError: for what is neither a number nor a tensor.
        ValueError: for a value that is negative, not finite or too large, or another number of them than there are
            samples.
    """
    number = to_float(value) if isinstance(value, str) else detached(value) if isinstance(value, Tensor) else value
    largest = check_radius(name, number, len(x), read=check)
    if threat is not None:
        check_fits_box(threat.norm, largest, threat.lower, threat.upper)
    return per_image(number, x).expand(len(x), *[1] * (x.dim() - 1))
