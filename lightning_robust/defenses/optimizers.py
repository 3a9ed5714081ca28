"""A defense's optimizer and its learning-rate schedule, as Lightning takes them."""

from collections.abc import Callable, Iterable
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR, ReduceLROnPlateau

from lightning_robust.parts.follows_run import run_length
from lightning_robust.parts.lr_schedules import WarmupCosineLR
from lightning_robust.parts.parameter_groups import RATE


def set_rates(optimizer: Optimizer, factor: float, lr: float | None) -> None:
    """Multiply an optimizer's learning rates by a factor, or set them to one that was found.

    Args:
        optimizer: the optimizer, before its first step.
        factor: the factor.
        lr: the rate to set instead, times the factor of each group; None for none.
    """
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * factor if lr is None else lr * group.get(RATE, 1.0)


def restore_factors(optimizers: Iterable[Optimizer], lr: float | None) -> None:
    """Give groups the factors of their rates again, after `LearningRateFinder` has given all groups the same rate.

    Args:
        optimizers: the trainer's.
        lr: the rate that was found; None for none.
    """
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        if lr is not None and group["lr"] == lr:
            group["lr"] = lr * group.get(RATE, 1.0)


def with_schedule(
    optimizer: Optimizer,
    scheduler: Callable[[Optimizer], Any],
    interval: str,
    length: Callable[[], int | None],
    scaled: bool,
    lr: float | None,
) -> dict[str, Any]:
    """Return an optimizer with a schedule for Lightning's `configure_optimizers`.

    Args:
        optimizer: the optimizer, whose rates are set.
        scheduler: from it to the schedule.
        interval: whether the schedule counts "epoch"s or "step"s.
        length: gives the run's length, which a schedule takes that has none.
        scaled: whether the optimizer's rates were multiplied by a factor.
        lr: the rate that Lightning's finder has set; None for none.

    Raises:
        ValueError: for a schedule that sets rates of its own, where others were asked for.
    """
    with run_length(length):
        schedule = scheduler(optimizer)
    kind = type(schedule).__name__
    layered = len({group.get(RATE, 1.0) for group in optimizer.param_groups}) > 1
    if layered and getattr(schedule, "eta_min", None) and not isinstance(schedule, WarmupCosineLR):
        raise ValueError(
            f"{kind}'s eta_min is the same for all layers, which layer_decay gives smaller rates: take WarmupCosineLR, "
            "or leave eta_min out."
        )
    if isinstance(schedule, (OneCycleLR, CyclicLR)):
        if scaled:
            raise ValueError(f"{kind} sets rates of its own, which base_batch_size does not scale: leave one out.")
        if layered:
            raise ValueError(f"{kind} sets rates of its own, the same for all layers: leave layer_decay out.")
        if lr is not None:
            raise ValueError(f"{kind} sets rates of its own: give it the rate that was found, {lr:g}.")
    config = {"scheduler": schedule, "interval": interval}
    if isinstance(schedule, ReduceLROnPlateau):
        config["monitor"] = getattr(schedule, "monitor", "val/worst_acc")
    return {"optimizer": optimizer, "lr_scheduler": config}
