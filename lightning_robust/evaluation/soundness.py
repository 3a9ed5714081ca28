"""Whether a robust accuracy can be believed: signs that an attack failed for reasons other than robustness.

Papers: Athalye et al. 2018 (arXiv 1802.00420), section 3.1; Carlini et al. 2019 (arXiv 1902.06705), section 5; Croce &
Hein 2020 (arXiv 2003.01690), section 5.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_robust.attacks.apgd import APGD
from lightning_robust.attacks.base import Attack
from lightning_robust.attacks.entrance import entered
from lightning_robust.attacks.pgd import PGD
from lightning_robust.attacks.square import Square
from lightning_robust.evaluation.samples import Samples
from lightning_robust.evaluation.stages import named_stages
from lightning_robust.losses import cross_entropy
from lightning_robust.runtime.gradients import input_gradient
from lightning_robust.runtime.modes import logits_no_grad
from lightning_robust.runtime.precision import full_precision
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat
from lightning_robust.types import Net

STEPS, QUERIES = 50, 300
"""Of the attacks that probe a net."""


class Check(NamedTuple):
    """What one check found: "pass", "warn" or "fail", and why."""

    name: str
    status: Literal["pass", "warn", "fail"]
    sentence: str


class WithGradient(nn.Module):
    """The net; where it passes on no gradient at all, one that is zero, so that attacks can run."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """The net's logits."""
        return self.net(x) + 0 * x.flatten(1)[:, :1]


@dataclass
class Probe:
    """A net and the samples that it is probed on, `batch_size` at a time.

    Each attack starts from the same random numbers.
    """

    net: Net
    x: Tensor
    y: Tensor
    threat: Threat
    rng: SampleRNG
    batch_size: int

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, which: Tensor) -> "Probe":
        return replace(self, x=self.x[which], y=self.y[which], rng=self.rng[which])

    @property
    def batches(self) -> list["Probe"]:
        """The samples, so many at a time."""
        return [self[rows] for rows in torch.split(torch.arange(len(self), device=self.x.device), self.batch_size)]

    def attacked(self, attack: Attack) -> Tensor:
        """Logits [b k] on the attack's examples."""
        examples = (attack(part.net, part.x, part.y, rng=part.rng) for part in self.batches)
        return torch.cat([logits_no_grad(self.net, x_adv) for x_adv in examples])

    def standing(self, attack: Attack) -> Tensor:
        """Which samples [b] withstand the attack."""
        return self.attacked(attack).argmax(1) == self.y if len(self) else self.y == self.y


def examine(
    net: Net,
    x: Tensor,
    y: Tensor,
    attacks: Mapping[str, Attack],
    samples: Samples | None = None,
    standing: Tensor | None = None,
    rng: SampleRNG | None = None,
    batch_size: int = 64,
) -> list[Check]:
    """Probe a net on a few samples, in fp32.

    Args:
        net: images to logits.
        x: clean images [b c h w], some dozens.
        y: labels [b].
        attacks: of the evaluation, by name; the first one's threat is probed.
        samples: all samples, with what `Evaluation` found.
        standing: [b] which of these samples withstood the evaluation; by default all.
        draws: source of random numbers.
        batch_size: samples attacked at a time.
    """
    if not len(x):
        return []
    found = [in_training_mode(net)]  # before anything here switches it
    rng = SampleRNG.from_global_seed(x) if rng is None else rng
    probe = Probe(WithGradient(net), x, y, next(iter(attacks.values())).threat, rng, batch_size)
    with full_precision(x):
        logits = probe.attacked(PGD(steps=0, start="none"))
        found += [random_outputs(probe, logits, attacks), probabilities(logits), inputs(x, probe.threat)]
        right = logits.argmax(1) == y
        if not right.any():
            return found
        found += [check(probe[right]) for check in (zero_gradients, more_steps, huge_radius)]
        left = probe[right if standing is None else right & standing]
        withstood = left.standing(APGD(left.threat, steps=STEPS))
        found.append(strength(int((~withstood).sum()), int(right.sum())))
        tried = _black_box_stages(attacks)
        if samples is not None and tried:
            found.append(black_box(samples, tried))
        else:
            found.append(probe_black_box(left[withstood], int(right.sum())))
    return found


