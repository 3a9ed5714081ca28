"""The losses that attacks ascend, by the names under which a configuration chooses them."""

from typing import Literal, TypeAlias

from lightning_robust.losses import cross_entropy, dlr, label_logit, margin
from lightning_robust.types import Objective

Loss: TypeAlias = Literal["ce", "margin", "dlr", "label_logit"]
"""Cross-entropy, the margin of Carlini and Wagner, the difference of logits ratio, or minus the label's logit."""

LOSSES: dict[str, Objective] = {
    "ce": cross_entropy,
    "margin": margin,
    "dlr": dlr,
    "label_logit": label_logit,
}
