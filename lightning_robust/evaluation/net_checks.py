"""Checks of a net and its input: signs that it was not evaluated as it is meant to be used."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_robust.attacks.base import Attack
from lightning_robust.evaluation.check import Check
from lightning_robust.evaluation.probe import Probe
from lightning_robust.evaluation.random_nets import CHANGE, change
from lightning_robust.evaluation.stages import named_stages
from lightning_robust.runtime.modes import logits_no_grad, samples_are_independent
from lightning_robust.runtime.modules_of import modules_of, names_of
from lightning_robust.threat import Threat
from lightning_robust.types import Net


def in_training_mode(net: Net) -> Check:
    """Check whether modules were left in training mode."""
    modules = [module for module in modules_of(net) if module.training and not isinstance(module, Metric)]
    left = names_of(net, modules)
    if left:
        return Check(
            "evaluation_mode",
            "warn",
            f"{len(left)} modules were in training mode ({left[0]} first); they were evaluated in evaluation mode.",
        )
    return Check("evaluation_mode", "pass", "Every module was in evaluation mode.")


def random_outputs(probe: Probe, logits: Tensor, attacks: Mapping[str, Attack]) -> Check:
    """Check whether two equal forward passes give equal logits.

    Args:
        probe: the net and the samples.
        logits: the logits of a first pass [b k].
        attacks: the attacks of the evaluation; with one that averages gradients over passes, randomness is a warning.
    """
    gap = float(change(logits, probe.logits).max())
    if gap <= CHANGE:
        return Check("deterministic", "pass", "Two forward passes on the same images gave the same logits.")
    averaged = any(
        getattr(stage.attack, "eot", 1) > 1 for attack in attacks.values() for stage in named_stages("", attack)
    )
    return Check(
        "deterministic",
        "warn" if averaged else "fail",
        f"Two forward passes on the same images differ by {gap:.1%} of the largest logit: a random net needs gradients "
        "averaged over passes (AutoAttack's version rand); its accuracy is a mean over passes.",
    )


def independence(net: Net, probe: Probe, logits: Tensor, random: bool) -> Check:
    """Check whether a sample's logits depend on the other samples of its batch.

    Args:
        net: the net as it is used.
        probe: the net and the samples.
        logits: the logits [b k], from batches of the probe's size.
        random: whether the logits differ from pass to pass; then they tell nothing here.
    """
    size = min(probe.batch_size, len(probe))
    other = size // 2 if size > 3 else 2 * size
    parts = torch.tensor_split(probe.x, math.ceil(len(probe) / other))  # none is much smaller than the others
    changed = torch.cat([logits_no_grad(probe.net, part) for part in parts])
    share = float((change(logits, changed) > CHANGE).float().mean())
    share = 0.0 if random else share
    if share or not samples_are_independent(net):
        why = f"those of {share:.0%} did" if share else "its batch norms have no running statistics"
        told = f"A sample's logits change with the batch it is in ({why}): so does the accuracy with the batch size."
        return Check("independent", "warn", told)
    return Check("independent", "pass", "A sample's logits do not depend on the other samples of its batch.")


def probabilities(logits: Tensor) -> Check:
    """Check whether the outputs [b k] look like probabilities."""
    if logits.shape[1] > 1 and bool((logits >= 0).all()) and bool((logits <= 1).all()):
        if bool(((logits.sum(1) - 1).abs() < 1e-3).all()):
            told = "The outputs are non-negative and sum to 1: attacks need logits; remove the softmax."
            return Check("logits", "fail", told)
        return Check("logits", "warn", "The outputs all lie in [0, 1]: attacks need logits; is there a sigmoid?")
    return Check("logits", "pass", "The outputs do not look like probabilities.")


def inputs(x: Tensor, threat: Threat) -> Check:
    """Check whether the images [b ...] use the threat's box."""
    low, high = (float(v) for v in torch.aminmax(x))
    told = f"The images range over [{low:.4g}, {high:.4g}] in the box [{threat.lower:g}, {threat.upper:g}]"
    if low < threat.lower - 1e-6 or high > threat.upper + 1e-6:
        return Check("inputs", "fail", f"{told}: normalisation belongs in the net.")
    width = threat.upper - threat.lower
    if width < math.inf and high - low < 0.1 * width:
        return Check("inputs", "warn", f"{told}: were they divided twice?")
    return Check("inputs", "pass", f"{told}.")
