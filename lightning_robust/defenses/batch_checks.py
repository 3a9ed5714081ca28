"""What a batch must be for a defense: images in the box, and labels that are classes of the net."""

from typing import Any

from torch import nn

from lightning_robust.runtime.modes import logits_no_grad
from lightning_robust.threat import Threat
from lightning_robust.types import Batch
from lightning_robust.utils.images import check_images
from lightning_robust.utils.labels import check_labels
from lightning_robust.utils.logits import check_logits


def check_batch(batch: Batch, net: nn.Module, threat: Threat, trainer: Any, first: bool) -> int | None:
    """Check a batch where that costs nothing (on the CPU), and the first one of a stage everywhere, with its logits.

    Args:
        batch: images, labels and dataset positions.
        net: the defense's.
        threat: what the images are attacked within.
        trainer: the trainer, whose data module may have a number of classes.
        first: whether it is the first batch of its stage.

    Returns:
        The number of the net's outputs, of the first batch.

    Raises:
        ValueError: for images outside the box, labels that are no class, or outputs that are not logits.
    """
    if first or batch.x.device.type == "cpu":
        check_images(batch.x, threat.lower, threat.upper)
        check_labels(batch.y)
    if not first:
        return None
    classes = getattr(getattr(trainer, "datamodule", None), "num_classes", None)
    logits = logits_no_grad(net, batch.x)
    check_logits(logits, batch.y, classes)
    return logits.shape[1]
