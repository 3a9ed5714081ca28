"""Which losses an evaluation's attacks ascend: what its gradients are to be judged by."""

from collections.abc import Mapping, Sequence

from lightning_robust.attacks.apgd import APGD
from lightning_robust.attacks.base import Attack
from lightning_robust.attacks.objectives import Loss
from lightning_robust.evaluation.stages import named_stages

ALL: list[Loss] = ["ce", "margin", "dlr"]
"""Those that compare the label's logit with the others, so that they tell of every net."""

SPOKEN: dict[Loss, str] = {
    "ce": "cross-entropy",
    "margin": "margin",
    "dlr": "difference of logits ratio",
    "label_logit": "negative logit of the label",
    "probability_margin": "margin of the probabilities",
}
"""What the losses are called in sentences."""


def losses_used(attacks: Mapping[str, Attack]) -> list[Loss]:
    """List the losses whose gradients the attacks follow, each once; all, where no attack tells.

    Attacks that look for the nearest example compare logits, as the margin does; APGD-T ascends a difference
    of logits ratio.

    Example:
        >>> from lightning_robust.attacks import FAB, PGD, AutoAttack, Square
        >>> losses_used({"pgd": PGD(), "square": Square()}), losses_used({"fab": FAB()})
        (['ce'], ['margin'])
        >>> losses_used({"aa": AutoAttack()}), losses_used({"square": Square()})
        (['ce', 'dlr', 'margin'], ['ce', 'margin', 'dlr'])
    """
    stages = [stage.attack for name, attack in attacks.items() for stage in named_stages(name, attack)]
    used = [loss for attack in stages if attack.gradients for loss in _losses(attack)]
    return list(dict.fromkeys(used)) or ALL


def in_words(losses: Sequence[Loss]) -> str:
    """Name losses in a sentence.

    Example:
        >>> in_words(["ce", "margin"])
        'the cross-entropy and the margin'
    """
    return " and ".join(f"the {SPOKEN[loss]}" for loss in losses)


def _losses(attack: Attack) -> list[Loss]:
    if isinstance(attack, APGD) and attack.targets is not None:
        return ["dlr"]
    if attack.minimizes:
        return ["margin"]
    return [loss for loss in SPOKEN if loss == getattr(attack, "loss", None)] or ALL
