"""Training against several norms, and its attacks, against what the authors' code computed, in float64."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_robust.attacks import MSD, PGD, OneOf, SparsePGD, TrainingAPGD, WorstOf
from lightning_robust.attacks.call import Call
from lightning_robust.defenses import AT, AVG, EAT, Defense, eat
from lightning_robust.losses import cross_entropy
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat
from lightning_robust.types import Batch, Net, Views
from tests.defenses.test_golden_modern import MODERN, assert_same_gradients_and_buffers, recorded_net
from tests.defenses.test_golden_single_step import assert_same_examples, images


def onto_sphere(delta: Tensor, eps: float) -> Tensor:
    """The projection of locuslab/robust_union: as soon as one sample is outside the ball, all move onto its surface."""
    size = delta.abs()
    if not (size.sum(1) > eps).any():
        return delta
    falling = size.sort(1, descending=True).values
    excess = (falling.cumsum(1) - eps) / torch.arange(1, size.shape[1] + 1)
    last = (falling > excess).sum(1, keepdim=True) - 1
    return (size - excess.gather(1, last)).clamp_min(0) * delta.sign()


class Simplex(Threat):
    """The l1 ball with that projection, and the box afterwards."""

    def project(self, x_adv: Tensor, x: Tensor, eps: Any = None) -> Tensor:
        return (x + onto_sphere((x_adv - x).flatten(1), self.eps).view_as(x)).clamp(0, 1)


def test_their_projection_is_the_recorded_one() -> None:
    record = MODERN["union_l1_projection"]
    found = onto_sphere(record["inside"].double().flatten(1), record["eps"])
    torch.testing.assert_close(found, record["out_f64"].flatten(1), rtol=0, atol=1e-12)


class Recorded(SparsePGD):
    """Steps with the recorded k, one after the other."""

    def __init__(self, numbers: Any, eps: float, steps: int, **settings: Any) -> None:
        super().__init__(Simplex("l1", eps), steps=steps, step_size=1.0, walls=True, **settings)
        self.numbers = numbers

    def _uniform(self, rng: SampleRNG) -> float:
        return (next(self.numbers) - self.fewest + 0.5) / (self.most - self.fewest + 1)


def test_l1_steps() -> None:
    record = MODERN["union_l1_topk"]
    x, y = images(record)
    attack = Recorded(iter(record["k"]), record["arg_epsilon"], record["arg_num_iter"], room=0.05)
    assert_same_examples(attack(recorded_net(0.1), x, y, bn=record["mode"]), record)


def msd(record: dict[str, Any]) -> MSD:
    steps = record["arg_num_iter"]
    return MSD(
        {
            "l1": Recorded(iter(record["k"]), record["arg_epsilon_l_1"], steps),
            "l2": PGD(
                Threat("l2", record["arg_epsilon_l_2"]), steps=steps, step_size=record.get("arg_alpha_l_2", 0.05)
            ),
            "linf": PGD(
                Threat("linf", record["arg_epsilon_l_inf"]), steps=steps, step_size=record.get("arg_alpha_l_inf", 0.003)
            ),
        }
    )


@pytest.mark.parametrize("name", [name for name in MODERN if name.startswith("union_msd")])
def test_msd(name: str) -> None:
    record = MODERN[name]
    defense = AT(recorded_net(0.1), attack=msd(record), attack_bn=record["mode"])
    assert_same_training(defense, record)


def assert_same_training(defense: Defense, record: dict[str, Any]) -> None:
    batch = Batch(*images(record))
    views = defense.generate(batch)
    assert_same_examples(views.adv, record)
    defense.net.train(record["mode"] == "train")
    losses = defense.loss(batch, views).total
    torch.testing.assert_close(losses, record["losses_f64"], rtol=1e-9, atol=0)
    torch.testing.assert_close(losses.mean(), record["loss_f64"], rtol=1e-9, atol=0)
    if "grads_f64" in record:
        assert_same_gradients_and_buffers(defense, losses.mean(), record)


class Twice(PGD):
    """PGD that forwards each point twice, as the authors do, which running statistics notice."""

    def _ascend(self, net: Net, *args: Any) -> Tensor:
        return super()._ascend(lambda z: (net(z), net(z))[1], *args)


class Restarted(Twice, Recorded):
    """One run from the image and one from noise of l1 norm 1, which counts where it is misclassified."""

    def __init__(self, noise: Tensor, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.noise = noise

    def _perturb(self, net: Net, x: Tensor, target: Tensor, call: Call) -> Tensor:
        first = super()._perturb(net, x, target, call)
        noise = 2 * self.noise - 1
        start = x + noise / noise.flatten(1).abs().sum(1).view(-1, 1, 1, 1)
        second = super()._perturb(net, x, target, replace(call, start=start))
        with torch.no_grad():
            wrong = net(second).argmax(1) != target
        return torch.where(wrong.view(-1, 1, 1, 1), second, first)


def parts(record: dict[str, Any], k: Any) -> dict[str, PGD]:
    """The authors' attacks in l1, l2 and linf; of 50 steps, but for linf of 40."""
    steps = len(record["k"]) // 2
    noise = record["draws"][0].double()
    eps = [record[f"arg_epsilon_l_{norm}"] for norm in ("1", "2", "inf")]
    size = record.get("arg_alpha_l_inf", 0.003)
    return {
        "l1": Restarted(noise, k, eps[0], steps, room=0.05),
        "l2": Twice(Threat("l2", eps[1]), steps=50, step_size=0.05, start="none"),
        "linf": Twice(Threat("linf", eps[2]), steps=40, step_size=size, start="none"),
    }


