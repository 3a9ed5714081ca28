"""Every sample counts once, however the loaders deal them out."""

import csv
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch.nn.functional import cross_entropy
from torch.utils.data import BatchSampler, DataLoader, Sampler, SequentialSampler, TensorDataset

from lightning_robust.attacks import PGD
from lightning_robust.callbacks import EffectiveMargins, PseudoLabels, RobustEvaluation
from lightning_robust.data import Indexed
from lightning_robust.defenses import Standard
from lightning_robust.metrics.functional import effective_margin
from lightning_robust.threat import Threat
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp
from tests.helpers.few import plain_net
from tests.helpers.foreign import ForeignModule, images, loader

N = 7


class Backwards(Sampler[int]):
    """Someone's own order of part of the data."""

    def __iter__(self) -> Any:
        return iter(range(4, -1, -1))

    def __len__(self) -> int:
        return 5


class Stream:
    """A loader that is not a DataLoader, and counts how often it is read."""

    def __init__(self) -> None:
        self.read = 0

    def __iter__(self) -> Any:
        self.read += 1
        return iter(loader(N, 2))


def counted(on: Any) -> dict[str, int]:
    evaluation = RobustEvaluation({"pgd": PGD(Threat(eps=0.06), steps=2)}, figure_samples=0, check_samples=0)
    on(evaluation)
    [(_, loader)] = evaluation._loaders.items()
    return {
        "n": loader.report["n"],
        "clean": loader.report["clean"]["correct"],
        "robust": loader.report["worst"]["correct"],
    }


@pytest.mark.parametrize("kind", ["plain", "own sampler", "dict", "not dealt"])
# Lightning's advice to evaluate on one device: https://github.com/Lightning-AI/pytorch-lightning/issues/12862
@pytest.mark.filterwarnings("ignore:Using `DistributedSampler` with the dataloaders")
def test_two_ranks_count_each_sample_once(kind: str, tmp_path: Path) -> None:
    def data() -> Any:
        made = DataLoader(images(N), 2, sampler=Backwards() if kind == "own sampler" else None)
        return {"only": made} if kind == "dict" else made

    def run(ranks: int) -> Any:
        def on(evaluation: RobustEvaluation) -> None:
            settings: dict[str, Any] = {"default_root_dir": tmp_path, "callbacks": [evaluation]}
            if ranks > 1 and kind == "not dealt":
                settings["use_distributed_sampler"] = False
            trainer = ddp_trainer(ranks, **settings) if ranks > 1 else quiet_trainer(**settings)
            trainer.test(ForeignModule(), data(), verbose=False)

        return lambda rank: counted(on)

    [alone] = run_ddp(run(1), ranks=1)
    assert alone["n"] == (5 if kind == "own sampler" else N)
    assert run_ddp(run(2)) == [alone, alone]


def test_a_loader_is_not_read_for_every_batch(tmp_path: Path) -> None:
    stream = Stream()
    trainer = lambda evaluation: quiet_trainer(default_root_dir=tmp_path, callbacks=[evaluation])  # noqa: E731
    told = counted(lambda evaluation: trainer(evaluation).test(ForeignModule(), stream, verbose=False))
    assert told["n"] == N
    assert stream.read <= 2  # Lightning looks whether it can be read


class Reversed(BatchSampler):
    """Batches in an order of their own, around a sampler that is in order."""

    def __iter__(self) -> Any:
        return iter(list(super().__iter__())[::-1])


ORDERS = {  # -> (how the loader is made, whether samples stand in the order of the dataset)
    "plain": (lambda data: DataLoader(data, 2), True),
    "sequential batch sampler": (
        lambda data: DataLoader(data, batch_sampler=BatchSampler(SequentialSampler(data), 2, False)),
        True,
    ),
    "shuffled": (lambda data: DataLoader(data, 2, shuffle=True), False),
    "own sampler": (lambda data: DataLoader(data, 2, sampler=Backwards()), False),
    "own batch sampler": (
        lambda data: DataLoader(data, batch_sampler=Reversed(SequentialSampler(data), 2, False)),
        False,
    ),
}


