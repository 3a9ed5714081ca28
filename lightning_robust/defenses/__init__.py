"""Defenses: LightningModules whose training step crafts the examples that it trains on."""

from lightning_robust.defenses.at import AT
from lightning_robust.defenses.awp import AWP
from lightning_robust.defenses.base import Defense
from lightning_robust.defenses.emr import EMR
from lightning_robust.defenses.free_at import FreeAT
from lightning_robust.defenses.iaat import IAAT
from lightning_robust.defenses.mail import MAIL
from lightning_robust.defenses.mart import MART
from lightning_robust.defenses.st import ST
from lightning_robust.defenses.standard import Standard
from lightning_robust.defenses.trades import TRADES

__all__ = ["AT", "AWP", "EMR", "IAAT", "MAIL", "MART", "ST", "TRADES", "Defense", "FreeAT", "Standard"]
