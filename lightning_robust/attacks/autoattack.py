"""AutoAttack: the parameter-free ensemble of attacks with which robust accuracies are compared."""

from typing import Any, Literal, TypeAlias, get_args

from torch import Tensor

from lightning_robust.attacks.apgd import APGD
from lightning_robust.attacks.base import Attack
from lightning_robust.attacks.ensemble import Ensemble
from lightning_robust.attacks.fab import FAB
from lightning_robust.attacks.square import Square
from lightning_robust.threat import Norm, Threat
from lightning_robust.types import Net

Version: TypeAlias = Literal["standard", "fast", "rapid", "rand", "plus"]


class AutoAttack(Ensemble):
    """Runs APGD-CE, APGD-T, FAB-T and Square in turn, each on the samples that the ones before it did not break.

    There are five versions: "standard", with which accuracies are published; "fast", the same four attacks with fewer
    targets, those whose boundary is nearest (MALT), and a tenth of Square's queries; "rapid", APGD-CE and APGD-T alone,
    which break almost all that the four do; "rand", for nets that are random, APGD-CE and APGD-DLR with gradients
    averaged over 20 passes; and "plus", six attacks with more restarts.

    Args:
        threat: the perturbations allowed: linf, l2 or l1.
        version: "standard", "fast", "rapid", "rand" or "plus".
        batch_size: see `Ensemble`.

    Raises:
        ValueError: for an unknown version.

    Example:
        >>> list(AutoAttack(Threat("linf", "8/255")).stages)
        ['apgd-ce', 'apgd-t', 'fab-t', 'square']

    Paper: Croce & Hein 2020 (arXiv 2003.01690); for l1 Croce & Hein 2021 (arXiv 2103.01208); for the targets of "fast"
        Melamed et al. 2024 (arXiv 2407.02240).
    Reference: fra31/auto-attack@a392200.
    Deviates: random numbers belong to the sample, not to the batch; see `APGD`, `FAB` and `Square`. "rand" attacks a
        sample until all 20 passes err, the reference until one does: on 64 digits with noise, dropout and random sizes
        (linf 0.12) its examples have a mean accuracy of 0.28, 0.28 and 0.22 over 50 new passes, the reference's 0.44,
        0.41 and 0.33, at about the same cost.
    """

    norms = ("linf", "l2", "l1")

    def __init__(
        self, threat: Threat | None = None, version: Version = "standard", batch_size: int | None = None
    ) -> None:
        if version not in get_args(Version):
            raise ValueError(f"Unknown version {version!r}: choose one of {', '.join(get_args(Version))}.")
        super().__init__(_attacks(threat or self.default_threat, version), batch_size)
        self._threat_given = threat is not None
        self.version = version

    def with_threat(self, threat: Threat) -> "AutoAttack":
        """Return the same version under another threat, whose norm decides on restarts and targets."""
        return AutoAttack(threat, self.version, self.batch_size)


def _attacks(threat: Threat, version: Version) -> dict[str, Attack]:
    sparse = threat.norm == "l1"
    ce = APGD(threat, restarts=5 if sparse else 1)
    targeted = APGD(threat, targets=5 if sparse else 9)
    if version == "rand":
        return {"apgd-ce": APGD(threat, eot=20), "apgd-dlr": APGD(threat, loss="dlr", eot=20)}
    if version == "rapid":
        return {"apgd-ce": ce, "apgd-t": targeted}
    if version == "fast":
        near = APGD(threat, targets=4, order="distance")
        return {"apgd-ce": ce, "apgd-t": near, "fab-t": FAB(threat, targets=3), "square": Square(threat, queries=500)}
    if version == "standard":
        return {"apgd-ce": ce, "apgd-t": targeted, "fab-t": FAB(threat, targets=9), "square": Square(threat)}
    return {
        "apgd-ce": APGD(threat, restarts=5),
        "apgd-dlr": APGD(threat, loss="dlr", restarts=5),
        "fab": FAB(threat, restarts=5),
        "square": Square(threat),
        "apgd-t": APGD(threat, targets=9),
        "fab-t": FAB(threat, targets=9),
    }


def autoattack(
    net: Net, x: Tensor, y: Tensor, norm: Norm = "linf", eps: float | str = "8/255", **settings: Any
) -> Tensor:
    """Run AutoAttack as a plain function.

    Args:
        net: images [b c h w] to logits [b k], in any mode; it is left exactly as it was.
        x: clean images [b c h w] in [0, 1].
        y: labels [b].
        norm: "linf", "l2" or "l1".
        eps: radius in pixels; a fraction such as "8/255" is read as such.
        settings: those of `AutoAttack`.

    Returns:
        Examples [b c h w].

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> x, y = torch.rand(2, 3, 4, 4), torch.tensor([0, 2])
        >>> x_adv = autoattack(net, x, y, eps="8/255", version="rapid")
        >>> bool((x_adv - x).abs().max() <= 8 / 255 + 1e-6)
        True
    """
    return AutoAttack(Threat(norm, eps), **settings)(net, x, y)