def in_training_mode(net: Net) -> Check:
    """Modules that were left in training mode."""
    modules = net.named_modules() if isinstance(net, nn.Module) else ()
    left = [name or "the net itself" for name, m in modules if m.training and not isinstance(m, Metric)]
    if left:
        return Check(
            "evaluation_mode",
            "warn",
            f"{len(left)} modules were in training mode ({left[0]} first); they were evaluated in evaluation mode.",
        )
    return Check("evaluation_mode", "pass", "Every module was in evaluation mode.")


def random_outputs(probe: Probe, logits: Tensor, attacks: Mapping[str, Attack]) -> Check:
    """Whether two equal forward passes give equal logits."""
    again = probe.attacked(PGD(steps=0, start="none"))
    gap = float((again - logits).abs().max() / logits.abs().max().clamp_min(1e-12))
    if gap <= 1e-3:  # kernels may sum in another order
        return Check("deterministic", "pass", "Two forward passes on the same images gave the same logits.")
    averaged = any(
        getattr(stage.attack, "eot", 1) > 1 for attack in attacks.values() for stage in named_stages("", attack)
    )
    return Check(
        "deterministic",
        "warn" if averaged else "fail",
        f"Two forward passes on the same images differ by {gap:.1%} of the largest logit: a random net needs gradients "
        "averaged over passes (AutoAttack's version rand) and its accuracy averaged over runs.",
    )


def probabilities(logits: Tensor) -> Check:
    """Whether the outputs look like probabilities."""
    if logits.shape[1] > 1 and bool((logits >= 0).all()) and bool((logits <= 1).all()):
        if bool(((logits.sum(1) - 1).abs() < 1e-3).all()):
            told = "The outputs are non-negative and sum to 1: attacks need logits; remove the softmax."
            return Check("logits", "fail", told)
        return Check("logits", "warn", "The outputs all lie in [0, 1]: attacks need logits; is there a sigmoid?")
    return Check("logits", "pass", "The outputs do not look like probabilities.")


def inputs(x: Tensor, threat: Threat) -> Check:
    """Whether the images use the box of the threat."""
    low, high = (float(v) for v in torch.aminmax(x))
    told = f"The images range over [{low:.4g}, {high:.4g}] in the box [{threat.lower:g}, {threat.upper:g}]"
    if low < threat.lower - 1e-6 or high > threat.upper + 1e-6:
        return Check("inputs", "fail", f"{told}: normalisation belongs in the net.")
    if high - low < 0.1 * (threat.upper - threat.lower):
        return Check("inputs", "warn", f"{told}: were they divided twice?")
    return Check("inputs", "pass", f"{told}.")


def zero_gradients(probe: Probe) -> Check:
    """Samples on which the cross-entropy has no input gradient at all, or one that is not finite."""
    zero = 0
    for part in probe.batches:
        with entered(part.net, part.x, part.y, part.threat, "eval", part.rng) as (net, x, y, _):
            # with a graph, entries that are not finite are left as they are
            gradient, _ = input_gradient(partial(_cross_entropy, net, y), x, create_graph=True)
        zero += int(((gradient == 0).flatten(1).all(1) | ~gradient.isfinite().flatten(1).all(1)).sum())
    told = f"The cross-entropy's input gradient is exactly zero or not finite on {zero} of {len(probe)} samples"
    blind = f"{told}: gradient-based attacks on this loss are blind there."
    return _judged("gradients", zero / len(probe), 0, 0.1, f"{told}.", blind)


