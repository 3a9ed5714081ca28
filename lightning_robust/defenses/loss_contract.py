"""What a method's `loss` must give, checked in the first training step."""

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_robust.types import Losses


def check_losses(method: str, losses: Losses, count: int) -> None:
    """Raise unless the losses are one value per sample, and the adversarial logits are of the same samples.

    Args:
        method: the defense's name, for the message.
        losses: what its `loss` returned.
        count: number of samples in the batch.

    Raises:
        ValueError: naming the part of another shape.

    Example:
        >>> check_losses("Mine", Losses(torch.tensor(0.3), {}, torch.zeros(4, 10)), count=4)
        Traceback (most recent call last):
        ...
        ValueError: Mine.loss must give one value per sample [4], but its total has the shape (): take no mean in it.
    """
    values = {"total": losses.total, **{f"part {name!r}": part for name, part in losses.parts.items()}}
    for name, value in values.items():
        if value.shape != (count,):
            raise ValueError(
                f"{method}.loss must give one value per sample [{count}], but its {name} has the shape "
                f"{tuple(value.shape)}: take no mean in it."
            )
    if losses.logits_adv.dim() != 2 or len(losses.logits_adv) != count:
        raise ValueError(
            f"{method}.loss must give the logits [{count} k] of the adversarial examples, but they have the shape "
            f"{tuple(losses.logits_adv.shape)}."
        )


def check_repeats(method: str, loss_fn: Callable[[], Tensor], device: torch.device) -> None:
    """Raise unless a loss has the same value when it is computed again, as weight perturbations do.

    Args:
        method: the defense's name, for the message.
        loss_fn: returns the loss [b] of each sample; it is called twice from equal random numbers.
        device: the device that the loss is computed on.

    Raises:
        ValueError: for values that differ by more than rounding.
    """
    values = []
    devices, kind = ([], "cuda") if device.type == "cpu" else ([device], device.type)
    for _ in range(2):
        with torch.random.fork_rng(devices, device_type=kind):
            values.append(loss_fn().detach())
    if not torch.allclose(values[0], values[1], rtol=1e-3, atol=1e-5, equal_nan=True):
        raise ValueError(
            f"{method}.loss gives other values when it is called again in the same step, as weight perturbations call "
            "it: craft examples and keep state in `generate`, not in `loss`."
        )
