"""Evaluation on chosen data loaders, without ignored labels, and of several evaluations side by side."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_robust.attacks import PGD
from lightning_robust.callbacks import CorruptionAccuracy, EffectiveMargins, RobustEvaluation
from lightning_robust.data import CorruptionSuite
from lightning_robust.metrics.functional import effective_margin
from lightning_robust.threat import Threat
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp
from tests.helpers.foreign import ForeignModule, images, loader

EPS = 0.02
ATTACK = PGD(Threat(eps=EPS), steps=3, start="none")
SIZES = (7, 9, 11)


def evaluation(**settings: Any) -> RobustEvaluation:
    return RobustEvaluation({"pgd": ATTACK}, **{"figure_samples": 0, "check_samples": 0, **settings})


def robust(x: Tensor, y: Tensor) -> list[bool]:
    """By a plain loop."""
    net = ForeignModule().eval()
    found = [bool((net(x[i : i + 1]).argmax(1) == y[i]).item()) for i in range(len(x))]
    return [r and int(net(ATTACK(net, x[i : i + 1], y[i : i + 1])).argmax()) == int(y[i]) for i, r in enumerate(found)]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("chosen", [[1], [0, 2], [2, 0], None])
@pytest.mark.parametrize("stage", ["test", "fit"])
def test_chosen_loaders_alone_are_evaluated(chosen: list[int] | None, stage: str, tmp_path: Path) -> None:
    module = ForeignModule()
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.0)
    module.body[1].momentum = 0.0
    trainer = quiet_trainer(max_epochs=1, default_root_dir=tmp_path, callbacks=[evaluation(loaders=chosen)])
    loaders = [loader(n, 4, seed=n) for n in SIZES]
    if stage == "test":
        trainer.test(module, loaders, verbose=False)
    else:
        trainer.fit(module, loader(8, 8), loaders)
    numbers = sorted(range(3) if chosen is None else chosen)
    suffixes = {i: f"-{i}" if len(numbers) > 1 else "" for i in numbers}
    assert {path.name for path in tmp_path.glob("*robustness*")} == {f"robustness{s}.json" for s in suffixes.values()}
    for i, suffix in suffixes.items():
        told = json.loads((tmp_path / f"robustness{suffix}.json").read_text())
        expected = robust(*images(SIZES[i], seed=SIZES[i]).tensors)
        assert (told["n"], told["worst"]["correct"]) == (SIZES[i], sum(expected))
        key = f"{'test' if stage == 'test' else 'val'}/worst_acc{f'/dataloader_idx_{i}' if suffix else ''}"
        assert float(trainer.callback_metrics[key]) == pytest.approx(sum(expected) / SIZES[i])
        if stage == "test":
            assert [row["robust"] == "1" for row in rows(tmp_path / f"samples{suffix}.csv")] == expected


def test_a_loader_that_is_not_there_is_refused(tmp_path: Path) -> None:
    trainer = quiet_trainer(default_root_dir=tmp_path, callbacks=[evaluation(loaders=[0, 1])])
    with pytest.raises(
        ValueError, match=r"loaders=\[0, 1\] names a data loader that does not exist: choose from 0 to 0"
    ):
        trainer.test(ForeignModule(), loader(4), verbose=False)


@pytest.mark.filterwarnings("ignore:Using `DistributedSampler` with the dataloaders")
def test_two_ranks_evaluate_the_chosen_loader(tmp_path: Path) -> None:
    def on(rank: int) -> Any:
        trainer = ddp_trainer(default_root_dir=tmp_path, callbacks=[callback := evaluation(loaders=[1])])
        trainer.test(ForeignModule(), [loader(n, 4, seed=n) for n in SIZES[:2]], verbose=False)
        return callback._loaders[1].report["worst"]["correct"]

    assert run_ddp(on) == [sum(robust(*images(SIZES[1], seed=SIZES[1]).tensors))] * 2


# ------------------------------------------------------------------------------------------------------ ignored labels


@pytest.mark.parametrize("ignored", [-1, 255])
@pytest.mark.parametrize("which", [slice(0, 5), slice(3, None, 3), slice(11, None)])
def test_ignored_labels_do_not_count(ignored: int, which: slice, tmp_path: Path) -> None:
    x, y = images(13).tensors
    kept = torch.ones(13, dtype=torch.bool)
    kept[which] = False
    data = TensorDataset(x, y.masked_fill(~kept, ignored))
    suite = CorruptionSuite({("fog", 1): data})
    keys = {"ignore_index": ignored}
    callbacks = [
        evaluation(figure_samples=2 if which.stop == 5 and ignored == -1 else 0, **keys),
        EffectiveMargins(**keys),
        CorruptionAccuracy(**keys),
    ]
    trainer = quiet_trainer(default_root_dir=tmp_path, callbacks=callbacks)
    [logged] = trainer.test(ForeignModule(), DataLoader(suite, 4), verbose=False)

    net = ForeignModule().eval()
    expected = robust(x[kept], y[kept])
    found = rows(tmp_path / "samples.csv")
    assert [int(row["index"]) for row in found] == torch.nonzero(kept)[:, 0].tolist()
    assert [row["robust"] == "1" for row in found] == expected
    right = float((net(x[kept]).argmax(1) == y[kept]).double().mean())
    assert logged["test/clean_acc"] == pytest.approx(right)
    assert logged["test/fog_acc"] == pytest.approx(right)
    margin = float(effective_margin(net, x[kept], y[kept]).mean())
    assert logged["test/effective_margin"] == pytest.approx(margin, rel=1e-5)


def test_nothing_to_evaluate_is_said(tmp_path: Path) -> None:
    x, y = images(4).tensors
    data = DataLoader(TensorDataset(x, torch.full_like(y, -1)), 2)
    trainer = quiet_trainer(default_root_dir=tmp_path, callbacks=[evaluation(ignore_index=-1)])
    with pytest.raises(
        ValueError, match="No sample to evaluate: the data loader is empty, or every label equals ignore_index"
    ):
        trainer.test(ForeignModule(), data, verbose=False)


# -------------------------------------------------------------------------------------------------------- side by side


def plainly(module: Any, x: Tensor) -> Any:
    return module(x)


def blindly(module: Any, x: Tensor) -> Any:
    """Give the same logits without a gradient: no attack that takes one gets anywhere."""
    return module(x.detach()) + 0 * x.flatten(1)[:, :1]


def test_two_evaluations_neither_overwrite_nor_shadow_each_other(tmp_path: Path) -> None:
    """Same attacks, same samples, same clean predictions, but nets of other gradients: each keeps its own verdicts."""
    x, y = images(13).tensors
    y = ForeignModule().eval()(x).argmax(1)
    data = DataLoader(TensorDataset(x, y), 4)
    callbacks = [evaluation(forward=plainly), evaluation(name="blind", forward=blindly)]
    for order in (callbacks, callbacks[::-1]):
        folder = tmp_path / str(order[0].name)
        trainer = quiet_trainer(default_root_dir=folder, callbacks=order)
        [logged] = trainer.test(ForeignModule(), data, verbose=False)
        expected = robust(x, y)
        assert 0 < sum(expected) < 13
        assert [row["robust"] == "1" for row in rows(folder / "samples.csv")] == expected
        assert [row["robust"] for row in rows(folder / "blind-samples.csv")] == ["1"] * 13
        assert logged["test/worst_acc"] == pytest.approx(sum(expected) / 13)
        assert logged["test/blind/worst_acc"] == 1.0


@pytest.mark.parametrize("name", ["a/b", "a\\b", "radius", "classes"])
def test_names_that_would_lose_files_are_refused(name: str) -> None:
    for make in (
        lambda: RobustEvaluation({name: ATTACK}),
        lambda: RobustEvaluation({}, fit_attacks={name: ATTACK}),
        lambda: RobustEvaluation({}, name=name),
    ):
        with pytest.raises(ValueError, match="become parts of file names"):
            make()
