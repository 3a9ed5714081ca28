"""N-FGSM, fast AT and the ImageNet recipes with ramps against what their authors' code computed, in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_robust.attacks import NFGSM, PGD
from lightning_robust.callbacks import AttackStrength
from lightning_robust.defenses import AT, TRADES, Defense
from lightning_robust.losses import cross_entropy, kl_divergence
from lightning_robust.models import Normalize
from lightning_robust.runtime.modes import logits_no_grad
from lightning_robust.schedules import Linear
from lightning_robust.threat import Threat
from lightning_robust.types import Batch, Views
from tests.defenses.test_golden import GOLDEN
from tests.defenses.test_golden_modern import MODERN, assert_same_gradients_and_buffers, recorded_net
from tests.helpers.ddp import quiet_trainer
from tests.helpers.few import Few, plain_net


def named(*prefixes: str) -> list[str]:
    """The records of whole steps whose names begin so."""
    return [name for name in MODERN if name.startswith(prefixes) and "loss_f64" in MODERN[name]]


def images(record: dict[str, Any]) -> tuple[Tensor, Tensor]:
    x, y = (MODERN.get(part, GOLDEN[part])[: record["n"]] for part in "xy")
    return x.double(), y


def assert_same_examples(ours: Tensor, record: dict[str, Any]) -> None:
    kept = "x_adv_f64" in record
    theirs = record["x_adv_f64" if kept else "x_adv"].double()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10 if kept else 1e-6)


def assert_same_step(defense: Defense, batch: Batch, views: Views, record: dict[str, Any]) -> None:
    defense.net.train()
    loss = defense.loss(batch, views).total.mean()
    torch.testing.assert_close(loss, record["loss_f64"], rtol=1e-10, atol=1e-12)
    if "grads_f64" in record:
        assert_same_gradients_and_buffers(defense, loss, record)


def single_step(record: dict[str, Any]) -> PGD:
    """N-FGSM where the record does not clip; else PGD, whose ball has the radius that it clips to."""
    clip = record.get("clip", 1)
    if clip < 0:
        return NFGSM(Threat("linf", record["eps"]), noise=record["k"], step_size=record["alpha"])
    return PGD(Threat("linf", clip * record["eps"]), steps=1, step_size=record["alpha"])


@pytest.mark.parametrize("name", [*named("nfgsm", "rs_fgsm"), *(n for n in named("fast_at") if "alpha" in MODERN[n])])
def test_one_step_from_noise(name: str) -> None:
    record = MODERN[name]
    x, y = images(record)
    noise = torch.stack(record["draws"], 1).double() if record.get("draws") else torch.zeros_like(x)  # one a channel
    defense = AT(recorded_net(0.1), attack=single_step(record), attack_bn="train")
    batch = Batch(x, y)
    views = Views(defense.craft(batch, start=(x + noise).clamp(0, 1)))
    assert_same_examples(views.adv, record)
    assert_same_step(defense, batch, views, record)


class Watched(AT):
    """Keeps the radius of each step, and how far its images moved."""

    def loss(self, batch: Batch, views: Views) -> Any:
        moved = float((views.adv - batch.x).abs().max())
        self.seen = [*getattr(self, "seen", []), (self.attack.threat.eps, moved)]
        return super().loss(batch, views)


@pytest.mark.parametrize("name", [n for n in MODERN if n.startswith("nfgsm_svhn")])
def test_the_ramp_of_nfgsm_on_svhn_is_that_of_each_batch(name: str) -> None:
    record = MODERN[name]
    ramps, batches = record["ramps"], record["batches"]
    full = record["eps"] / record["ramp"]
    attack = NFGSM(Threat("linf", full), noise=record["k"], step_size=record["alpha"] / record["ramp"])
    defense = Watched(plain_net(), attack=attack)
    epochs = round(1 / (ramps[1] * batches))
    ramp = AttackStrength(eps=Linear(0, full, epochs), interval="step")
    trainer = quiet_trainer(max_epochs=-(-len(ramps) // batches), limit_val_batches=0, callbacks=[ramp])
    trainer.fit(defense, Few(n=4 * batches, batch_size=4))
    radii = [eps for eps, _ in defense.seen[: len(ramps)]]
    assert radii == pytest.approx([full * share for share in ramps], rel=1e-12, abs=0)
    for (_, moved), (_, theirs) in zip(defense.seen, record["noise_and_move"], strict=False):
        assert moved == pytest.approx(theirs, rel=0.25)  # noise and step in full, on some pixel or other
    assert defense.attack is attack


def normalised(record: dict[str, Any], raw: bool = False) -> nn.Module:
    """The recorded net, behind the normalisation that ARES puts there."""
    out = nn.Sequential()
    if not raw:
        first = Normalize(record["mean"], record["std"])
        first.mean, first.std = (torch.tensor(record[k], dtype=torch.float64).view(-1, 1, 1) for k in ("mean", "std"))
        out.add_module("normalize", first)
    for key, child in recorded_net(0.1).named_children():
        out.add_module(key, child)
    return out


def ares(name: str) -> tuple[Defense, Batch, list[Tensor], dict[str, Any]]:
    """The defense, its batch, and the points that the attack visits from the recorded start."""
    record = MODERN[name]
    source = record if "draws" in record else MODERN["ares_soft"]
    x, y = images(source)
    batch = Batch(source["x_mixed"].double(), source["soft"].double()) if "soft" in source else Batch(x, y)
    threat = Threat("linf", record["eps"])
    attack = PGD(threat, steps=record["iterations"]).with_step_size(record["step"])
    defense = AT(normalised(record), attack=attack)
    start = threat.project(batch.x + source["draws"][-1].double(), batch.x)
    points = [start]
    for steps in range(1, record["iterations"] + 1):
        defense.attack = attack.with_steps(steps)
        points.append(defense.craft(batch, start=start))
    return defense, batch, points, record


@pytest.mark.parametrize("name", named("ares"))
def test_ares_takes_our_examples_up_to_its_choice_among_them(name: str) -> None:
    defense, batch, points, record = ares(name)
    rows = torch.arange(len(batch.x))
    chosen = torch.stack(points)[torch.tensor(record["chosen"]), rows]
    assert_same_examples(chosen, record)
    if "last" in record:
        torch.testing.assert_close(points[-1], record["last"].double(), rtol=0, atol=1e-6)
    nets = [defense.net.eval()] * record["iterations"] + [normalised(record, raw=True).eval()]
    with torch.no_grad():  # the authors' code judges the last candidate without normalising it
        judged = torch.stack([cross_entropy(net(x), batch.y) for net, x in zip(nets, points, strict=True)])
    if record["judged_losses_f64"].dim() == 1:
        judged = judged.mean(1)
    torch.testing.assert_close(judged, record["judged_losses_f64"], rtol=1e-10, atol=1e-12)
    assert_same_step(defense, batch, Views(chosen), record)


@pytest.mark.parametrize("name", ["ares_soft", "ares_hard"])
def test_what_the_last_point_changes_of_areses_loss(name: str) -> None:
    """As PGD's docstring says: the last point, where ours ends, is the stronger one, and the loss moves little."""
    defense, batch, points, record = ares(name)
    ours = defense.loss(batch, Views(points[-1])).total.mean().detach()
    chosen = torch.stack(points)[torch.tensor(record["chosen"]), torch.arange(len(batch.x))]
    defense.net.eval()
    with torch.no_grad():
        last, theirs = (cross_entropy(defense.net(x), batch.y).mean() for x in (points[-1], chosen))
    assert 0 < last / theirs - 1 < 0.05
    assert abs(ours / record["loss_f64"] - 1) < 0.01


