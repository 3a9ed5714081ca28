"""Vectors, series and volumes: numbers as of a plain loop, and figures only where there is a picture."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_robust.attacks import FAB, PGD
from lightning_robust.callbacks import AdversarialInputs, EffectiveMargins, RobustEvaluation
from lightning_robust.threat import Threat
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp

N = 9
SHAPES = {"vector": (12,), "series": (2, 6), "picture": (3, 2, 2), "volume": (1, 3, 2, 2)}


class Any_(LightningModule):
    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.body = nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(shape).numel(), 6), nn.Tanh(), nn.Linear(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def data(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    x = torch.rand(N, *shape, generator=torch.Generator().manual_seed(0))
    return x, Any_(shape)(x).argmax(1).detach()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_numbers_are_there_and_pictures_where_there_are_any(shape: tuple[int, ...], tmp_path: Path) -> None:
    x, y = data(shape)
    attacks = {"pgd": PGD(Threat(eps=0.1), steps=3, start="none"), "fab": FAB(Threat(eps=0.1), steps=3)}
    callbacks = [RobustEvaluation(attacks, check_samples=4, figure_samples=2), EffectiveMargins()]
    trainer = quiet_trainer(default_root_dir=tmp_path, callbacks=callbacks)
    trainer.test(Any_(shape), DataLoader(TensorDataset(x, y), 4), verbose=False)
    net = Any_(shape)
    expected = int((net(attacks["pgd"](net, x, y)).argmax(1) == y).sum())
    told = json.loads((tmp_path / "robustness.json").read_text())
    assert told["attacks"]["pgd"]["correct"] == expected
    assert len({check["name"] for check in told["checks"]}) > 5  # all of the checks take any shape
    pictures = {"test-pgd.png", "test-fab.png"} if len(shape) == 3 else set()
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        "test-radius.png",
        "test-classes.png",
    } | pictures


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_adversarial_inputs_of_any_shape(shape: tuple[int, ...]) -> None:
    attack = PGD(Threat(eps=0.1), steps=3, start="none")
    x, y = data(shape)
    module, reference = Any_(shape), Any_(shape)
    quiet_trainer(max_epochs=1, callbacks=[AdversarialInputs(attack)]).fit(module, DataLoader(TensorDataset(x, y), 4))
    optimizer = reference.configure_optimizers()
    for some in torch.arange(N).split(4):
        x_adv = attack(reference, x[some], y[some])
        optimizer.zero_grad()
        nn.functional.cross_entropy(reference(x_adv), y[some]).backward()
        optimizer.step()
    for mine, theirs in zip(module.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


class Pooled(Any_):
    def __init__(self) -> None:
        super().__init__((12,))
        self.body = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, 3))


def of_sizes(*sizes: int) -> DataLoader[Any]:
    return DataLoader([(torch.rand(2, 1, s, s), torch.zeros(2, dtype=torch.long)) for s in sizes], batch_size=None)


def test_images_of_several_sizes_are_refused_at_the_first_of_another(tmp_path: Path) -> None:
    class Counting(Pooled):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            steps.append(batch_idx)

    steps: list[int] = []
    evaluation = RobustEvaluation({"pgd": PGD(Threat(eps=0.1), steps=1)})
    trainer = quiet_trainer(default_root_dir=tmp_path, callbacks=[evaluation])
    with pytest.raises(ValueError, match=re.escape("several sizes, (1, 4, 4) and (1, 5, 5), but attacks pool samples")):
        trainer.test(Counting(), of_sizes(4, 4, 5, 4, 4), verbose=False)
    assert steps == [0, 1, 2]
    clean = RobustEvaluation({})  # without attacks, any size will do
    trainer = quiet_trainer(default_root_dir=tmp_path, callbacks=[clean])
    trainer.test(Pooled(), of_sizes(4, 4, 5, 4, 4), verbose=False)
    assert json.loads((tmp_path / "robustness.json").read_text())["n"] == 10


def test_another_size_on_another_rank_is_refused(tmp_path: Path) -> None:
    def on(rank: int) -> None:
        evaluation = RobustEvaluation({"pgd": PGD(Threat(eps=0.1), steps=1)})
        trainer = ddp_trainer(default_root_dir=tmp_path, callbacks=[evaluation], use_distributed_sampler=False)
        with pytest.raises(ValueError, match="several sizes"):
            trainer.test(Pooled(), of_sizes(4 + rank), verbose=False)

    run_ddp(on)
