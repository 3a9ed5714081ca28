"""Margins and weight norms in the log, against the closed forms of a linear net."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_robust.attacks import PGD
from lightning_robust.callbacks import AdversarialInputs, EffectiveMargins, RobustEvaluation
from lightning_robust.defenses import Standard
from lightning_robust.metrics import EffectiveMargin
from lightning_robust.metrics.functional import effective_weight_norm
from lightning_robust.threat import Threat
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


def test_each_loader_has_its_own_means_under_lightnings_suffix() -> None:
    class TwoLoaders(ForeignModule):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) @ W.T

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.log("seen", 1.0)

    parts = [images(7, seed=1), images(5, seed=2)]
    trainer = quiet_trainer(callbacks=[EffectiveMargins()])
    trainer.validate(TwoLoaders(), [DataLoader(part, 4) for part in parts], verbose=False)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items() if "effective" in name}
    expected = {}
    for i, part in enumerate(parts):
        margin, norm = closed_forms(*part.tensors, 1.0)
        expected[f"val/effective_margin/dataloader_idx_{i}"] = pytest.approx(margin, rel=1e-5)
        expected[f"val/effective_weight_norm/dataloader_idx_{i}"] = pytest.approx(norm, rel=1e-5)
    assert logged == expected


ANOTHER_TYPE = r"weights are torch\.float32 and the images torch\.float64, and the net fails.+: convert one of them"


class CastsItself(ForeignModule):
    """Casts images in its own steps alone, so that what calls the net directly gives it others."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step((batch[0].float(), batch[1]), batch_idx)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self(batch[0].float())

    test_step = validation_step


@pytest.mark.parametrize(
    "callback",
    [
        EffectiveMargins(),
        RobustEvaluation({"pgd": PGD(Threat(eps=0.1), steps=1)}),
        RobustEvaluation({}),
        AdversarialInputs(PGD(Threat(eps=0.1), steps=1)),
    ],
    ids=["margins", "attacks", "clean", "inputs"],
)
def test_images_of_another_type_than_the_weights_are_refused_in_a_sentence(callback: Any, tmp_path: Path) -> None:
    x, y = images(8).tensors
    data, module = DataLoader(TensorDataset(x.double(), y), 4), CastsItself()
    trainer = quiet_trainer(max_epochs=1, callbacks=[callback], default_root_dir=tmp_path)
    with pytest.raises(TypeError, match=ANOTHER_TYPE):
        trainer.fit(module, data) if isinstance(callback, AdversarialInputs) else trainer.test(module, data)


def test_so_they_are_by_the_metric() -> None:
    x, y = images(3).tensors
    with pytest.raises(TypeError, match=ANOTHER_TYPE):
        EffectiveMargin().update(linear_net(W), x.double(), y)
    with pytest.raises(TypeError, match=ANOTHER_TYPE):
        effective_weight_norm(linear_net(W), x.double())
    metric = EffectiveMargin()
    metric.update(linear_net(W).double(), x.double(), y)
    assert float(metric.compute()) == pytest.approx(closed_forms(x, y, 1.0)[0], rel=1e-6)
