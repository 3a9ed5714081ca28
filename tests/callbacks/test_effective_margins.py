"""Margins and weight norms in the log, against the closed forms of a linear net."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_robust.callbacks import EffectiveMargins
from lightning_robust.defenses import Standard
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp
from tests.helpers.few import Few
from tests.helpers.foreign import ForeignModule, images
from tests.helpers.toys import linear_net

W = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))


def line() -> Standard:
    return Standard(linear_net(W), optimizer=lambda params: torch.optim.SGD(params, lr=0.0))


def closed_forms(
    x: Tensor, y: Tensor, temperature: float, w: Tensor = W, bias: Tensor | float = 0.0
) -> tuple[float, float]:
    """Mean signed distance to the nearest boundary, and mean norm of the softmax-weighted mean weight."""
    logits = x.flatten(1) @ w.T + bias
    margins = []
    for z, label in zip(logits, y.tolist(), strict=True):
        margins.append(min(float((z[label] - z[j]) / (w[label] - w[j]).norm()) for j in range(3) if j != label))
    norms = (torch.softmax(logits / temperature, 1) @ w).norm(dim=1)
    return sum(margins) / len(margins), float(norms.mean())


@pytest.mark.parametrize("stage", ["validate", "test"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_the_logged_means_are_the_closed_forms_over_all_samples(stage: str, ranks: int) -> None:
    def on(rank: int) -> dict[str, float]:
        callback = EffectiveMargins(temperature=2.0)
        trainer = (ddp_trainer if ranks > 1 else quiet_trainer)(callbacks=[callback])
        data = Few(n=5, val_size=11, batch_size=4)  # uneven batches, uneven ranks
        getattr(trainer, stage)(line(), datamodule=data, verbose=False)
        return {name: float(value) for name, value in trainer.callback_metrics.items()}

    data = Few(n=5, val_size=11)
    data.setup("validate" if stage == "validate" else "test")
    held = data.val_set if stage == "validate" else data.test_set
    x, y = torch.stack([held[i][0] for i in range(11)]), torch.tensor([int(held[i][1]) for i in range(11)])
    margin, norm = closed_forms(x, y, 2.0)
    prefix = {"validate": "val", "test": "test"}[stage]
    for logged in run_ddp(on, ranks):
        assert logged[f"{prefix}/effective_margin"] == pytest.approx(margin, rel=1e-5)
        assert logged[f"{prefix}/effective_weight_norm"] == pytest.approx(norm, rel=1e-5)


def test_fewer_candidates_give_a_larger_or_equal_margin() -> None:
    x, y = images(11, seed=1).tensors
    trainer = quiet_trainer(callbacks=[EffectiveMargins(candidates=1)])
    trainer.test(line(), Few(), verbose=False)
    assert float(trainer.callback_metrics["test/effective_margin"]) >= closed_forms(x, y, 1.0)[0] - 1e-6


def test_it_measures_while_training_goes_on_each_epoch_anew_and_in_mixed_precision() -> None:
    data = Few()
    data.setup("validate")
    x, y = (
        torch.stack([data.val_set[i][0] for i in range(4)]),
        torch.tensor([int(data.val_set[i][1]) for i in range(4)]),
    )
    found: list[float] = []
    expected: list[float] = []

    class Watched(Standard):
        def on_train_epoch_end(self) -> None:
            found.append(float(self.trainer.callback_metrics["val/effective_margin"]))
            w, bias = (p.detach().clone() for p in self.net[1].parameters())
            expected.append(closed_forms(x, y, 1.0, w, bias)[0])

    defense = Watched(linear_net(W), optimizer=lambda params: torch.optim.SGD(params, lr=0.5))
    quiet_trainer(max_epochs=3, callbacks=[EffectiveMargins()], precision="bf16-mixed").fit(defense, Few())
    assert found == pytest.approx(expected, rel=1e-4)  # in full precision: bf16 would be off by some percent
    assert len({round(value, 3) for value in expected}) == 3


def test_any_lightning_module_will_do() -> None:
    class Foreign(ForeignModule):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            super().validation_step(batch[:2], batch_idx)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch[:2], batch_idx)

    module = Foreign()
    trainer = quiet_trainer(max_epochs=1, callbacks=[EffectiveMargins()])
    trainer.fit(module, Few())
    assert float(trainer.callback_metrics["val/effective_weight_norm"]) > 0
    assert all(p.grad is None or p.requires_grad for p in module.parameters())
