"""Attacks: from a net, images and a target to adversarial examples."""

from lightning_robust.attacks.apgd import APGD, apgd
from lightning_robust.attacks.autoattack import AutoAttack, autoattack
from lightning_robust.attacks.base import Attack
from lightning_robust.attacks.cw import CW, cw
from lightning_robust.attacks.deepfool import DeepFool, deepfool
from lightning_robust.attacks.ensemble import Ensemble
from lightning_robust.attacks.fab import FAB, fab
from lightning_robust.attacks.minimum_norm import MinimumNorm, minimum_norms
from lightning_robust.attacks.pgd import PGD, pgd
from lightning_robust.attacks.square import Square, square
from lightning_robust.attacks.squeeze import Collaborative, squeeze

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
    "apgd",
    "autoattack",
    "cw",
    "deepfool",
    "fab",
    "minimum_norms",
    "pgd",
    "square",
    "squeeze",
]
