"""AVG and E-AT by their definitions, on two processes, stopped and resumed; and how such defenses are evaluated."""

import json
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lightning_robust.attacks import APGD, CW, MSD, PGD, FriendlyPGD, OneOf, SparsePGD, TrainingAPGD, WorstOf
from lightning_robust.callbacks import RobustEvaluation
from lightning_robust.callbacks.run_folder import run_folder
from lightning_robust.defenses import AT, AVG, EAT
from lightning_robust.evaluation.threats import mismatch, under_threat
from lightning_robust.losses import cross_entropy
from lightning_robust.threat import Threat
from lightning_robust.types import Batch
from tests.helpers.ddp import quiet_trainer, run_ddp
from tests.helpers.few import Few, plain_net

LINF, L2, L1 = Threat("linf", 0.1), Threat("l2", 0.5), Threat("l1", 2.0)
X, Y = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3


def parts(*threats: Threat) -> dict[str, Any]:
    return {threat.norm: TrainingAPGD(threat, steps=2) for threat in threats}


def test_avg_is_the_mean_of_training_against_each_norm() -> None:
    defense = AVG(plain_net(), attack=WorstOf(parts(LINF, L2, L1)))
    batch = Batch(X, Y)
    losses = defense.loss(batch, defense.generate(batch))
    each = [cross_entropy(defense.net(attack(defense.net, X, Y)), Y) for attack in defense.attack.parts]
    torch.testing.assert_close(losses.total, torch.stack(each).mean(0))
    worst = torch.stack(each).amax(0)
    torch.testing.assert_close(cross_entropy(losses.logits_adv, Y), worst)


def test_of_a_single_attack_avg_is_adversarial_training() -> None:
    batch, single = Batch(X, Y), TrainingAPGD(L2, steps=2)
    ours, theirs = AVG(plain_net(), attack=single), AT(plain_net(), attack=single)
    pair = [d.loss(batch, d.generate(batch)).total for d in (ours, theirs)]
    assert torch.equal(*pair)


def test_eat_draws_each_norm_in_proportion_to_its_error() -> None:
    defense = EAT(plain_net(), attack=OneOf(parts(LINF, L1)))
    assert defense.weights == [0.5, 0.5]
    defense.robust_counts = [[0, 0], [3, 4]]
    assert defense.weights == [0.5, 0.5]  # until each was drawn
    defense.robust_counts = [[9, 12], [3, 12]]
    assert defense.weights == [0.25, 0.75]
    drawn: Counter[int] = Counter()
    for step in range(300):
        defense._batch_idx = step
        defense.robust_counts = [[9000, 12000], [3000, 12000]]
        defense.generate(Batch(X[:1], Y[:1]))
        drawn[next(i for i, (_, seen) in enumerate(defense.robust_counts) if seen > 12000)] += 1
    assert drawn[0] == pytest.approx(75, abs=4 * (300 * 0.25 * 0.75) ** 0.5)


def test_eat_counts_samples_that_are_right_at_every_point() -> None:
    """With one step of twice the radius, those are the image and the step's end."""
    net, eps = plain_net(), 0.2
    y = net(X).argmax(1)  # all are right at first
    defense = EAT(net, attack=OneOf({"linf": TrainingAPGD(Threat("linf", eps), steps=1)}))
    defense.generate(Batch(X, y))
    reached = (X + eps * gradient(net, X, y).sign()).clamp(0, 1)
    expected = int((net(reached).argmax(1) == y).sum())
    assert 0 < expected < 6
    assert defense.robust_counts == [[expected, 6]]
    defense.generate(Batch(X, (y + 1) % 3))  # all are wrong at first
    assert defense.robust_counts == [[expected, 12]]


