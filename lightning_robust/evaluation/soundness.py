"""Whether a robust accuracy can be believed: signs that an attack failed for reasons other than robustness.

Papers: Athalye et al. 2018 (arXiv 1802.00420), section 3.1; Carlini et al. 2019 (arXiv 1902.06705), section 5; Croce &
Hein 2020 (arXiv 2003.01690), section 5.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lightning_robust.attacks.base import Attack
from lightning_robust.attacks.square import Square
from lightning_robust.evaluation.black_box_checks import (
    QUERIES,
    black_box,
    black_box_classes,
    black_box_stages,
    broken_alone,
)
from lightning_robust.evaluation.check import Check
from lightning_robust.evaluation.gradient_checks import first_passing, huge_radius, more_steps, zero_gradients
from lightning_robust.evaluation.losses_used import ALL, losses_used
from lightning_robust.evaluation.masked_layers import MaskedLayer, masked_layers
from lightning_robust.evaluation.net_checks import (
    in_training_mode,
    independence,
    inputs,
    probabilities,
    random_outputs,
)
from lightning_robust.evaluation.probe import Probe
from lightning_robust.evaluation.probed import evenly_spaced, gathered, probed
from lightning_robust.evaluation.samples import Samples
from lightning_robust.evaluation.straight_through import layers
from lightning_robust.evaluation.strength import MORE_STEPS, is_close, reference, strength
from lightning_robust.evaluation.with_gradient import WithGradient
from lightning_robust.runtime.precision import full_precision
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.types import Net

RETRIED = 8
"""On how many samples at most that an attack without gradients broke one with gradients has a try."""


def examine(
    net: Net,
    x: Tensor,
    y: Tensor,
    attacks: Mapping[str, Attack],
    samples: Samples | None = None,
    standing: Tensor | None = None,
    rng: SampleRNG | None = None,
    batch_size: int = 64,
    alone: tuple[Tensor, Tensor] | None = None,
) -> list[Check]:
    """Check the soundness of an evaluation by probing the net on a few samples, in fp32.

    A strong attack, whose loss does not depend on the scale of the logits, says whether the evaluation's number is
    right. If it is, the checks of gradients ask whether the gradients of any loss lead somewhere, since otherwise the
    strong attack was blind too. If not, they ask it of the losses that the evaluation used, which may be why.

    Args:
        net: maps images to logits; left as it was.
        x: clean images [b ...] in the threat's box; some dozens are enough.
        y: labels [b].
        attacks: the attacks of the evaluation, by name; the first one's threat is probed.
        samples: all samples, with what `Evaluation` found; by default a short black-box attack is run instead of
            looking up what the evaluation's own one broke.
        standing: marks the samples [b] that withstood the evaluation; by default all.
        rng: random numbers of each sample; by default seeded once by torch's global generator.
        batch_size: how many samples are attacked at a time.
        alone: images and labels of samples that only the evaluation's black-box attacks broke, some dozens at most.

    Returns:
        The checks. Those of the attacks are left out if the net classifies none of the samples correctly, or if images
        lie outside the threat's box.

    Example:
        Logits so large that the softmax is 0 or 1 in fp32 leave the cross-entropy without a gradient:

        >>> import torch
        >>> from lightning_robust.attacks import PGD
        >>> net = lambda x: 1e4 * (x.mean((1, 2, 3))[:, None] - 0.5) * torch.tensor([1, -1])
        >>> x, y = torch.full((8, 1, 4, 4), 0.51), torch.zeros(8, dtype=torch.int64)
        >>> for check in examine(net, x, y, {"pgd": PGD(steps=10)}):
        ...     if check.status == "fail":
        ...         print(check.name)
        gradients
        more_steps
        huge_radius
        strength
    """
    if not len(x):
        return []
    found = [in_training_mode(net)]  # first, before anything here switches the mode
    rng = SampleRNG.from_global_seed(x) if rng is None else rng
    probe = Probe(WithGradient(net), x, y, next(iter(attacks.values())).threat, rng, batch_size)
    with full_precision(x):
        logits = probe.logits
        found.append(random_outputs(probe, logits, attacks))
        found.append(independence(net, probe, logits, random=found[-1].status != "pass"))
        found += [probabilities(logits), inputs(x, probe.threat)]
        right = logits.argmax(1) == y
        if found[-1].status == "fail" or not right.any():  # attacks refuse images outside the box
            return found
        standing = right if standing is None else right & standing
        found += _of_attacks(probe, masked_layers(net, x), right, standing, attacks, samples, alone)
    return found


def examine_all(
    net: Net,
    samples: Samples,
    found: Samples,
    attacks: Mapping[str, Attack],
    count: int,
    seed: int,
    batch_size: int,
    device: torch.device,
    here: bool,
) -> list[Check]:
    """Examine an evaluation on samples spaced evenly over those of all ranks; all ranks call it together.

    Args:
        net: maps images to logits; left as it was.
        samples: this rank's samples, with their images.
        found: all ranks' samples, with what `Evaluation` found.
        attacks: the attacks of the evaluation, all at one threat.
        count: how many samples to probe.
        seed: seed of the attacks' random numbers.
        batch_size: how many samples are attacked at a time.
        device: the net's.
        here: whether this rank is the one that examines.

    Returns:
        The checks, on that rank; nothing on the others.
    """
    chosen = probed(found.index, count)
    by_black = found.index[broken_alone(found, black_box_stages(attacks))]
    x, y, index = gathered(samples, chosen, device)
    alone = gathered(samples, by_black[evenly_spaced(len(by_black), RETRIED)], device)[:2]
    if not here:
        return []
    standing = torch.isin(index, found.index[found.robust(attacks)].to(device))
    return examine(net, x, y, attacks, found, standing, SampleRNG(seed, index), batch_size, alone)


def masked_share(beaten: Probe) -> float:
    """Return the share of samples, which an attack without gradients broke, that a strong one with gradients does not.

    Before gradients are blamed, a strong attack has a try on some of the samples.
    """
    if not len(beaten):
        return 0.0
    some = beaten[evenly_spaced(len(beaten), RETRIED).to(beaten.x.device)]
    return float(some.standing(reference(beaten.threat, steps=MORE_STEPS)).float().mean())


def _of_attacks(
    probe: Probe,
    hiding: Sequence[MaskedLayer],
    right: Tensor,
    standing: Tensor,
    attacks: Mapping[str, Attack],
    samples: Samples | None,
    alone: tuple[Tensor, Tensor] | None,
) -> list[Check]:
    """Check the attacks on the samples that are classified correctly, and on those that withstood the evaluation."""
    threat, left, n = probe.threat, probe[standing], len(probe)
    withstood = left[left.standing(reference(threat))]
    if is_close(len(left) - len(withstood), n, threat.norm):
        withstood = withstood[withstood.standing(reference(threat, steps=MORE_STEPS))]
    broken = len(left) - len(withstood)
    tried = black_box_stages(attacks) if samples is not None else {}
    if threat.norm == "l0":
        masked = []  # the strong attack searches without gradients too, and on sound nets finds more by it
    elif samples is not None and tried:
        beaten = int(broken_alone(samples, tried).sum())
        if alone is not None:
            rng = SampleRNG(0, torch.arange(len(alone[0]), device=alone[0].device))
            beaten = round(beaten * masked_share(replace(probe, x=alone[0], y=alone[1], rng=rng)))
        masked = [black_box(beaten, len(samples), short=False, by=black_box_classes(attacks))]
    else:
        by_square = withstood[~withstood.standing(Square(threat, queries=QUERIES))]
        beaten = round(len(by_square) * masked_share(by_square))
        broken += len(by_square) - beaten
        masked = [black_box(beaten, n, short=True)]
    strong = strength(broken, n, threat.norm)
    used = losses_used(attacks)
    # a weak evaluation may be so because of its losses; one that is right was judged by another, which may be blind
    losses = used if strong.status != "pass" else list(dict.fromkeys([*used, *ALL]))
    return [
        zero_gradients(probe[right], losses),
        *(first_passing(check, probe[right], losses) for check in (more_steps, huge_radius)),
        layers(hiding, withstood, n),
        strong,
        *masked,
    ]
