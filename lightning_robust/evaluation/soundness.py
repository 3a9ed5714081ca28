"""Whether a robust accuracy can be believed: signs that an attack failed for reasons other than robustness.

Papers: Athalye et al. 2018 (arXiv 1802.00420), section 3.1; Carlini et al. 2019 (arXiv 1902.06705), section 5; Croce &
Hein 2020 (arXiv 2003.01690), section 5.
"""

from collections.abc import Mapping

from torch import Tensor

from lightning_robust.attacks.apgd import APGD
from lightning_robust.attacks.base import Attack
from lightning_robust.evaluation.black_box_checks import black_box, black_box_stages, probe_black_box
from lightning_robust.evaluation.check import Check
from lightning_robust.evaluation.gradient_checks import STEPS, huge_radius, more_steps, strength, zero_gradients
from lightning_robust.evaluation.net_checks import in_training_mode, inputs, probabilities, random_outputs
from lightning_robust.evaluation.probe import Probe, WithGradient
from lightning_robust.evaluation.samples import Samples
from lightning_robust.runtime.precision import full_precision
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.types import Net


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
    """Check the soundness of an evaluation by probing the net on a few samples, in fp32.

    Args:
        net: maps images to logits; left as it was.
        x: clean images [b c h w] in the threat's box; some dozens are enough.
        y: labels [b].
        attacks: the attacks of the evaluation, by name; the first one's threat is probed.
        samples: all samples, with what `Evaluation` found; by default a short black-box attack is run instead of
            looking up what the evaluation's own one broke.
        standing: marks the samples [b] that withstood the evaluation; by default all.
        rng: random numbers of each sample; by default seeded once by torch's global generator.
        batch_size: how many samples are attacked at a time.

    Returns:
        The checks. Those of the attacks are left out if the net classifies none of the samples correctly, or if images
        lie outside the threat's box.

    Example:
        Logits so large that the softmax is 0 or 1 in fp32 leave the cross-entropy without a gradient:

        >>> import torch
        >>> from lightning_robust.attacks import PGD
        >>> net = lambda x: 1e4 * x.mean((1, 2, 3))[:, None] * torch.tensor([1, -1])
        >>> x, y = torch.rand(8, 1, 4, 4), torch.zeros(8, dtype=torch.int64)
        >>> for check in examine(net, x, y, {"pgd": PGD(steps=10)}):
        ...     if check.status == "fail":
        ...         print(check.name)
        gradients
        more_steps
        huge_radius
    """
    if not len(x):
        return []
    found = [in_training_mode(net)]  # first, before anything here switches the mode
    rng = SampleRNG.from_global_seed(x) if rng is None else rng
    probe = Probe(WithGradient(net), x, y, next(iter(attacks.values())).threat, rng, batch_size)
    with full_precision(x):
        logits = probe.logits
        found += [random_outputs(probe, logits, attacks), probabilities(logits), inputs(x, probe.threat)]
        right = logits.argmax(1) == y
        if found[-1].status == "fail" or not right.any():  # attacks refuse images outside the box
            return found
        found += [check(probe[right]) for check in (zero_gradients, more_steps, huge_radius)]
        left = probe[right if standing is None else right & standing]
        withstood = left.standing(APGD(left.threat, steps=STEPS))
        found.append(strength(int((~withstood).sum()), int(right.sum())))
        tried = black_box_stages(attacks)
        if samples is not None and tried:
            found.append(black_box(samples, tried))
        else:
            found.append(probe_black_box(left[withstood], int(right.sum())))
    return found