def rows(data: Any, folder: Path, **settings: Any) -> list[dict[str, str]]:
    evaluation = RobustEvaluation(
        {"pgd": PGD(Threat(eps=0.06), steps=2)}, figure_samples=0, check_samples=0, **settings
    )
    quiet_trainer(default_root_dir=folder, callbacks=[evaluation]).test(ForeignModule(), data, verbose=False)
    with (folder / "samples.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("make", "ordered"), ORDERS.values(), ids=ORDERS)
# Lightning's advice
@pytest.mark.filterwarnings("ignore:Your `test_dataloader`'s sampler has shuffling enabled")
def test_samples_have_an_index_where_it_is_known(
    make: Any, ordered: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "propagate", True)
    labels = images(N).tensors[1].tolist()
    with caplog.at_level(logging.INFO):
        found = rows(make(images(N)), tmp_path)
    assert ("so the index in samples.csv is empty" in caplog.text) == (not ordered)
    if ordered:
        assert [(int(row["index"]), int(row["label"])) for row in found] == list(enumerate(labels))
    else:
        assert {row["index"] for row in found} == {""}
    (tmp_path / "again").mkdir()
    indexed = make(Indexed(images(N)))
    again = rows(indexed, tmp_path / "again")  # with positions, in any order
    assert all(int(row["label"]) == labels[int(row["index"])] for row in again)
    assert len({row["index"] for row in again}) == len(again) > 0


def test_positions_that_repeat_are_refused(tmp_path: Path) -> None:
    x, y = images(N).tensors
    domains = torch.tensor([0, 1, 2, 1, 1, 0, 2])
    data = DataLoader(TensorDataset(x, y, domains), 2)
    with pytest.raises(ValueError, match="Position 1 in the dataset stands 3 times in the data loader"):
        rows(data, tmp_path, index_key=2)
    assert [int(row["index"]) for row in rows(data, tmp_path)] == list(range(N))  # a third tensor means nothing
    twice = DataLoader(Indexed(images(N)), 2, sampler=[0, 1, 2, 3, 2])
    with pytest.raises(ValueError, match="Position 2 in the dataset stands 2 times"):
        rows(twice, tmp_path)


@pytest.mark.parametrize("kind", [kind for kind, (_, ordered) in ORDERS.items() if not ordered])
@pytest.mark.filterwarnings("ignore:Your `predict_dataloader`'s sampler has shuffling enabled")
def test_pseudo_labels_refuse_another_order(kind: str, tmp_path: Path) -> None:
    trainer = quiet_trainer(callbacks=[PseudoLabels(str(tmp_path / "labels.npz"))])
    with pytest.raises(ValueError, match="in the order of the images: predict with one data loader"):
        trainer.predict(Standard(plain_net()), ORDERS[kind][0](images(N)))
    trainer.predict(Standard(plain_net()), ORDERS["plain"][0](images(N)))


@pytest.mark.parametrize("n", [7, 11])
# Lightning's advice to evaluate on one device: https://github.com/Lightning-AI/pytorch-lightning/issues/12862
@pytest.mark.filterwarnings("ignore:Using `DistributedSampler` with the dataloaders")
def test_two_ranks_log_the_means_of_a_plain_loop(n: int) -> None:
    """A defense's own accuracy and loss, and effective margins, with Lightning's sampler, which pads."""

    def on(rank: int) -> dict[str, float]:
        defense = Standard(plain_net(), attack=PGD(Threat(eps=0.1)))
        trainer = ddp_trainer(callbacks=[EffectiveMargins()])
        trainer.validate(defense, [loader(n, 2), loader(n + 2, 2)], verbose=False)
        return {name: float(value) for name, value in trainer.callback_metrics.items()}

    net = plain_net().eval()
    expected = {}
    for i, number in enumerate((n, n + 2)):
        x, y = images(number).tensors
        logits = net(x)
        expected[f"val/clean_acc/dataloader_idx_{i}"] = float((logits.argmax(1) == y).double().mean())
        expected[f"val/loss/dataloader_idx_{i}"] = float(cross_entropy(logits, y).detach())
        expected[f"val/effective_margin/dataloader_idx_{i}"] = float(effective_margin(net, x, y).double().mean())
    for logged in run_ddp(on):
        assert {name: logged[name] for name in expected} == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("mode", ["max_size", "max_size_cycle", "min_size"])
def test_loaders_that_are_drawn_from_at_once_are_refused(mode: Any, tmp_path: Path) -> None:
    class Two(ForeignModule):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            pass

    evaluation = RobustEvaluation({}, image_key="a.0", label_key="a.1")
    trainer = quiet_trainer(default_root_dir=tmp_path, callbacks=[evaluation])
    both = CombinedLoader({"a": loader(4, 2), "b": loader(8, 2)}, mode)
    with pytest.raises(ValueError, match=f"draws from 2 data loaders at once .*'{mode}'.*: give the trainer a list"):
        trainer.test(Two(), both, verbose=False)
