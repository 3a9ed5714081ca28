"""The records of tests/golden/second_ring.pt: nets, batches and replayed starts, in float64."""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_robust.attacks import PGD
from lightning_robust.defenses import Defense
from lightning_robust.threat import Threat
from lightning_robust.types import Batch, Losses
from lightning_robust.utils.labels import smoothed
from tests.defenses.test_golden import FOLDER, net

RING: dict[str, Any] = torch.load(FOLDER / "second_ring.pt", weights_only=True)
COMMON: dict[str, Any] = RING["common"]
H: dict[str, Any] = COMMON["hparams"]


def recorded(state: str) -> nn.Module:
    """The net with the weights `model`, `sharp` or `second`, in double precision."""
    return net(COMMON[state]).double()


def batch() -> Batch:
    """The images and labels of every record."""
    return Batch(COMMON["x"].double(), COMMON["y"])


def of(record: dict[str, Any], key: str) -> Any:
    """The float64 entry of a record where it has one."""
    return record.get(f"{key}_f64", record[key])


def assert_same_gradients_and_buffers(trained: nn.Module, loss: Tensor, record: dict[str, Any]) -> None:
    """Every parameter's gradient of the loss, and the batch norms' statistics, to 1e-9."""
    loss.backward()
    gradients, buffers = of(record, "grads"), of(record, "buffers")
    assert gradients
    assert buffers
    for name, parameter in trained.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].double(), rtol=1e-9, atol=1e-11, msg=name)
    for name, buffer in trained.named_buffers():
        torch.testing.assert_close(buffer, buffers[name].to(buffer.dtype), rtol=1e-9, atol=1e-11, msg=name)


def replayed(record: dict[str, Any], kind: type[PGD] = PGD, **settings: Any) -> Any:
    """The record's attack, starting where it does; of another kind where one is given."""
    h = record["hparams"]
    start = of(record, "start").double()

    class Replayed(kind):  # type: ignore[misc, valid-type]
        def __call__(self, net: Any, x: Tensor, target: Tensor, **given: Any) -> Tensor:
            return super().__call__(net, x, target, **{**given, "start": start})

    return Replayed(Threat("linf", h["eps"]), **{"steps": h["steps"], "step_size": h["step"], **settings})


def assert_same_step(
    defense: Defense, record: dict[str, Any], trained: nn.Module | None = None, smoothing: float = 0.0
) -> Losses:
    """The images, the loss (of smoothed labels), every gradient and the batch norms' statistics of a step, to 1e-9.

    `trained` is the net with the record's names, if it is not the defense's own.
    """
    views = defense.generate(batch())
    torch.testing.assert_close(views.adv, of(record, "x_adv").double(), rtol=0, atol=1e-9)
    learnt = batch()
    if smoothing:
        learnt = learnt._replace(y=smoothed(learnt.y, COMMON["arch"]["classes"], smoothing, learnt.x))
    losses = defense.loss(learnt, views)
    torch.testing.assert_close(losses.total.mean(), of(record, "loss").double(), rtol=1e-9, atol=0)
    assert_same_gradients_and_buffers(trained or defense.net, losses.total.mean(), record)
    return losses
