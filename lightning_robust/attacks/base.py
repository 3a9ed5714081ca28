"""The base of every attack: one call signature, read and checked in one place."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from lightning_robust.attacks.call import Call, one_per_sample
from lightning_robust.attacks.entrance import entered
from lightning_robust.runtime.gradients import detached
from lightning_robust.runtime.modes import AttackBN
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Norm, Threat
from lightning_robust.types import Net, Objective, Radius, Watch
from lightning_robust.utils.images import reading_is_free

FORWARD_ROOM = 4
"""How many times as many images fit where no gradient is taken, since no layer's output has to be kept."""

A = TypeVar("A", bound="Attack")


class Attack(ABC):
    """Crafts, within a threat model, examples on which a net errs; the base of all attacks.

    Training and evaluation use the same attacks. The configuration holds the budget (threat, steps, step size); the
    caller passes what is attacked: the net, the images, the target and the objective.

    A subclass writes `_perturb`, and lists in `uses` the optional arguments of a call that it takes into account; the
    others are refused.

    Args:
        threat: the perturbations allowed; by default linf 8/255.

    Raises:
        ValueError: for a norm that the attack does not work in.
    """

    gradients: ClassVar[bool] = True
    """Whether the attack takes gradients."""

    minimizes: ClassVar[bool] = False
    """Whether it looks for the nearest example at whatever distance, by a method `nearest`, not only in the ball."""

    within_radius: bool = True
    """Whether its examples stay within the radius; those of an attack that leaves it serve training alone."""

    norms: ClassVar[Sequence[Norm]] = ("linf", "l2", "l1")
    """The norms that the attack works in."""

    default_threat: ClassVar[Threat] = Threat()
    """The perturbations allowed where no threat is given."""

    uses: Collection[str] = ()
    """Which of "objective", "step_size", "start", "watch" and "labels" a call may give; "reference" for reference
    logits as the target; "soft labels" if they are used as they are, where other attacks take the most probable class.
    """

    def __init__(self, threat: Threat | None = None) -> None:
        self._threat_given = threat is not None
        self._checked = False
        self.threat = threat or self.default_threat
        self._refuse_other_norms()

    @property
    def threat_given(self) -> bool:
        """Whether the threat was chosen; where it was left out, an evaluation gives the attack its own."""
        return self._threat_given

    def with_threat(self: A, threat: Threat) -> A:
        """Return the same attack under another threat.

        Raises:
            ValueError: for a norm that the attack does not work in.
        """
        other = self._altered(threat=threat, _threat_given=True)
        other._refuse_other_norms()
        return other

    def with_eps(self: A, eps: float) -> A:
        """Return the same attack with another radius; a step size that was given keeps its proportion to it."""
        return self._altered(_threat_given=True).with_threat(replace(self.threat, eps=eps))

    def _altered(self: A, **attributes: object) -> A:
        """Return a copy with other values of these attributes, which are not checked."""
        other = copy.copy(self)
        for name, value in attributes.items():
            setattr(other, name, value)
        return other

    def fitting(self, batch_size: int) -> int:
        """Return how many images it may take at a time where `batch_size` fit with their gradients."""
        return batch_size * (1 if self.gradients else FORWARD_ROOM)

    @property
    def parts(self) -> tuple["Attack", ...]:
        """The attacks that this one chooses or combines examples of, each at its own threat; itself if it is single."""
        return (self,)

    @property
    def threats(self) -> tuple[Threat, ...]:
        """The threats of its parts, each once."""
        return tuple(dict.fromkeys(part.threat for part in self.parts))

    @property
    def stages(self) -> dict[str, "Attack"]:
        """The attacks that this one tries in turn on the samples still standing; empty for a single attack."""
        return {}

    def __call__(
        self,
        net: Net,
        x: Tensor,
        target: Tensor,
        *,
        objective: Objective | None = None,
        eps: Radius | str | None = None,
        step_size: Radius | str | None = None,
        start: Tensor | None = None,
        bn: AttackBN = "eval",
        rng: SampleRNG | None = None,
        watch: Watch | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Craft an example of each image.

        Args:
            net: images to logits, or to an object, mapping or tuple that holds them; its modes, flags and gradients
                are left as they were.
            x: clean images [b c h w] in the threat's box, float32 or float64; any trailing shape works.
            target: what the objective compares logits with: labels [b] of any integer type, soft labels [b k], or with
                an objective anything else of floating-point type, such as reference logits [b k].
            objective: per-sample value of (logits, target) that the attack drives; by default its own.
            eps: radius instead of the threat's, one number or one per sample [b].
            step_size: step instead of the attack's own, one number or one per sample [b].
            start: the points [b c h w] to start from, taken as they are, instead of the attack's own.
            bn: how the net's batch norms (and dropout) run meanwhile.
            rng: random numbers of each sample; by default seeded once by torch's global generator.
            watch: a function that is told the logits [b k] of each point at which the attack takes a gradient.
            labels: the labels [b] or [b k] of an attack that needs them although its target is something else.

        Returns:
            Examples [b c h w], detached; a plain tensor, also where x is of a subclass.

        Raises:
            TypeError: for images that are not float32 or float64, or not of the type of the net's weights, labels that
                are neither integers [b] nor floats [b k], outputs without logits.
            ValueError: for an argument that this attack does not use, images outside the box, labels that are no class
                of the net or no probabilities, a radius or step that is negative or not finite, a radius larger than
                the box (linf), and logits that are NaN, or +inf at the start: on a CPU in every call, on a GPU in the
                attack object's first one.
        """
        given = {"objective": objective, "step_size": step_size, "start": start, "watch": watch, "labels": labels}
        self._refuse_unused([name for name, value in given.items() if value is not None])
        reference = objective is not None and torch.is_tensor(target) and target.is_floating_point()
        if reference:
            self._refuse_unused(["reference"])
        check = not self._checked or not isinstance(x, Tensor) or reading_is_free(x)
        soft = "soft labels" in self.uses
        with entered(net, x, target, self.threat, bn, rng, check, reference, soft) as (net, x, target, rng):
            call = Call(
                eps=one_per_sample("eps", self.threat.eps if eps is None else eps, x, check, self.threat),
                step_size=None if step_size is None else one_per_sample("step_size", step_size, x, check),
                objective=objective,
                start=None if start is None else self.threat.restrict(detached(start), x),
                bn=bn,
                rng=rng,
                watch=watch,
                labels=labels,
            )
            x_adv = self.threat.restrict(self._perturb(net, x, target, call).detach(), x)
        self._checked = True
        return x_adv

    @abstractmethod
    def _perturb(self, net: Net, x: Tensor, target: Tensor, call: Call) -> Tensor:
        """Craft examples [b c h w] of images that are checked and ready, on a net that is in its mode.

        Args:
            net: images to logits.
            x: clean images [b c h w].
            target: labels [b]; soft labels or reference logits [b k] if the attack uses them.
            call: radius, step, objective, start, mode and random numbers.
        """

    def _refuse_unused(self, names: Sequence[str]) -> None:
        for name in names:
            if name in self.uses:
                continue
            if name == "reference":
                raise ValueError(
                    f"{type(self).__name__} needs labels as its target, class numbers [b] or, without an objective, "
                    "soft labels [b k]; PGD can ascend from reference logits [b k]."
                )
            raise ValueError(f"{type(self).__name__} does not use {name}: leave it out of the call.")

    def _refuse_other_norms(self) -> None:
        if self.threat.norm not in self.norms:
            *some, last = self.norms
            norms = f"{', '.join(some)} and {last}" if some else last
            raise ValueError(
                f"{type(self).__name__} works in {norms} alone, got a threat in "
                f"{self.threat.norm}: use FMN, which works in all."
            )
