"""Averaged weights, batch-norm momentum and schedules of today's recipes against what their authors' code computed."""

from typing import Any

import pytest
import torch
from lightning import Callback, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_robust.attacks import PGD
from lightning_robust.callbacks import AveragedWeights, BatchNormMomentum
from lightning_robust.defenses import TRADES
from lightning_robust.losses import margin
from lightning_robust.runtime.modes import logits_no_grad
from lightning_robust.threat import Threat
from tests.defenses.test_golden import GOLDEN, Replay
from tests.defenses.test_golden_modern import MODERN, H, recorded_net
from tests.helpers.ddp import quiet_trainer

SIX = MODERN["wang_six_steps"]
N_STEPS = len(SIX["losses"])


class Seen(Callback):
    """Keeps what the record holds, after each step."""

    def __init__(self, average: AveragedWeights) -> None:
        self.average = average
        self.losses: list[Tensor] = []
        self.nets: list[Tensor] = []
        self.averages: list[Tensor] = []
        self.momenta: list[float] = []
        self.buffers: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        net = pl_module.net
        tensors = {} if self.average.average is None else self.average.average.tensors
        parameters = dict(net.named_parameters())
        averages = [tensors.get(f"net.{name}", parameters[name]) for name in SIX["names"]]
        self.losses.append(outputs["loss"].detach())
        self.nets.append(torch.cat([parameters[name].detach().flatten() for name in SIX["names"]]))
        self.averages.append(torch.cat([value.detach().flatten() for value in averages]))
        self.momenta.append(next(m.momentum for m in net.modules() if isinstance(m, nn.BatchNorm2d)))
        self.buffers.append({name: value.clone() for name, value in net.named_buffers()})


def trained(average: AveragedWeights) -> tuple[Seen, TRADES]:
    """Six steps on the same batch, as one epoch of a trainer."""
    x, y = (MODERN.get(name, GOLDEN[name])[: SIX["n"]] for name in "xy")
    starts = [(x.double() + draw.double()).clamp(0, 1) for draw in SIX["draws"]]
    attack = Replay(starts, Threat("linf", H["eps"]), steps=H["steps"], step_size=H["step"])
    rates = {"lr": SIX["lr"][0], "momentum": SIX["momentum"][0]}
    assert set(SIX["lr"]) == {rates["lr"]}
    assert set(SIX["momentum"]) == {rates["momentum"]}
    defense = TRADES(
        recorded_net(0.1),
        beta=H["beta"],
        attack=attack,
        attack_bn="batch",
        ascend="kl",
        label_smoothing=H["label_smoothing"],
        optimizer=lambda params: torch.optim.SGD(
            params, **rates, weight_decay=H["weight_decay"], nesterov=H["nesterov"]
        ),
    )
    seen = Seen(average)
    first, then = SIX["bn_momentum"][:2]
    callbacks = [BatchNormMomentum(then, first), average, seen]
    data = TensorDataset(x.double().repeat(N_STEPS, 1, 1, 1), y.repeat(N_STEPS))
    trainer = quiet_trainer(max_epochs=1, precision="64-true", callbacks=callbacks)
    trainer.fit(defense, DataLoader(data, SIX["n"]))
    return seen, defense


def test_wangs_six_steps() -> None:
    average = AveragedWeights(H["tau"], ramp=True, start=SIX["warmup_steps"] / N_STEPS, batch_norm="alias")
    seen, defense = trained(average)
    close: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-12}
    torch.testing.assert_close(torch.stack(seen.losses), SIX["losses_f64"], **close)
    torch.testing.assert_close(torch.stack(seen.nets), SIX["model_after_f64"], **close)
    torch.testing.assert_close(torch.stack(seen.averages), SIX["ema_f64"], **close)
    assert seen.momenta == SIX["bn_momentum"]
    assert SIX["aliased"]
    for name, value in defense.net.named_buffers():  # the averaged net, which fit leaves
        torch.testing.assert_close(value, SIX["ema_buffers_f64"][name], **close)
    # the record holds these in float32
    for name, buffers in SIX["buffers_each"].items():
        for key, value in buffers.items():
            ours = seen.buffers[int(name.removeprefix("after_")) - 1][key]
            torch.testing.assert_close(ours.to(value), value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("other", [{"ramp": False}, {"start": 0}, {"decay": 0.1}])
def test_another_rule_is_not_theirs(other: dict[str, Any]) -> None:
    given = {"decay": H["tau"], "ramp": True, "start": SIX["warmup_steps"] / N_STEPS, "batch_norm": "alias"}
    seen, _ = trained(AveragedWeights(**{**given, **other}))
    assert not torch.allclose(torch.stack(seen.averages), SIX["ema_f64"], rtol=1e-6)


def test_the_attack_that_selects() -> None:
    """CW-PGD of four times the training's steps, on the net in evaluation mode.

    The authors' CW loss is flat once a sample is misclassified, where their attack then stops; `loss: margin` goes on.
    """
    record = MODERN["wang_selection_attack"]
    x, y = (MODERN.get(name, GOLDEN[name])[: record["n"]] for name in "xy")
    assert record["steps"] == 4 * H["steps"]
    net = recorded_net(0.1)
    attack = PGD(Threat("linf", H["eps"]), steps=record["steps"], step_size=H["step"])
    draw = H["eps"] * record["draws"][0].double()  # from [-1, 1]
    flat: Any = lambda logits, y: margin(logits, y).clamp(max=0)  # noqa: E731
    theirs = attack(net, x.double(), y, objective=flat, start=(x.double() + draw).clamp(0, 1))
    torch.testing.assert_close(theirs, record["x_adv_f64"], rtol=0, atol=1e-10)
    torch.testing.assert_close(logits_no_grad(net, theirs), record["logits_f64"], rtol=1e-10, atol=1e-12)
