"""Defenses: LightningModules whose training step crafts the examples that it trains on."""

from lightning_robust.defenses.adaad import AdaAD
from lightning_robust.defenses.alp import ALP
from lightning_robust.defenses.ard import ARD
from lightning_robust.defenses.at import AT
from lightning_robust.defenses.avg import AVG
from lightning_robust.defenses.awp import AWP
from lightning_robust.defenses.base import Defense
from lightning_robust.defenses.cfa import CFA
from lightning_robust.defenses.cfa_at import CFAAT
from lightning_robust.defenses.distillation import Distillation
from lightning_robust.defenses.eat import EAT
from lightning_robust.defenses.emr import EMR
from lightning_robust.defenses.free_at import FreeAT
from lightning_robust.defenses.gairat import GAIRAT
from lightning_robust.defenses.hat import HAT
from lightning_robust.defenses.iaat import IAAT
from lightning_robust.defenses.iad import IAD
from lightning_robust.defenses.iat import IAT
from lightning_robust.defenses.ikl import IKL
from lightning_robust.defenses.lbgat import LBGAT
from lightning_robust.defenses.mail import MAIL
from lightning_robust.defenses.margin_defense import MarginDefense
from lightning_robust.defenses.mart import MART
from lightning_robust.defenses.mma import MMA
from lightning_robust.defenses.mmc import MMC
from lightning_robust.defenses.rslad import RSLAD
from lightning_robust.defenses.score import SCORE
from lightning_robust.defenses.score_at import SCOREAT
from lightning_robust.defenses.st import ST
from lightning_robust.defenses.standard import Standard
from lightning_robust.defenses.trades import TRADES

__all__ = [
    "ALP",
    "ARD",
    "AT",
    "AVG",
    "AWP",
    "CFA",
    "CFAAT",
    "EAT",
    "EMR",
    "GAIRAT",
    "HAT",
    "IAAT",
    "IAD",
    "IAT",
    "IKL",
    "LBGAT",
    "MAIL",
    "MART",
    "MMA",
    "MMC",
    "RSLAD",
    "SCORE",
    "SCOREAT",
    "ST",
    "TRADES",
    "AdaAD",
    "Defense",
    "Distillation",
    "FreeAT",
    "MarginDefense",
    "Standard",
]
