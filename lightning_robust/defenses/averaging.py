"""Resuming a run whose checkpoints hold averaged weights."""

from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch.callbacks import WeightAveraging


def check_averaging(checkpoint: Mapping[str, Any], callbacks: Iterable[Any]) -> None:
    """Refuse to go on training with averaged weights in the place of those that were trained.

    Args:
        checkpoint: a Lightning checkpoint; with averaging its `state_dict` holds the averages.
        callbacks: those of the trainer.

    Raises:
        ValueError: for a checkpoint with averages, where no callback puts the trained weights back.
    """
    if "current_model_state" in checkpoint and not any(isinstance(each, WeightAveraging) for each in callbacks):
        raise ValueError(
            "The checkpoint holds averaged weights beside those that were trained, which the callback AveragedWeights "
            "reads: give the trainer the callbacks of its config.yaml, or start from the averages (`net: {class_path: "
            "Pretrained}`)."
        )
