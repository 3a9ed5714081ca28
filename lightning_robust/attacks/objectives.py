"""The losses that attacks ascend, by the names under which a configuration chooses them."""

from typing import Literal, TypeAlias

from lightning_robust.losses import cross_entropy, dlr, margin
from lightning_robust.types import Objective

Loss: TypeAlias = Literal["ce", "margin", "dlr"]
"""Cross-entropy, the margin of Carlini and Wagner, or the difference of logits ratio."""

LOSSES: dict[str, Objective] = {"ce": cross_entropy, "margin": margin, "dlr": dlr}
