"""Attacks: from a net, images and a target to adversarial examples."""

from lightning_robust.attacks.base import Attack
from lightning_robust.attacks.pgd import PGD, pgd

__all__ = ["PGD", "Attack", "pgd"]
