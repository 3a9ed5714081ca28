"""The momentum of batch norms by step, over resumes and accumulated gradients."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback
from torch import nn

from lightning_robust.attacks import PGD
from lightning_robust.callbacks import BatchNormMomentum
from lightning_robust.defenses import AT
from lightning_robust.threat import Threat
from tests.helpers.ddp import quiet_trainer
from tests.helpers.few import Few, norm_net, plain_net


class Momenta(Callback):
    """Notes the momentum and the running mean after each batch."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, float]] = []
        self.means: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.seen.append((trainer.global_step, pl_module.net[0].momentum))
        self.means.append(pl_module.net[0].running_mean.clone())


def run(max_epochs: int = 1, net: nn.Module | None = None, path: Path | None = None, **trainer: Any) -> tuple[Any, Any]:
    momenta, own = Momenta(), BatchNormMomentum(0.05, first=1.0)
    fitting = quiet_trainer(max_epochs=max_epochs, callbacks=[own, momenta], num_sanity_val_steps=0, **trainer)
    module = AT(net or norm_net(), attack=PGD(Threat(eps=0.1), steps=1))
    fitting.fit(module, Few(n=16, batch_size=4, seed=1), ckpt_path=None if path is None else str(path))
    return momenta, fitting


def test_the_first_step_has_another_momentum_also_after_a_resume(tmp_path: Path) -> None:
    whole, _ = run(2)
    assert whole.seen == [(1, 1.0), *((step, 0.05) for step in range(2, 9))]
    half, trainer = run(1)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    rest, _ = run(2, path=tmp_path / "half.ckpt")
    assert half.seen + rest.seen == whole.seen
    assert all(torch.equal(*pair) for pair in zip(half.means + rest.means, whole.means, strict=True))


def test_a_step_is_one_of_the_optimizer() -> None:
    momenta, _ = run(accumulate_grad_batches=2)
    assert momenta.seen == [(0, 1.0), (1, 1.0), (1, 0.05), (2, 0.05)]


def test_useless_and_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="found no batch norm in AT: leave it out"):
        run(net=plain_net())
    with pytest.raises(ValueError, match=r"first must be in \[0, 1\], got 2"):
        BatchNormMomentum(first=2)
