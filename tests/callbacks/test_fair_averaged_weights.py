"""CFA's fair average: which nets enter it, by what is measured on the images held out, over ranks and interruptions."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from lightning_robust.attacks import PGD
from lightning_robust.callbacks import FairAveragedWeights
from lightning_robust.defenses import AT, Standard
from lightning_robust.threat import Threat
from tests.callbacks.test_averaged_weights import at, averaged, fitted, same, state
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp
from tests.helpers.few import Few, Saves, plain_net
from tests.helpers.foreign import ForeignModule

EPOCHS = 5


class Told(FairAveragedWeights):
    """Finds these accuracies, epoch by epoch."""

    def __init__(self, found: list[float], **settings: Any) -> None:
        super().__init__(**settings)
        self.found = found

    def accuracies(self, *_: Any) -> dict[int, float]:
        return {0: 1.0, 1: self.found.pop(0)}


@pytest.mark.parametrize("start", [0, 1])
def test_only_nets_that_reach_the_threshold_enter_the_first_one_as_it_is(start: int) -> None:
    average = Told([0.1, 0.25, 0.3, 0.2, 0.5][start:], threshold=0.25, decay=0.75, start_epoch=start)
    notes, module, trainer = fitted(average, max_epochs=EPOCHS)
    ends = notes.nets[4::4]
    expected = {}
    for name in averaged(average):
        mean = ends[1][name].double()  # 0.25 reaches it; 0.1 and 0.2 do not
        for epoch in (2, 4):
            mean = 0.75 * mean + 0.25 * ends[epoch][name].double()
        expected[name] = mean.float()
        torch.testing.assert_close(averaged(average)[name], expected[name])
    same(notes.evaluated[0], ends[0])  # no net has entered yet
    same(notes.evaluated[1], ends[1])
    assert torch.equal(notes.evaluated[2]["net.4.weight"], notes.evaluated[3]["net.4.weight"])
    assert not torch.equal(notes.evaluated[3]["net.4.weight"], ends[3]["net.4.weight"])
    torch.testing.assert_close(state(module)["net.4.weight"], expected["net.4.weight"])
    assert float(trainer.callback_metrics["train/worst_class_acc"]) == 0.5


def test_if_no_net_is_robust_enough_the_net_itself_is_evaluated() -> None:
    average = Told([0.1] * 3, threshold=0.2, start_epoch=0)
    notes, module, _ = fitted(average, max_epochs=3)
    same(notes.evaluated[-1], notes.nets[-1])
    same(state(module), notes.nets[-1])


class Learnable(Few):
    """Images whose class is the brightest of three corners, which a net finds out."""

    def train_data(self, augment: bool) -> TensorDataset:
        x, _ = super().train_data(augment).tensors
        corners = torch.stack([x[:, 0, :2, :2], x[:, 0, :2, 2:], x[:, 0, 2:, :2]], 1)
        return TensorDataset(x, corners.mean((2, 3)).argmax(1))


def learner(net: nn.Module) -> AT:
    sgd = functools.partial(torch.optim.SGD, lr=0.03, momentum=0.9)
    return AT(net, attack=PGD(Threat(eps=0.02), steps=2), optimizer=sgd)


def by_hand(net: nn.Module, x: Tensor, y: Tensor, eps: float, step: float, steps: int) -> dict[int, float]:
    """Each class's accuracy under PGD from the images themselves."""
    x_adv = x.clone()
    for _ in range(steps):
        x_adv.requires_grad_()
        loss = nn.functional.cross_entropy(net(x_adv), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x_adv)
        x_adv = (x + (x_adv.detach() + step * gradient.sign() - x).clamp(-eps, eps)).clamp(0, 1)
    right = net(x_adv).argmax(1) == y
    return {label: right[y == label].float().mean().item() for label in y.unique().tolist()}