def more_steps(probe: Probe) -> Check:
    """Whether PGD raises the loss of most samples above its random start's, and more steps do not lower it again."""
    begin, first, last = (
        cross_entropy(probe.attacked(PGD(probe.threat, steps=steps)).double(), probe.y) for steps in (0, 1, STEPS)
    )
    risen, means = int((last > begin).sum()), [float(loss.mean()) for loss in (begin, first, last)]
    told = (
        f"PGD with {STEPS} steps raised the cross-entropy of {risen} of {len(probe)} samples above its random start's; "
        f"its mean was {means[0]:.4g} there, {means[1]:.4g} after 1 step, {means[2]:.4g} after {STEPS}"
    )
    # not the mean: one sample that a random start breaks may outweigh all others
    if probe.threat.eps > 0 and risen < 0.5 * len(probe):
        return Check("more_steps", "fail", f"{told}: the attack gains nothing.")
    if not means[2] >= 0.95 * means[1]:  # NaN fails too
        return Check("more_steps", "fail", f"{told}: more steps make the attack weaker.")
    return Check("more_steps", "pass", f"{told}.")


def huge_radius(probe: Probe) -> Check:
    """Whether PGD reaches accuracy 0 when any image is allowed."""
    low, high = probe.threat.lower, probe.threat.upper
    # linf's steps reach every image of the box soonest; a random start would err without any gradient's help
    left = int(probe.standing(PGD(Threat("linf", high - low, low, high), steps=STEPS, start="none")).sum())
    told = f"{left} of {len(probe)} samples withstand PGD with {STEPS} steps when any image is allowed"
    missed = f"{told}: every net errs on some image, so the attack misses what is there."
    return _judged("huge_radius", left / len(probe), 0, 0.05, f"{told}.", missed)


def strength(broken: int, n: int) -> Check:
    """Whether a short Auto-PGD breaks samples that withstood the evaluation."""
    told = f"Auto-PGD with {STEPS} steps broke {broken} of {n} samples that withstood the evaluation"
    # two short Auto-PGDs that start elsewhere differ by up to 6 of 63 for l1 on scikit-learn's digits
    return _judged("strength", broken / n, max(0.15, 1 / n), 0.25, f"{told}.", f"{told}: its attacks are too weak.")


def black_box(samples: Samples, tried: Mapping[str, list[int]]) -> Check:
    """Whether the evaluation's black-box attack broke what its gradient attacks did not."""
    n = len(samples)
    black, white = torch.zeros(n, dtype=torch.bool), torch.zeros(n, dtype=torch.bool)
    for name, stages in tried.items():
        verdicts = samples.verdicts[name]
        by_black = torch.isin(verdicts.broken, verdicts.broken.new_tensor(stages))
        black, white = black | by_black, white | ~(verdicts.standing | by_black)
    # as fra31/auto-attack@a392200 tolerates; one sample is no sign
    return _black_box_check(int((black & ~white).sum()), n, max(0.002, 1 / n), 0.02)


def probe_black_box(left: Probe, n: int) -> Check:
    """Whether a short black-box attack breaks samples, out of n, that withstood the evaluation and Auto-PGD."""
    beaten = int((~left.standing(Square(left.threat, queries=QUERIES))).sum())
    # on sound nets short attacks differ by chance: at most 1 of 64 for linf and l2, 3 for l1 on scikit-learn's digits
    return _black_box_check(beaten, n, max(0.05, 1 / n), 0.1)


def _black_box_check(beaten: int, n: int, good: float, bad: float) -> Check:
    told = f"Square, which uses no gradients, broke {beaten} of {n} samples that no gradient attack had broken"
    mislead = f"{told}: the gradients mislead, and the accuracy is too high."
    return _judged("black_box", beaten / n, good, bad, f"{told}.", mislead)


def _black_box_stages(attacks: Mapping[str, Attack]) -> dict[str, list[int]]:
    """Of each attack the numbers of its black-box stages; empty unless there are both such stages and others."""
    parts = {name: named_stages(name, attack) for name, attack in attacks.items()}
    found = {name: [k for k, stage in enumerate(p) if isinstance(stage.attack, Square)] for name, p in parts.items()}
    return found if 0 < sum(map(len, found.values())) < sum(map(len, parts.values())) else {}


def _judged(name: str, share: float, good: float, bad: float, well: str, badly: str) -> Check:
    """Pass up to the share `good` of the samples, warn up to `bad`, fail above."""
    if share <= good:
        return Check(name, "pass", well)
    return Check(name, "warn" if share <= bad else "fail", badly)


def _cross_entropy(net: Net, y: Tensor, x: Tensor) -> Tensor:
    return cross_entropy(net(x), y)