def test_max() -> None:
    record = MODERN["union_max"]
    defense = AT(recorded_net(0.1), attack=WorstOf(parts(record, iter(record["k"]))), attack_bn="train")
    assert_same_training(defense, record)


def optimized(net: torch.nn.Module, record: dict[str, Any], lr: float) -> torch.optim.SGD:
    return torch.optim.SGD(net.parameters(), lr, momentum=record["momentum"], weight_decay=record["weight_decay"])


def flat(values: Any) -> Tensor:
    return torch.cat([value.flatten() for value in values])


def test_the_parts_of_avg_one_after_the_other_are_the_authors_three_steps() -> None:
    """Theirs are three optimizer steps a batch; each attack meets the net that the step before has left."""
    record = MODERN["union_avg"]
    batch = Batch(*images(record))
    defense = AVG(recorded_net(0.1), attack=WorstOf(parts(record, iter(record["k"]))), attack_bn="train")
    optimizer = optimized(defense.net, record, record["lr"])
    order = list(defense.attack.attacks)
    assert order == record["order"]
    for number, part in enumerate(defense.attack.parts):
        x_adv = defense.craft(batch, attack=part)
        torch.testing.assert_close(x_adv, record["x_adv"][number].double(), rtol=0, atol=1e-6)
        loss = AT.loss(defense, batch, Views(x_adv)).total.mean()  # type: ignore[arg-type]
        torch.testing.assert_close(loss, record["loss_f64"][number], rtol=1e-9, atol=0)
        optimizer.zero_grad()
        loss.backward()
        gradient = flat(p.grad for p in defense.net.parameters())
        torch.testing.assert_close(gradient, record["grad_vectors_f64"][number], rtol=1e-9, atol=1e-11)
        optimizer.step()
        after = flat(p.detach() for p in defense.net.parameters())
        torch.testing.assert_close(after, record["model_after_f64"][number], rtol=1e-9, atol=1e-11)
    buffers = dict(defense.net.named_buffers())
    for name, value in record["buffers_f64"].items():
        torch.testing.assert_close(buffers[name], value, rtol=1e-9, atol=1e-12)


def test_eat_follows_the_authors_through_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    record = MODERN["eat_epoch"]
    named = zip(record["l_norms"], record["l_eps"], strict=True)
    attacks = {norm: TrainingAPGD(Threat(norm.lower(), eps), steps=record["n_iter"]) for norm, eps in named}
    defense = EAT(recorded_net(0.1), attack=OneOf(attacks))
    optimizer = optimized(defense.net, record, record["lr_max"])
    batch = Batch(*images(record))
    weights: list[Any] = []
    monkeypatch.setattr(eat, "drawn", lambda given, uniform: weights.append(given) or record["norm"][len(weights) - 1])
    before = [0] * len(attacks)
    for step, (lr,) in enumerate(record["lr"]):
        views = defense.generate(batch)
        norm = record["norm"][step]
        right = defense.robust_counts[norm][0]
        assert right - before[norm] == record["robust_correct"][step]
        before[norm] = right
        if step == 0:
            torch.testing.assert_close(views.adv, record["x_adv_first_f64"], rtol=0, atol=1e-9)
        with torch.no_grad():
            best = cross_entropy(defense.net.eval()(views.adv), batch.y)
        torch.testing.assert_close(best, record["loss_best_each_f64"][step], rtol=1e-9, atol=0)
        defense.net.train()
        loss = defense.loss(batch, views).total.mean()
        torch.testing.assert_close(loss, record["losses_f64"][step], rtol=1e-9, atol=0)
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert [list(each) for each in weights] == [pytest.approx(each, rel=1e-12) for each in record["weights"]]
    after = flat(p.detach() for p in defense.net.parameters())
    torch.testing.assert_close(after, record["model_after_f64"], rtol=1e-9, atol=1e-11)
    buffers = dict(defense.net.named_buffers())
    for name, value in record["buffers_last"].items():
        torch.testing.assert_close(buffers[name].double(), value.double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in MODERN if name.startswith("eat_apgd")])
def test_apgd_in_each_norm(name: str) -> None:
    record = MODERN[name]
    threat = Threat(record["norm"].lower(), record["eps"])
    defense = AT(recorded_net(0.1), attack=TrainingAPGD(threat, steps=record["n_iter"]))
    batch = Batch(*images(record))
    views = defense.generate(batch)
    assert_same_examples(views.adv, record)
    with torch.no_grad():
        best = cross_entropy(defense.net.eval()(views.adv), batch.y)
    torch.testing.assert_close(best, record["loss_best_f64"], rtol=1e-9, atol=0)
    defense.net.train()
    loss = defense.loss(batch, views).total.mean()
    torch.testing.assert_close(loss, record["loss_f64"], rtol=1e-9, atol=0)
    if "grads_f64" in record:
        assert_same_gradients_and_buffers(defense, loss, record)