@pytest.mark.parametrize("name", named("ares"))
def test_the_step_of_ares_ramps_over_five_epochs(name: str) -> None:
    record = MODERN[name]
    assert Linear(0, record["full_step"], epochs=5)(record["epoch"]) == pytest.approx(record["step"], rel=1e-12, abs=0)


@pytest.mark.parametrize(
    "name", [n for n in MODERN.get("debenedetti_eps", ()) if n.startswith("linear") and n.endswith("zero0")]
)
def test_the_radius_of_debenedetti_ramps(name: str) -> None:
    ramp = MODERN["debenedetti_eps"][name]
    ours = [Linear(0, ramp["final"], ramp["period"])(epoch) for epoch in range(len(ramp["eps"]))]
    assert ours == pytest.approx(ramp["eps"], rel=1e-12, abs=0)


@pytest.mark.parametrize("name", named("debenedetti"))
def test_debenedetti(name: str) -> None:
    record = MODERN[name]
    x, y = images(record)
    batch = Batch(x, record["soft"].double() if "soft" in record else y)
    threat = Threat(record["norm"], record["eps_now"])
    start = threat.project(x + record["draws"][0].double() + 1e-5, x)  # the authors add 1e-5
    given: dict[str, Any] = {"attack": PGD(threat, steps=record["steps"], step_size=record["step"])}
    given |= {"attack_bn": "eval" if record["eval_mode"] else "train"}
    trades = record["kind"] == "trades"
    net = recorded_net(0.1)
    defense = TRADES(net, beta=record["beta"], **given) if trades else AT(net, **given)
    if trades:
        clean = logits_no_grad(net, x, defense.attack_bn)
        views = Views(defense.craft(batch, clean, objective=kl_divergence, start=start))
    else:  # the attack sees the most probable class alone
        hard = batch.y.argmax(1) if batch.y.is_floating_point() else batch.y
        views = Views(defense.craft(batch, hard, start=start))
    assert_same_examples(views.adv, record)
    if not trades:
        net.train()(x)  # a clean pass in training mode, of which the running statistics alone notice
    if record["label_smoothing"]:
        k = net.fc.out_features  # type: ignore[union-attr]
        batch = batch._replace(y=smooth(batch.y, k, record["label_smoothing"]))
    assert_same_step(defense, batch, views, record)


def leaves_statistics_alone(record: dict[str, Any]) -> bool:
    """Whether it holds the examples in float64, and the attack was in evaluation mode."""
    return record["kind"] == "pgd" and record["eval_mode"] and "x_adv_f64" in record


@pytest.mark.parametrize("name", [n for n in named("debenedetti") if leaves_statistics_alone(MODERN[n])])
def test_what_debenedettis_clean_pass_changes(name: str) -> None:
    """As large as AT's docstring says."""
    record = MODERN[name]
    net = recorded_net(0.1)
    net.train()(record["x_adv_f64"])
    buffers = dict(net.named_buffers())
    theirs = {key: value for key, value in record["buffers_f64"].items() if "running" in key}
    changes = [float((buffers[key] - value).norm() / value.norm()) for key, value in theirs.items()]
    assert all(0.005 < change < 0.05 for change in changes)


def smooth(y: Tensor, k: int, amount: float) -> Tensor:
    return (1 - amount) * nn.functional.one_hot(y, k).double() + amount / k
