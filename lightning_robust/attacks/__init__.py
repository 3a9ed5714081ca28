"""Attacks: from a net, images and a target to adversarial examples.

The classes here are configured once and called often. `lightning_robust.attacks.functional` has each attack as a plain
function.
"""

from lightning_robust.attacks.apgd import APGD
from lightning_robust.attacks.autoattack import AutoAttack
from lightning_robust.attacks.base import Attack
from lightning_robust.attacks.collaborative import Collaborative
from lightning_robust.attacks.cw import CW
from lightning_robust.attacks.deepfool import DeepFool
from lightning_robust.attacks.ensemble import Ensemble
from lightning_robust.attacks.fab import FAB
from lightning_robust.attacks.minimum_norm import MinimumNorm
from lightning_robust.attacks.pgd import PGD
from lightning_robust.attacks.square import Square
from lightning_robust.attacks.transfer import Transfer

__all__ = [
    "APGD",
    "CW",
    "FAB",
    "PGD",
    "Attack",
    "AutoAttack",
    "Collaborative",
    "DeepFool",
    "Ensemble",
    "MinimumNorm",
    "Square",
    "Transfer",
]
