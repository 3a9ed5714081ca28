"""Every sample counts once, however the loaders deal them out."""

from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader, Sampler

from lightning_robust.attacks import PGD
from lightning_robust.callbacks import RobustEvaluation
from lightning_robust.threat import Threat
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp
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
