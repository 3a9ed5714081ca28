"""The losses that attacks ascend, by the names under which a configuration chooses them."""

from typing import Literal, TypeAlias

from lightning_robust.losses import cross_entropy, dlr, label_logit, margin, probability_margin
from lightning_robust.types import Objective

Loss: TypeAlias = Literal["ce", "margin", "dlr", "label_logit", "probability_margin"]
"""Cross-entropy, the margin of Carlini and Wagner, the difference of logits ratio, minus the label's logit, or the
margin of the probabilities."""

LOSSES: dict[str, Objective] = {
    "ce": cross_entropy,
    "margin": margin,
    "dlr": dlr,
    "label_logit": label_logit,
    "probability_margin": probability_margin,
}
