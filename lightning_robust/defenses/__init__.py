"""Defenses: each a LightningModule whose training step makes the examples it trains on."""

from lightning_robust.defenses.at import AT
from lightning_robust.defenses.base import Defense
from lightning_robust.defenses.standard import Standard

__all__ = ["AT", "Defense", "Standard"]
