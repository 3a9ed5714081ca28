"""The base of attacks that look for the nearest adversarial example instead of one within a radius."""

from abc import abstractmethod

import torch
from torch import Tensor

from lightning_robust.attacks.base import Attack
from lightning_robust.attacks.call import Call, one_per_sample
from lightning_robust.attacks.entrance import entered
from lightning_robust.attacks.success import misclassified
from lightning_robust.runtime.gradients import input_gradient
from lightning_robust.runtime.modes import AttackBN
from lightning_robust.runtime.precision import full_precision
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat, norms, per_image
from lightning_robust.types import Net, Objective, Radius


class Nearest:
    """Holds the nearest example found so far for each sample of a batch.

    Args:
        threat: whose norm counts.
        x: clean images [b c h w].
        wrong: which samples [b] the net errs on already: nothing is nearer.
        enough: samples with an example within this radius [b] are done.
    """

    def __init__(self, threat: Threat, x: Tensor, wrong: Tensor, enough: Tensor) -> None:
        self.threat = threat
        self.x = x
        self.x_adv = x.clone()
        self.size = x.new_zeros(len(x)).masked_fill(~wrong, torch.inf)
        self.enough = enough.flatten()

    @property
    def done(self) -> Tensor:
        """Which samples [b] have an example that is near enough."""
        return self.size <= self.enough

    @property
    def left(self) -> Tensor:
        """The positions of the samples that are not done."""
        return torch.nonzero(~self.done)[:, 0]

    def anew(self, rows: Tensor) -> "Nearest":
        """Begin once more for the samples at positions `rows`, on each of which the net is right."""
        return Nearest(self.threat, self.x[rows], torch.zeros_like(rows, dtype=torch.bool), self.enough[rows])

    def take(self, rows: Tensor, x_adv: Tensor, wrong: Tensor) -> None:
        """Keep those candidates, for the samples at positions `rows`, that are `wrong` and nearer than any before."""
        size = self.threat.distance(x_adv, self.x[rows])
        better = wrong & (size < self.size[rows])
        self.x_adv[rows[better]] = x_adv[better]
        self.size[rows[better]] = size[better]


class MinimumNorm(Attack):
    """Looks for the smallest perturbation, in the threat's norm, that makes the net err.

    A subclass writes `search`.

    Called as an attack it gives the examples that lie within the radius, and the clean image for the other samples. It
    has an objective, steps and a start of its own. The search runs in full precision, also under autocast: it divides
    differences of logits, which half precision rounds to few values.
    """

    minimizes = True

    @abstractmethod
    def search(self, net: Net, y: Tensor, logits: Tensor, found: Nearest, rng: SampleRNG) -> None:
        """Search for the samples that are left, and hand each example found to `found.take`.

        Args:
            net: images to logits, ready for input gradients.
            y: labels [b].
            logits: the net's logits [b k] of the clean images.
            found: the clean images, and what is known.
            rng: random numbers of each sample.
        """

    def nearest(
        self,
        net: Net,
        x: Tensor,
        y: Tensor,
        *,
        bn: AttackBN = "eval",
        rng: SampleRNG | None = None,
        enough: Radius | str = 0.0,
    ) -> Tensor:
        """Return the nearest example found of each sample, whatever its distance.

        Args:
            net: images to logits; left as it was.
            x: clean images [b c h w] in the threat's box.
            y: labels [b], or soft labels [b k], of which the most probable class counts.
            bn: how the net's batch norms run meanwhile.
            rng: random numbers of each sample.
            enough: a sample leaves the search as soon as an example within this radius is found, one or per sample [b].

        Returns:
            Examples [b c h w]; the clean image where none was found, and where the net errs on it already.
        """
        return self._find(net, x, y, bn, rng, enough).x_adv

    def _perturb(self, net: Net, x: Tensor, target: Tensor, call: Call) -> Tensor:
        """Give the nearest examples where they lie within the radius, the clean images elsewhere."""
        found = self._search_all(net, x, target, call.eps, call.rng)
        return torch.where(per_image(found.done, x).bool(), found.x_adv, x)

    def _find(
        self, net: Net, x: Tensor, y: Tensor, bn: AttackBN, rng: SampleRNG | None, enough: Radius | str
    ) -> Nearest:
        with entered(net, x, y, self.threat, bn, rng) as (net, x, y, rng):
            found = self._search_all(net, x, y, one_per_sample("enough", enough, x), rng)
            found.x_adv = self.threat.restrict(found.x_adv, x)
            return found

    def _search_all(self, net: Net, x: Tensor, y: Tensor, enough: Tensor, rng: SampleRNG) -> Nearest:
        with full_precision(x):
            with torch.no_grad():
                logits = net(x)
            found = Nearest(self.threat, x, misclassified(net, x, logits, y), enough)
            self.search(net, y, logits, found, rng)
        return found


def slope_at(net: Net, x_adv: Tensor, y: Tensor, objective: Objective) -> tuple[Tensor, Tensor, Tensor]:
    """Return an objective's gradient at points [b c h w], its values [b], and where the net errs [b].

    Args:
        net: images to logits.
        x_adv: the points.
        y: labels [b].
        objective: from logits [b k] and labels to values [b].
    """
    logits = torch.empty(0)

    def values(z: Tensor) -> Tensor:
        nonlocal logits
        logits = net(z)
        return objective(logits, y)

    slope, value = input_gradient(values, x_adv)
    return slope, value, misclassified(net, x_adv, logits, y)


def farthest(x: Tensor, threat: Threat) -> Tensor:
    """Return the distance [b] from each image to the farthest corner of the box."""
    return norms(torch.maximum(x - threat.lower, threat.upper - x).flatten(1), threat.norm)


def minimum_norms(attack: MinimumNorm, net: Net, x: Tensor, y: Tensor, rng: SampleRNG | None = None) -> Tensor:
    """Return the sizes [b] of the smallest perturbations found.

    They bound robust accuracy from above at every radius at once.

    Args:
        attack: looks for the nearest examples.
        net: images [b c h w] to logits [b k].
        x: clean images [b c h w] in the threat's box.
        y: labels [b] or [b k].
        rng: random numbers of each sample; by default seeded once by torch's global generator.

    Returns:
        Sizes [b] in the threat's norm: 0 where the net errs already, inf where no example was found.

    Example:
        >>> import torch
        >>> from lightning_robust.attacks import FAB
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
        >>> x = torch.full((1, 1, 2, 2), 0.5)
        >>> size = minimum_norms(FAB(steps=10), net, x, net(x).argmax(1))
        >>> bool(size > 0)
        True
    """
    return attack._find(net, x, y, "eval", rng, enough=0.0).size