def test_the_net_that_trains_is_attacked_on_the_images_held_out() -> None:
    found: list[dict[int, float]] = []
    expected: list[dict[int, float]] = []

    class Noted(FairAveragedWeights):
        def accuracies(self, trainer: Any, module: Any) -> dict[int, float]:
            training = module.training
            found.append(super().accuracies(trainer, module))
            assert module.training is training
            assert trainer.training
            before = [p.requires_grad for p in module.parameters()]
            batches = [*trainer.datamodule.val_dataloader()]
            x, y = (torch.cat([batch[i] for batch in batches]) for i in (0, 1))
            assert len(x) == 31
            module.eval()
            each = by_hand(module.net, x, y, 0.03, 0.02, 3)
            module.train(training)
            assert before == [p.requires_grad for p in module.parameters()]
            expected.append(each)
            return found[-1]

    attack = PGD(Threat(eps=0.03), steps=3, step_size=0.02, start="none")
    average = Noted(threshold=0.0, decay=0.9, start_epoch=0, attack=attack)
    fitted(average, learner(plain_net()), Learnable(n=48, batch_size=4, val_size=31, seed=3), max_epochs=5)
    assert found == [pytest.approx(each) for each in expected]
    assert len({min(each.values()) for each in found}) > 2


def test_the_training_is_that_without_it() -> None:
    """Nothing that it draws or measures moves the net, nor its batch norms or random numbers."""

    def net() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(16, 3))

    with_it, _, _ = fitted(FairAveragedWeights(threshold=0.0, start_epoch=0), module=at(net()))
    without, _, _ = fitted(Told([0.0] * 3, threshold=0.0, start_epoch=0), module=at(net()))
    same(with_it.nets[-1], without.nets[-1])


def ends(ranks: int, folder: Path, resumed: Path | None = None) -> tuple[list[Tensor], list[dict[int, float]]]:
    """Averages and accuracies of a run in float64, with a checkpoint within its third epoch."""
    accuracies: list[dict[int, float]] = []

    class Noted(FairAveragedWeights):
        def accuracies(self, trainer: Any, module: Any) -> dict[int, float]:
            accuracies.append(super().accuracies(trainer, module))
            return accuracies[-1]

    average = Noted(threshold=0.25, decay=0.6, start_epoch=1, attack=PGD(steps=2))
    own: dict[str, Any] = {
        "max_epochs": EPOCHS,
        "precision": "64-true",
        "callbacks": [average, Saves(30, folder / "step.ckpt")],
        "num_sanity_val_steps": 0,
    }
    defense = learner(plain_net(dtype=torch.float64))
    trainer = ddp_trainer(ranks, **own) if ranks > 1 else quiet_trainer(**own)
    # of 31 images one rank has 16 and the other 15
    trainer.fit(defense, Learnable(n=48, batch_size=4 // ranks, val_size=31, seed=3), ckpt_path=resumed)
    return [*averaged(average).values()], accuracies


def test_two_ranks_decide_as_one(tmp_path: Path) -> None:
    alone, accuracies = ends(1, tmp_path)
    worst = [min(each.values()) for each in accuracies]
    assert min(worst) < 0.25 <= max(worst)
    for found, theirs in run_ddp(lambda rank: ends(2, tmp_path)):
        assert theirs == accuracies
        torch.testing.assert_close(found, alone, rtol=1e-10, atol=1e-12)


def test_a_resumed_run_ends_with_the_average_of_one_that_never_stopped(tmp_path: Path) -> None:
    whole, accuracies = ends(1, tmp_path)
    rest, later = ends(1, tmp_path / "rest", resumed=tmp_path / "step.ckpt")
    assert later == accuracies[1:]
    torch.testing.assert_close(rest, whole, rtol=0, atol=0)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"threshold must be an accuracy in \[0, 1\], got 20"):
        FairAveragedWeights(threshold=20)
    with pytest.raises(ValueError, match="targeted"):
        FairAveragedWeights(attack=PGD(targeted=True))
    with pytest.raises(ValueError, match=r"ForeignModule has no training attack .* give its attack a threat"):
        quiet_trainer(callbacks=[FairAveragedWeights()], max_epochs=1).fit(ForeignModule(), Few())
    fair = FairAveragedWeights(start_epoch=0)
    with pytest.raises(ValueError, match="there are none: set val_size"):
        quiet_trainer(callbacks=[fair], max_epochs=1).fit(at(), Few(val_size=0))
    given = FairAveragedWeights(start_epoch=0, attack=PGD(Threat(eps=0.1), steps=1))
    quiet_trainer(callbacks=[given], max_epochs=1).fit(Standard(plain_net()), Few())
