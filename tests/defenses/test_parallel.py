"""Two ranks do what one process does on their batches joined."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from lightning_robust.attacks import PGD
from lightning_robust.defenses import AT, Defense, Standard
from lightning_robust.threat import Threat
from lightning_robust.types import Batch
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp
from tests.helpers.few import Few, plain_net
from tests.helpers.foreign import images

NOISY = PGD(Threat(eps=0.2), steps=2, step_size=0.05)
WRAPPERS: dict[str, dict[str, Any]] = {
    "default": {},
    "static_graph": {"static_graph": True},
    "find_unused_parameters": {"find_unused_parameters": True},
}


def adversarial_training(**settings: Any) -> Defense:
    # in float64, so that only the order of summation differs
    net = plain_net(dtype=torch.float64)
    return AT(net, attack=NOISY, optimizer=lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.9), **settings)


class Doubles(Few):
    def train_data(self, augment: bool) -> TensorDataset:
        x, y = super().train_data(augment).tensors
        return TensorDataset(x.double(), y)


def weights(module: torch.nn.Module) -> list[Tensor]:
    return [value.detach().clone() for value in module.state_dict().values()]


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_two_ranks_equal_one_process_on_the_joined_batch(wrapper: str) -> None:
    alone = adversarial_training()
    quiet_trainer(max_epochs=2).fit(alone, Doubles(n=24, batch_size=8, seed=3))

    def on(rank: int) -> list[Tensor]:
        defense = adversarial_training()
        ddp_trainer(max_epochs=2, strategy=WRAPPERS[wrapper]).fit(defense, Doubles(n=24, batch_size=4, seed=3))
        return weights(defense)

    first, second = run_ddp(on)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(first, weights(alone), rtol=1e-10, atol=1e-12)
    assert not torch.allclose(first[0], weights(adversarial_training())[0], atol=1e-2)


def test_gradients_accumulate_over_ranks_too() -> None:
    alone = adversarial_training()
    alone.attack = PGD(Threat(eps=0.2), steps=2, start="none")  # random starts depend on the step
    quiet_trainer(max_epochs=1).fit(alone, Doubles(n=24, batch_size=12, seed=3))

    def on(rank: int) -> list[Tensor]:
        defense = adversarial_training()
        defense.attack = PGD(Threat(eps=0.2), steps=2, start="none")
        ddp_trainer(max_epochs=1, accumulate_grad_batches=2).fit(defense, Doubles(n=24, batch_size=3, seed=3))
        return weights(defense)

    torch.testing.assert_close(run_ddp(on)[0], weights(alone), rtol=1e-10, atol=1e-12)


class Starts(AT):
    """Keeps the noise it starts from on grey images."""

    def loss(self, batch: Batch, views: Any) -> Any:
        self.noise = [*getattr(self, "noise", []), *(views.adv - batch.x).flatten(1)]
        return super().loss(batch, views)


@pytest.mark.parametrize("indexed", [False, True])
def test_random_starts_differ_between_ranks_and_steps(indexed: bool) -> None:
    grey, y = torch.full((8, 1, 4, 4), 0.5), torch.zeros(8, dtype=torch.long)
    data = TensorDataset(grey, y, torch.arange(8)) if indexed else TensorDataset(grey, y)

    def on(rank: int) -> list[Tensor]:
        torch.manual_seed(0)  # as `seed_everything` does on every rank
        defense = Starts(plain_net(), attack=PGD(Threat(eps=0.2), steps=0))
        ddp_trainer(max_epochs=2).fit(defense, DataLoader(data, 2))
        return defense.noise

    noise = torch.stack([start for rank in run_ddp(on) for start in rank])
    assert noise.shape == (16, 16)
    # two independent ones are 0.46 apart on average
    assert torch.cdist(noise, noise).fill_diagonal_(torch.inf).min() > 0.1


@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
def test_logged_means_are_over_samples_however_unevenly_the_ranks_share_them(stage: str) -> None:
    net, n = plain_net(), 5
    x, y = images(n, seed=1).tensors
    y = torch.where(torch.arange(n) < 4, net(x).argmax(1), (net(x).argmax(1) + 1) % 3)  # 4 of 5 are right

    def on(rank: int) -> dict[str, float]:
        class Five(Few):
            def test_data(self) -> TensorDataset:
                return TensorDataset(x, y)

            def setup(self, stage: str | None = None) -> None:
                super().setup(stage)
                if stage != "test":
                    super().setup("test")
                    self.val_set = self.test_set

        defense = Standard(plain_net(), optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
        trainer = ddp_trainer(max_epochs=1)
        getattr(trainer, stage)(defense, datamodule=Five(batch_size=1))
        return {name: float(value) for name, value in trainer.callback_metrics.items()}

    prefix = "test" if stage == "test" else "val"
    loss = float(torch.nn.functional.cross_entropy(net(x), y).detach())
    for logged in run_ddp(on):
        assert logged[f"{prefix}/clean_acc"] == pytest.approx(4 / 5)
        assert logged[f"{prefix}/loss"] == pytest.approx(loss, rel=1e-5)


def test_a_foreign_sampler_works_as_well() -> None:
    def on(rank: int) -> list[Tensor]:
        defense = AT(plain_net(), attack=NOISY, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
        data = images(10)
        trainer = ddp_trainer(max_epochs=1)
        trainer.fit(defense, DataLoader(data, 2))
        assert type(trainer.train_dataloader.sampler) is DistributedSampler
        return weights(defense)

    first, second = run_ddp(on)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
