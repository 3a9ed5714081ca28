"""Attacks: from a net, images and a target to adversarial examples."""

from lightning_robust.attacks.base import Attack
from lightning_robust.attacks.pgd import PGD, pgd
from lightning_robust.attacks.squeeze import Collaborative, squeeze

__all__ = ["PGD", "Attack", "Collaborative", "pgd", "squeeze"]
