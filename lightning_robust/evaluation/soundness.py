"""Whether a robust accuracy can be believed: signs that an attack failed for reasons other than robustness.

Papers: Athalye et al. 2018 (arXiv 1802.00420), section 3.1; Carlini et al. 2019 (arXiv 1902.06705), section 5; Croce &
Hein 2020 (arXiv 2003.01690), section 5.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_robust.attacks.base import Attack, craft
from lightning_robust.attacks.pgd import PGD
from lightning_robust.attacks.square import Square
from lightning_robust.draws import Draws
from lightning_robust.evaluation.evaluate import stages
from lightning_robust.losses import cross_entropy
from lightning_robust.modes import full_precision, input_gradient, quiet_logits
from lightning_robust.threat import Threat
from lightning_robust.types import Net

STEPS, QUERIES = 50, 300
"""Of the attacks that probe a net."""
TOLERATED = 0.002
"""Share of the samples that a black-box attack may break in addition (as fra31/auto-attack@a392200)."""


class Check(NamedTuple):
    """What one check found: "pass", "warn" or "fail", and why."""

    name: str
    status: Literal["pass", "warn", "fail"]
    sentence: str


def examine(
    net: Net,
    x: Tensor,
    y: Tensor,
    attacks: Mapping[str, Attack],
    columns: Mapping[str, Tensor] | None = None,
    standing: Tensor | None = None,
    draws: Draws | None = None,
) -> list[Check]:
    """Probe a net on a few samples, in fp32.

    Args:
        net: images to logits.
        x: clean images [b c h w], some dozens.
        y: labels [b].
        attacks: of the evaluation, by name; the first one's threat is probed.
        columns: what `Evaluation` found, of all samples.
        standing: [b] which of these samples withstood the evaluation.
        draws: source of random numbers.
    """
    draws = Draws.from_global_seed(x) if draws is None else draws
    found = [in_training_mode(net)]  # before anything here switches it
    with full_precision(x):
        logits = quiet_logits(net, x)
        right = logits.argmax(1) == y
        found += [random_outputs(net, x, logits, attacks), probabilities(logits)]
        if not right.any():
            return found
        threat = next(iter(attacks.values())).threat
        found += [inputs(x, threat), zero_gradients(net, x[right], y[right])]
        found += [more_steps(net, x[right], y[right], threat, draws[right])]
        found += [huge_radius(net, x[right], y[right], threat, draws[right])]
        tried = None if columns is None else _black_box_stages(attacks)
        if columns is not None and tried:
            found.append(black_box(columns, attacks, tried))
        else:
            left = right if standing is None else right & standing
            found.append(probe_black_box(net, x[left], y[left], threat, draws[left]))
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


def random_outputs(net: Net, x: Tensor, logits: Tensor, attacks: Mapping[str, Attack]) -> Check:
    """Whether two equal forward passes give equal logits."""
    gap = float((quiet_logits(net, x) - logits).abs().max() / logits.abs().max().clamp_min(1e-12))
    if gap <= 1e-4:  # kernels may sum in another order
        return Check("deterministic", "pass", "Two forward passes on the same images gave the same logits.")
    averaged = any(getattr(part, "eot", 1) > 1 for attack in attacks.values() for part in stages("", attack).values())
    return Check(
        "deterministic",
        "warn" if averaged else "fail",
        f"Two forward passes on the same images differ by {gap:.1%} of the largest logit: a random net needs gradients "
        "averaged over passes (AutoAttack's version rand) and its accuracy averaged over runs.",
    )


def probabilities(logits: Tensor) -> Check:
    """Whether the outputs look like probabilities."""
    if logits.shape[1] > 1 and bool((logits >= 0).all()) and bool(((logits.sum(1) - 1).abs() < 1e-3).all()):
        return Check(
            "logits", "fail", "The outputs are non-negative and sum to 1: attacks need logits; remove the softmax."
        )
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


def zero_gradients(net: Net, x: Tensor, y: Tensor) -> Check:
    """Samples on which the cross-entropy has no input gradient at all."""
    with craft(net, x, y, "eval", None) as (x, y, _):
        gradient, _ = input_gradient(lambda z: cross_entropy(net(z), y), x)
    zero = int((gradient == 0).flatten(1).all(1).sum())
    told = f"The cross-entropy's input gradient is exactly zero on {zero} of {len(x)} samples"
    if not zero:
        return Check("gradients", "pass", f"{told}.")
    status: Literal["warn", "fail"] = "warn" if zero < 0.1 * len(x) else "fail"
    return Check("gradients", status, f"{told}: gradient-based attacks on this loss are blind there.")


def more_steps(net: Net, x: Tensor, y: Tensor, threat: Threat, draws: Draws) -> Check:
    """Whether PGD raises the loss, and more steps raise it further."""
    loss = [_loss(net, x, y)]
    for steps in (1, STEPS):
        loss.append(_loss(net, PGD(threat, steps=steps, step_size=2.5 * threat.eps / steps)(net, x, y, draws=draws), y))
    told = f"Mean cross-entropy {loss[0]:.4g} clean, {loss[1]:.4g} after 1 step of PGD, {loss[2]:.4g} after {STEPS}"
    if threat.eps > 0 and loss[2] <= loss[0] * (1 + 1e-6):
        return Check("more_steps", "fail", f"{told}: the attack gains nothing.")
    if loss[2] < 0.95 * loss[1]:
        return Check("more_steps", "fail", f"{told}: more steps make the attack weaker.")
    return Check("more_steps", "pass", f"{told}.")


def huge_radius(net: Net, x: Tensor, y: Tensor, threat: Threat, draws: Draws) -> Check:
    """Whether PGD reaches accuracy 0 when any image is allowed."""
    # any image of the box: of all norms, linf's steps reach them soonest
    attack = PGD(Threat("linf", threat.upper - threat.lower, threat.lower, threat.upper), steps=STEPS)
    left = int((quiet_logits(net, attack(net, x, y, draws=draws)).argmax(1) == y).sum())
    told = f"{left} of {len(x)} samples withstand PGD with {STEPS} steps when any image is allowed"
    if not left:
        return Check("huge_radius", "pass", f"{told}.")
    status: Literal["warn", "fail"] = "warn" if left <= 0.05 * len(x) else "fail"
    return Check("huge_radius", status, f"{told}: every net errs on some image, so the attack misses what is there.")


def black_box(columns: Mapping[str, Tensor], attacks: Mapping[str, Attack], tried: Mapping[str, list[int]]) -> Check:
    """Whether the evaluation's black-box attack broke what its gradient attacks did not."""
    right = columns["clean"] == columns["y"]
    black, white = torch.zeros_like(right), torch.zeros_like(right)
    for name in attacks:
        broken = columns[f"{name}/broken"]
        by_black = torch.isin(broken, torch.tensor(tried[name], dtype=broken.dtype))
        black, white = black | by_black, white | ((broken >= 0) & ~by_black)
    return _black_box_check(int((black & ~white).sum()), len(right))