def gradient(net: Any, x: Tensor, y: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(cross_entropy(net(leaf), y).sum(), leaf)[0]


@pytest.mark.parametrize("attack", [APGD(LINF, steps=3), FriendlyPGD(LINF, steps=3), PGD(LINF, steps=3, restarts=2)])
def test_eat_refuses_attacks_that_leave_samples_out(attack: Any) -> None:
    with pytest.raises(ValueError, match="one that takes all samples along: set it to TrainingAPGD"):
        EAT(plain_net(), attack=OneOf({"linf": attack})).generate(Batch(X, Y))


def fitted(kind: Any, folder: Path, path: Path | None = None) -> Any:
    attack: Any = OneOf(parts(LINF, L1)) if kind is EAT else WorstOf(parts(LINF, L2))
    defense = kind(plain_net(dtype=torch.float64), attack=attack, optimizer=sgd)
    save = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = quiet_trainer(
        max_epochs=2, precision="64-true", callbacks=[save], enable_checkpointing=True, limit_val_batches=0
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*exists and is not empty")
        trainer.fit(defense, Few(n=24, batch_size=4), ckpt_path=path, weights_only=True if path else None)
    return defense


@pytest.mark.parametrize("kind", [EAT, AVG])
def test_it_goes_on_in_the_middle_of_an_epoch(kind: Any, tmp_path: Path) -> None:
    whole = fitted(kind, tmp_path)
    rest = fitted(kind, tmp_path, tmp_path / "step=8.ckpt")
    assert all(torch.equal(*both) for both in zip(rest.parameters(), whole.parameters(), strict=True))
    if kind is EAT:
        assert rest.robust_counts == whole.robust_counts
        assert sum(seen for _, seen in whole.robust_counts) == 48


def test_a_checkpoint_gives_the_attack_back(tmp_path: Path) -> None:
    held = {"linf": PGD(LINF, steps=3), "l1": SparsePGD(L1, steps=3, fewest=2, most=4)}
    for attack in (WorstOf(held), OneOf(held, [1.0, 2.0]), MSD(held, start="uniform")):
        trainer = quiet_trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0)
        defense = AT(plain_net(), attack=attack)
        trainer.fit(defense, Few())
        trainer.save_checkpoint(tmp_path / "a.ckpt")
        back = AT.load_from_checkpoint(tmp_path / "a.ckpt", net=plain_net(), weights_only=True).attack
        assert type(back) is type(attack)
        assert back.threats == attack.threats
        assert [vars(part)["steps"] for part in back.parts] == [3, 3]
        assert getattr(back, "weights", None) == getattr(attack, "weights", None)
        assert getattr(back, "start", None) == getattr(attack, "start", None)
        assert back.parts[1].most == 4


@pytest.mark.slow
def test_two_processes_draw_the_same_norm_and_count_together() -> None:
    def on(rank: int) -> Any:
        defense = EAT(plain_net(dtype=torch.float64), attack=OneOf(parts(LINF, L1)), optimizer=sgd)
        trainer = quiet_trainer(max_epochs=2, precision="64-true", limit_val_batches=0, devices=2, strategy="ddp")
        trainer.fit(defense, Few(n=24, batch_size=4, seed=3))
        return defense.robust_counts, [p.detach() for p in defense.parameters()]

    alone = EAT(plain_net(dtype=torch.float64), attack=OneOf(parts(LINF, L1)), optimizer=sgd)
    quiet_trainer(max_epochs=2, precision="64-true", limit_val_batches=0).fit(alone, Few(n=24, batch_size=8, seed=3))
    for counts, weights in run_ddp(on):
        assert counts == alone.robust_counts
        torch.testing.assert_close(weights, [p.detach() for p in alone.parameters()], rtol=1e-10, atol=1e-12)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.3)


def test_attacks_of_an_evaluation_run_at_each_threat_of_the_training() -> None:
    given = {"pgd": PGD(steps=7), "own": PGD(Threat("linf", 0.3)), "cw": CW()}
    found = under_threat(given, (LINF, L2), None)
    assert {name: str(attack.threat) for name, attack in found.items()} == {
        "pgd-linf": "linf 0.1",
        "pgd-l2": "l2 0.5",
        "own": "linf 0.3",
        "cw-l2": "l2 0.5",  # it works in l2 alone
    }
    assert list(under_threat({"a": PGD()}, (LINF, Threat("linf", "8/255")), None)) == ["a-linf-0.1", "a-linf-8-255"]
    assert list(under_threat({"a": PGD()}, (LINF, L2), L1)) == ["a"]
    assert list(under_threat({"a": PGD()}, (LINF,), None)) == ["a"]
    with pytest.raises(ValueError, match="Two attacks of the evaluation are called 'a-l2'"):
        under_threat({"a": PGD(), "a-l2": PGD(L2)}, (LINF, L2), None)


def test_another_threat_than_those_of_the_training_is_told() -> None:
    defense = AT(plain_net(), attack=WorstOf(parts(LINF, L2)))
    assert mismatch(defense, {"a": PGD(LINF), "b": PGD(L2)}) is None
    assert mismatch(defense, {"a": PGD(LINF)}) is None
    assert mismatch(defense, {"a": PGD(L1)}) == "linf 0.1 and l2 0.5"


def test_the_worst_case_over_the_norms_selects_the_checkpoint(tmp_path: Path) -> None:
    defense = AT(plain_net(), attack=WorstOf(parts(LINF, L2, L1)))
    evaluation = RobustEvaluation({"pgd": PGD(steps=2)}, figure_samples=0, check_samples=4)
    trainer = quiet_trainer(max_epochs=1, callbacks=[evaluation], default_root_dir=tmp_path)
    trainer.fit(defense, Few(val_size=11))
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    each = [logged[f"val/pgd-{norm}_acc"] for norm in ("linf", "l2", "l1")]
    assert logged["val/worst_acc"] <= min(each)
    told = json.loads((run_folder(trainer) / "robustness.json").read_text())
    assert list(told["attacks"]) == ["pgd-linf", "pgd-l2", "pgd-l1"]
    assert "trained_at" not in told
