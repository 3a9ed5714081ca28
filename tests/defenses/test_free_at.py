"""Free adversarial training against its algorithm, written out."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from lightning_robust.attacks import PGD
from lightning_robust.defenses import FreeAT
from lightning_robust.parts import AdversarialWeightPerturbation as AWP
from lightning_robust.parts.regularizers import EffectiveWeightNorm
from lightning_robust.threat import Norm, Threat
from lightning_robust.types import Batch
from tests.defenses.test_golden import FOLDER, X, Y, differing, net
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp
from tests.helpers.few import Few, norm_net, plain_net

EPS, STEP, REPLAYS = 0.2, 0.15, 3


def defense(net: nn.Module, norm: Norm = "linf", **settings: Any) -> FreeAT:
    given: dict[str, Any] = {"attack": PGD(Threat(norm, EPS), step_size=STEP), "replays": REPLAYS, **settings}
    return FreeAT(net, optimizer=lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9), **given)


def by_hand(net: nn.Module, data: Few, epochs: int, norm: Norm) -> Tensor:
    """Algorithm 1 in double precision; returns the noise."""
    net.double().train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    noise = torch.zeros(data.batch_size, 1, 4, 4, dtype=torch.float64)
    data.setup("fit")
    loader: Any = data.train_dataloader()
    for epoch in range(epochs):
        loader.batch_sampler.sampler.set_epoch(epoch)
        for images, y, _ in loader:
            x = images.double()
            for _ in range(REPLAYS):
                added = noise[: len(x)].clone().requires_grad_()
                optimizer.zero_grad()
                cross_entropy(net((x + added).clamp(0, 1)), y).backward()
                assert added.grad is not None
                steepest = added.grad.sign() if norm == "linf" else normalize(added.grad.flatten(1)).view_as(x)
                noise[: len(x)] += STEP * steepest
                if norm == "linf":
                    noise.clamp_(-EPS, EPS)
                else:
                    noise *= (EPS / noise.flatten(1).norm(dim=1)).clamp(max=1).nan_to_num(1)[:, None, None, None]
                optimizer.step()
    return noise


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_is_the_algorithm_over_epochs_and_uneven_batches(norm: Norm) -> None:
    found, expected = defense(norm_net(), norm), norm_net()
    quiet_trainer(max_epochs=3, precision="64-true").fit(found, Few(n=18, seed=0))
    noise = by_hand(expected, Few(n=18, seed=0), 3, norm)
    torch.testing.assert_close(found.noise, noise)
    assert noise.abs().max() > STEP
    torch.testing.assert_close(dict(found.net.named_parameters()), dict(expected.named_parameters()))
    torch.testing.assert_close(dict(found.net.named_buffers()), dict(expected.named_buffers()))


def test_every_replay_counts_for_the_optimizer_and_none_for_the_schedule() -> None:
    module = defense(
        plain_net(), scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.5), scheduler_interval="step"
    )
    steps: list[float] = []
    trainer = quiet_trainer(max_epochs=1)
    module.on_before_optimizer_step = lambda optimizer: steps.append(optimizer.param_groups[0]["lr"])  # type: ignore[method-assign]
    trainer.fit(module, Few(n=8))
    assert steps == [0.05] * REPLAYS + [0.025] * REPLAYS
    assert trainer.global_step == 2


def test_regularizer_and_weight_perturbation_leave_the_noise_to_the_loss() -> None:
    """A perturbation of no size changes nothing."""
    plain, perturbed = (
        defense(plain_net()),
        defense(plain_net(), weight_perturbation=AWP(0.0)),
    )
    for module in (plain, perturbed):
        quiet_trainer(max_epochs=2).fit(module, Few(n=8, seed=0))
    torch.testing.assert_close(perturbed.noise, plain.noise)
    torch.testing.assert_close(perturbed.state_dict(), plain.state_dict())
    regularized = defense(plain_net(), regularizers=[EffectiveWeightNorm(0.1)])
    quiet_trainer(max_epochs=1).fit(regularized, Few(n=8, seed=0))
    assert regularized.noise.abs().max() <= EPS


def resumed(folder: Path, ranks: int, epochs: int, checkpoint: Path | None = None) -> list[list[Tensor]]:
    def on(rank: int) -> list[Tensor]:
        module = defense(plain_net())
        settings: dict[str, Any] = {
            "max_epochs": epochs,
            "enable_checkpointing": True,
            "callbacks": [ModelCheckpoint(folder, f"of{ranks}", save_top_k=1)],
        }
        trainer = ddp_trainer(ranks, **settings) if ranks > 1 else quiet_trainer(**settings)
        trainer.fit(
            module,
            Few(n=16, batch_size=8 // ranks, seed=0),
            ckpt_path=checkpoint,
            weights_only=True if checkpoint else None,
        )
        return [*module.state_dict().values(), module.noise]

    return run_ddp(on, ranks)


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_each_rank_has_its_noise_also_after_a_resume(tmp_path: Path) -> None:
    whole = resumed(tmp_path / "whole", 2, 3)
    resumed(tmp_path / "part", 2, 2)
    again = resumed(tmp_path / "again", 2, 3, tmp_path / "part/of2.ckpt")
    torch.testing.assert_close(again, whole, rtol=0, atol=0)
    assert not torch.equal(whole[0][-1], whole[1][-1])
    torch.testing.assert_close(whole[0][:-1], whole[1][:-1], rtol=0, atol=0)
    alone = resumed(tmp_path / "alone", 1, 3, tmp_path / "part/of2.ckpt")
    assert alone[0][-1].abs().max() <= EPS


def test_noise_starts_again_for_images_of_another_size() -> None:
    module = defense(plain_net())
    module.noise = torch.ones(4, 1, 4, 4)
    x, y = torch.rand(2, 1, 6, 6), torch.zeros(2, dtype=torch.long)
    assert torch.equal(module.generate(Batch(x, y)).adv, x)
    assert module.noise.shape == (2, 1, 6, 6)
    assert len(module.generate(Batch(torch.rand(3, 1, 6, 6), y)).adv) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"replays": 0}, "replays >= 1, got 0"),
        ({"attack": PGD(restarts=2)}, "leave targeted"),
        ({"attack": PGD(momentum=1.0)}, "leave targeted"),
        ({"attack": PGD(targeted=True, random_targets=3)}, "leave targeted"),
    ],
)
def test_refusals(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        defense(plain_net(), **settings)


@pytest.mark.filterwarnings("ignore:When using `Trainer.accumulate_grad_batches != 1.` and overriding")
def test_accumulated_gradients_are_refused() -> None:
    with pytest.raises(ValueError, match="accumulate_grad_batches to 1"):
        quiet_trainer(max_epochs=1, accumulate_grad_batches=2).fit(defense(plain_net()), Few())
    later = GradientAccumulationScheduler({1: 2})
    with pytest.raises(ValueError, match="accumulate_grad_batches to 1"):
        quiet_trainer(max_epochs=2, callbacks=[later]).fit(defense(plain_net()), Few())


def test_the_noise_follows_a_falling_radius() -> None:
    module = defense(plain_net())
    module.noise = torch.full((4, 1, 4, 4), EPS)
    module.attack = module.attack.with_eps(0.05)
    x = torch.full((4, 1, 4, 4), 0.5)
    adv = module.generate(Batch(x, torch.zeros(4, dtype=torch.long))).adv
    torch.testing.assert_close(adv, x + 0.05)


def test_a_replay_is_the_authors() -> None:
    """tests/golden/free_at.pt: one replay of mahyarnajibi/FreeAdversarialTraining@e185c84, more noise than images."""
    record = torch.load(FOLDER / "free_at.pt", weights_only=True)
    module = defense(net(), attack=PGD(Threat(eps=record["eps"]), step_size=record["step"]))
    module.noise, batch = record["noise_before"].clone(), Batch(X, Y)
    views = module.generate(batch)
    assert torch.equal(views.adv, record["x_adv"])
    module.loss(batch, views).total.mean().backward()
    module.on_after_backward()
    assert differing(module.noise, record["noise_after"]) <= 1e-3
    assert not torch.equal(record["noise_after"][: len(X)], record["noise_before"][: len(X)])
    assert len(module.noise) > len(X)
