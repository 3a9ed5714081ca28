"""The learning rate in proportion to the samples of a step (Goyal et al. 2017, arXiv 1706.02677)."""

from typing import Any

from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_info

from lightning_robust.defenses.accumulation import accumulates
from lightning_robust.utils.private_apis import SCHEDULE_PARTS, SCHEDULE_RATES

RATES = ("lr", "initial_lr", "max_lr", "min_lr")
"""The rates in an optimizer's parameter groups."""


def rate_factor(trainer: Trainer, base_batch_size: int) -> float:
    """Return the number of samples in an optimizer step as a multiple of `base_batch_size`.

    Args:
        trainer: the trainer, whose data module has a batch_size.
        base_batch_size: samples a step that the learning rate is meant for.

    Raises:
        ValueError: where the samples of a step are not known, or change during the run.
    """
    each = getattr(getattr(trainer, "datamodule", None), "batch_size", None)
    if not each:
        raise ValueError("base_batch_size needs a data module with a batch_size: leave it out and scale lr yourself.")
    if accumulates(trainer) != trainer.accumulate_grad_batches:
        raise ValueError(
            "base_batch_size scales the rate once, but GradientAccumulationScheduler changes the samples of a step "
            "during the run: leave one of them out."
        )
    samples: int = each * trainer.world_size * trainer.accumulate_grad_batches
    return samples / base_batch_size


def rescale_checkpoint(checkpoint: dict[str, Any], factor: float) -> None:
    """Bring the learning rates in a checkpoint to a run whose steps have another number of samples.

    Args:
        checkpoint: a Lightning checkpoint, changed in place before Lightning restores optimizers and schedules from it.
            Its entry "lr_factor" holds the factor that its rates have; without one it stays as it is.
        factor: the factor of this run's rates.
    """
    ratio = factor / checkpoint.get("lr_factor", factor)
    if ratio == 1.0:
        return
    for optimizer in checkpoint.get("optimizer_states", ()):
        for group in optimizer["param_groups"]:
            group.update({name: group[name] * ratio for name in RATES if name in group})
    for schedule in checkpoint.get("lr_schedulers", ()):
        _rescale(schedule, ratio)
    rank_zero_info(
        f"A step now has {ratio:g} times as many samples as before, so the learning rates are multiplied by {ratio:g}."
    )


def _rescale(schedule: dict[str, Any], ratio: float) -> None:
    """Rescale the rates in a schedule's state, and in those of the schedules that it consists of."""
    for name in ("base_lrs", SCHEDULE_RATES):
        if name in schedule:
            schedule[name] = [rate * ratio for rate in schedule[name]]
    for part in schedule.get(SCHEDULE_PARTS, ()):
        _rescale(part, ratio)
