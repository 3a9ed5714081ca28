"""Attacks as plain functions of a net, images and labels: `x_adv = pgd(net, x, y, eps="8/255")`."""

from lightning_robust.attacks.apgd import apgd
from lightning_robust.attacks.autoattack import autoattack
from lightning_robust.attacks.cw import cw
from lightning_robust.attacks.deepfool import deepfool
from lightning_robust.attacks.fab import fab
from lightning_robust.attacks.minimum_norm import minimum_norms
from lightning_robust.attacks.pgd import pgd
from lightning_robust.attacks.square import square
from lightning_robust.attacks.squeeze import squeeze

__all__ = ["apgd", "autoattack", "cw", "deepfool", "fab", "minimum_norms", "pgd", "square", "squeeze"]
