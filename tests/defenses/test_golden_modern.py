"""Training steps of today's recipes against what their authors' code computed, in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_robust.attacks import TrainingAPGD
from lightning_robust.defenses import AT, TRADES, Defense
from lightning_robust.losses import cross_entropy
from lightning_robust.threat import Threat
from lightning_robust.types import Batch, Views
from lightning_robust.utils.labels import smoothed
from tests.defenses.test_golden import FOLDER, GOLDEN, Replay, net

MODERN: dict[str, Any] = torch.load(FOLDER / "modern.pt", weights_only=True)
H = MODERN["wang_hparams"]
STEPS = {"wang_trades": "linf", "wang_trades_l2": "l2", "wang_at": "linf", "wang_trades_cutmix": "linf"}


def recorded_net(momentum: float) -> nn.Module:
    made = net(MODERN.get("model", GOLDEN["model"])).double()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = momentum
    return made


def batch_of(record: dict[str, Any]) -> Batch:
    """The record's images and labels; those of CutMix are soft."""
    if "soft_f64" in record:
        return Batch(record["x_mixed"].double(), record["soft_f64"])
    x, y = (MODERN.get(name, GOLDEN[name])[: record.get("n")] for name in "xy")
    return Batch(x.double(), y)


def made(name: str) -> tuple[Defense, Batch, dict[str, Any]]:
    record, norm = MODERN[name], STEPS[name]
    batch = batch_of(record)
    if norm == "l2":  # the first draw is thrown away
        start = batch.x + 0.001 * record["draws"][1].double()
    else:
        draw = record["draws"][0].double() * (H["eps"] if name == "wang_at" else 1)  # from [-1, 1] there
        start = (batch.x + draw).clamp(0, 1)
    eps = record.get("eps", H["eps"])
    step = H["step"] if norm == "linf" else 2 * eps / H["steps"]
    threat = Threat(norm, eps, box_first=norm == "l2")  # type: ignore[arg-type]
    attack = Replay([start], threat, steps=H["steps"], step_size=step)
    given: dict[str, Any] = {"attack": attack}
    made_net = recorded_net(record["bn_momentum"][0])
    if name == "wang_at":
        return AT(made_net, **given), batch, record
    soft = "soft_f64" in record
    smoothing = 0.0 if soft else H["label_smoothing"]
    given |= {"attack_bn": "batch", "label_smoothing": smoothing, "ascend": "ce" if soft else "kl"}
    return TRADES(made_net, beta=H["beta"], **given), batch, record


@pytest.mark.parametrize("name", STEPS)
def test_examples(name: str) -> None:
    defense, batch, record = made(name)
    buffers = [value.clone() for value in defense.net.buffers()]
    # the authors' projection in l2, `torch.renorm`, adds 1e-7 to the norm
    atol = 1e-7 if STEPS[name] == "l2" else 1e-10
    torch.testing.assert_close(defense.generate(batch).adv, record["x_adv_f64"], rtol=0, atol=atol)
    assert all(torch.equal(a, b) for a, b in zip(buffers, defense.net.buffers(), strict=True))


@pytest.mark.parametrize("name", STEPS)
def test_step(name: str) -> None:
    defense, batch, record = made(name)
    y = batch.y
    if defense.label_smoothing:
        classes = MODERN.get("model", GOLDEN["model"])["fc.weight"].shape[0]
        y = smoothed(y, classes, defense.label_smoothing, batch.x)
    loss = defense.loss(batch._replace(y=y), Views(record["x_adv_f64"])).total.mean()
    entropy: Tensor | float = 0.0
    if "soft_f64" in record:  # the authors' clean loss is KL(soft || f), which leaves the labels' own entropy out
        entropy = cross_entropy(batch.y.log(), batch.y).mean()
    torch.testing.assert_close(loss - entropy, record["loss_f64"], rtol=1e-10, atol=1e-12)
    assert_same_gradients_and_buffers(defense, loss, record)


def assert_same_gradients_and_buffers(defense: Defense, loss: Tensor, record: dict[str, Any]) -> None:
    loss.backward()
    for name, parameter in defense.net.named_parameters():
        torch.testing.assert_close(parameter.grad, record["grads_f64"][name], rtol=1e-9, atol=1e-12, msg=name)
    buffers = dict(defense.net.named_buffers())
    for name, theirs in record["buffers_f64"].items():
        torch.testing.assert_close(buffers[name], theirs, rtol=1e-10, atol=1e-12, msg=name)


@pytest.mark.parametrize("name", [n for n in MODERN if n.startswith("singh_") and "loss_path" in MODERN[n]])
def test_few_steps_of_apgd_on_soft_labels(name: str) -> None:
    record, kind = MODERN[name], name.split("_")[1]
    if kind in ("mixup", "cutmix"):
        targets = MODERN["singh_targets"]
        batch = Batch(targets[f"x_{kind}"].double(), targets[f"soft_{kind}"].double())
    else:
        x, y = (MODERN.get(part, GOLDEN[part])[: len(record["loss_best"])] for part in "xy")
        batch = Batch(x.double(), record["soft"].double() if "soft" in record else y)
    attack = TrainingAPGD(Threat("linf", record["eps"]), steps=record["n_iter"])
    defense = AT(recorded_net(0.1), attack=attack)
    views = defense.generate(batch)
    kept = "x_adv_f64" in record
    theirs = record["x_adv_f64" if kept else "x_adv"].double()
    torch.testing.assert_close(views.adv, theirs, rtol=0, atol=1e-10 if kept else 1e-6)
    with torch.no_grad():
        best = cross_entropy(defense.net.eval()(views.adv), batch.y)
    torch.testing.assert_close(best, record["loss_best_f64"], rtol=1e-10, atol=1e-12)
    defense.net.train()
    loss = defense.loss(batch, views).total.mean()
    torch.testing.assert_close(loss, record["loss_f64"], rtol=1e-10, atol=1e-12)
    assert_same_gradients_and_buffers(defense, loss, record)
