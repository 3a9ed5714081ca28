"""LBGAT against one step of its authors' code, in which two nets learn."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_robust.attacks import PGD
from lightning_robust.defenses import LBGAT
from lightning_robust.parts import SAM, AdversarialWeightPerturbation, RobustWeightPerturbation
from lightning_robust.threat import Threat
from lightning_robust.types import Batch, Views
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp
from tests.helpers.few import Few, norm_net, plain_net
from tests.helpers.second_ring import RING, assert_same_step, of, recorded, replayed


@pytest.mark.parametrize("name", [name for name in RING if name.startswith("lbgat")])
def test_the_authors_step(name: str) -> None:
    record = RING[name]
    beta = record["hparams"]["beta"]
    defense = LBGAT(recorded(record["base"]), recorded(record["teacher"]), beta=beta, attack=replayed(record))
    assert_same_step(defense, record)
    gradients, buffers = of(record, "teacher_grads"), of(record, "teacher_buffers")
    assert gradients
    assert buffers
    for key, parameter in defense.teacher.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[key], rtol=1e-9, atol=1e-11, msg=key)
    for key, buffer in defense.teacher.named_buffers():
        torch.testing.assert_close(buffer, buffers[key].to(buffer.dtype), rtol=1e-9, atol=1e-11, msg=key)


ATTACK = PGD(Threat(eps=0.1), steps=2, step_size=0.05, start="normal")


def small(net: nn.Module | None = None, teacher: nn.Module | None = None, **settings: Any) -> LBGAT:
    sgd = lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9)  # noqa: E731
    return LBGAT(net or plain_net(), teacher or plain_net(3), attack=ATTACK, optimizer=sgd, **{"beta": 1.0, **settings})


def weights(defense: LBGAT) -> list[Tensor]:
    return [value.detach().clone() for value in defense.state_dict().values()]


def test_a_resumed_run_goes_on_with_both_nets(tmp_path: Path) -> None:
    whole = small(teacher=norm_net(3))
    quiet_trainer(max_epochs=3).fit(whole, Few(n=16, seed=3))
    first = quiet_trainer(max_epochs=1)
    first.fit(small(teacher=norm_net(3)), Few(n=16, seed=3))
    first.save_checkpoint(tmp_path / "first.ckpt")
    resumed = small(plain_net(7), norm_net(8))
    path = str(tmp_path / "first.ckpt")
    quiet_trainer(max_epochs=3).fit(resumed, Few(n=16, seed=3), ckpt_path=path, weights_only=True)
    assert all(torch.equal(a, b) for a, b in zip(weights(resumed), weights(whole), strict=True))
    assert not torch.equal(whole.teacher[1].weight, norm_net(3)[1].weight)


def test_the_net_alone_classifies() -> None:
    defense, x = small(), torch.rand(4, 1, 4, 4)
    assert torch.equal(defense(x), defense.net(x))


def test_a_reweighting_leaves_the_teachers_own_loss() -> None:
    batch, views = Batch(torch.rand(4, 1, 4, 4), torch.tensor([0, 1, 2, 0])), Views(torch.rand(4, 1, 4, 4))
    defense = small()
    parts = defense.loss(batch, views).parts
    defense.reweightings = (lambda logits_adv, y, epoch: torch.full((len(y),), 0.25),)
    expected = parts["teacher"] + (parts["guided"] + parts["robust"]) / 4
    torch.testing.assert_close(defense.loss(batch, views).total, expected)


def test_teachers_that_cannot_be_are_refused() -> None:
    net = plain_net()
    with pytest.raises(ValueError, match="The teacher is the net that is to learn"):
        LBGAT(net, net)
    defense = small(teacher=nn.Sequential(nn.Flatten(), nn.Linear(16, 5)))
    with pytest.raises(ValueError, match="The teacher gives 5 logits but the net 3"):
        quiet_trainer(max_epochs=1, num_sanity_val_steps=0).fit(defense, Few())


@pytest.mark.slow
def test_two_ranks_equal_one_process_in_both_nets() -> None:
    def on(ranks: int) -> list[Tensor]:
        defense = small(plain_net(dtype=torch.float64), plain_net(3, dtype=torch.float64))
        own: dict[str, Any] = {"max_epochs": 2, "precision": "64-true"}
        trainer = ddp_trainer(ranks, **own) if ranks > 1 else quiet_trainer(**own)
        trainer.fit(defense, Few(n=16, batch_size=4 // ranks, seed=3))
        return weights(defense)

    alone = on(1)
    for own in run_ddp(lambda rank: on(2)):
        torch.testing.assert_close(own, alone, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("perturbation", [AdversarialWeightPerturbation, RobustWeightPerturbation, SAM])
def test_a_perturbation_moves_no_running_statistics_of_the_teacher(perturbation: Any) -> None:
    defense = LBGAT(
        norm_net(),
        norm_net(3),
        attack=PGD(Threat(eps=0.1), steps=1, start="normal"),
        optimizer=torch.optim.SGD,
        weight_perturbation=perturbation(0.01),
    )
    quiet_trainer(max_epochs=1).fit(defense, Few(n=16, batch_size=8))
    counts = {int(value) for name, value in defense.teacher.named_buffers() if name.endswith("batches_tracked")}
    assert counts == {2}