def probe_black_box(net: Net, x: Tensor, y: Tensor, threat: Threat, draws: Draws) -> Check:
    """Whether a short black-box attack breaks samples that withstood the evaluation."""
    if not len(x):
        return Check("black_box", "pass", "No sample withstood the evaluation: nothing is left for a black-box attack.")
    x_adv = Square(threat, queries=QUERIES)(net, x, y, draws=draws)
    return _black_box_check(int((quiet_logits(net, x_adv).argmax(1) != y).sum()), len(x))


def _black_box_check(beaten: int, n: int) -> Check:
    told = f"Square, which uses no gradients, broke {beaten} of {n} samples that no gradient attack had broken"
    if beaten <= max(1, TOLERATED * n):
        return Check("black_box", "pass", f"{told}.")
    status: Literal["warn", "fail"] = "warn" if beaten <= 0.02 * n else "fail"
    return Check("black_box", status, f"{told}: the gradients mislead, and the accuracy is too high.")


def _black_box_stages(attacks: Mapping[str, Attack]) -> dict[str, list[int]]:
    """Of each attack the numbers of its black-box stages; empty if none has any."""
    found = {
        name: [number for number, part in enumerate(stages(name, attack).values()) if isinstance(part, Square)]
        for name, attack in attacks.items()
    }
    return found if any(found.values()) else {}


def _loss(net: Net, x: Tensor, y: Tensor) -> float:
    return float(cross_entropy(quiet_logits(net, x), y).mean())
