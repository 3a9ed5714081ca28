"""Images wait as bytes, in memory or in a file, and come back bit for bit; what is not needed takes no memory."""

import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.memory import allocated
from lightning_robust.attacks import PGD
from lightning_robust.callbacks import RobustEvaluation
from lightning_robust.callbacks.collected import Collected
from lightning_robust.evaluation import dealing
from lightning_robust.evaluation.byte_levels import ByteLevels
from lightning_robust.evaluation.dealing import deal
from lightning_robust.evaluation.image_store import ImageStore
from lightning_robust.evaluation.images import Images
from lightning_robust.evaluation.samples import Samples
from lightning_robust.models import Normalize
from lightning_robust.runtime.adapter import NetAdapter
from lightning_robust.threat import Threat
from tests.helpers.ddp import process_group, quiet_trainer, run_ddp
from tests.helpers.foreign import ForeignModule, images

CPU = torch.device("cpu")
SIZE = (3, 64, 64)
BYTES = math.prod(SIZE)


def pixels(n: int, seed: int = 0, size: tuple[int, ...] = SIZE) -> Tensor:
    return torch.randint(0, 256, (n, *size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def normalised_and_back(data: Tensor) -> Tensor:
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    given = Normalize(mean, std)(data / 255)
    return NetAdapter(torch.nn.Identity(), mean=mean, std=std).to_pixels(given)


WAYS = {
    "divided": lambda data: data / 255,
    "multiplied": lambda data: data.float() * (1 / 255),
    "float64": lambda data: data.double() / 255,
    "normalised and back": normalised_and_back,
    "few levels": lambda data: (data // 16) / 15,
}


def same_bits(x: Tensor, other: Tensor) -> bool:
    return x.dtype == other.dtype and torch.equal(x.view(torch.uint8), other.view(torch.uint8))


@pytest.mark.parametrize("way", WAYS)
def test_eight_bits_come_back_bit_for_bit(way: str) -> None:
    levels, parts = ByteLevels(), [WAYS[way](pixels(5, seed)) for seed in range(3)]
    kept = [levels.encode(x) for x in parts]
    for x, data in zip(parts, kept, strict=True):
        assert data is not None
        assert data.dtype == torch.uint8
        assert same_bits(levels.decode(data), x)


def test_the_ways_differ() -> None:
    """Otherwise one table of values would do."""
    assert not same_bits(WAYS["divided"](pixels(2)), WAYS["multiplied"](pixels(2)))
    assert not same_bits(WAYS["divided"](pixels(2)), WAYS["normalised and back"](pixels(2)))


OTHERS = {
    "one value in between": lambda x: x.index_put((torch.tensor(3), *torch.tensor([0, 5, 5])), torch.tensor(0.5001)),
    "the last bit": lambda x: x.index_put((torch.tensor(3), *torch.tensor([0, 5, 5])), x[3, 0, 5, 5] + 6e-8),
    "minus zero": lambda x: torch.where((x == 0) & (torch.arange(64) > 31), -x, x),
    "another way": lambda x: WAYS["multiplied"](pixels(4, 7)),
    "any": lambda x: torch.rand(x.shape),
    "bytes as floats": lambda x: x * 255,
    "half": lambda x: x.half(),
    "vectors": lambda x: x.flatten(1),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_not_of_eight_bits_stays_and_changes_nothing(kind: str) -> None:
    levels, x = ByteLevels(), pixels(4) / 255
    data = levels.encode(x)
    assert data is not None
    assert levels.encode(OTHERS[kind](x)) is None
    assert same_bits(levels.decode(data), x)
    assert levels.encode(x.flip(0)) is not None


def test_large_batches_are_turned_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_robust.evaluation.byte_levels._PIECE", 2 * BYTES)
    levels, x = ByteLevels(), pixels(8) / 255
    data = levels.encode(x)
    assert data is not None
    assert torch.equal(data, pixels(8))
    x[7, 2, 63, 63] = 0.123
    assert levels.encode(x) is None


STORES = {"memory": math.inf, "partly in a file": 10_000.0, "in a file": 0.0}


@pytest.mark.parametrize("memory", STORES.values(), ids=STORES)
def test_they_act_as_one_tensor(memory: float, tmp_path: Path) -> None:
    store = ImageStore(memory, tmp_path / "new")
    parts = [pixels(4, 1, (1, 32, 32)) / 255, torch.rand(3, 1, 32, 32), pixels(5, 2, (1, 32, 32)) / 255]
    found, x = Images.join([Images.of(part, store) for part in parts]), torch.cat(parts)
    assert found.shape == x.shape
    assert found.nbytes == 1024 * (4 + 4 * 3 + 5)
    rows = torch.tensor([11, 0, 5, 5, 3])
    assert same_bits(found[:], x)
    assert same_bits(found[rows], x[rows])
    assert same_bits(found[4], x[4])
    assert same_bits(found[2:7], x[2:7])
    assert found[rows[:0]].shape == (0, 1, 32, 32)
    some = found.select(x[:, 0, 0, 0] > 0.5)
    assert same_bits(some[:], x[x[:, 0, 0, 0] > 0.5])
    both = Images.join([some, Images.of(parts[0], store)])
    assert same_bits(both[:], torch.cat([x[x[:, 0, 0, 0] > 0.5], parts[0]]))
    if memory < math.inf:
        assert store.used <= memory
        if os.name == "posix":
            assert [*(tmp_path / "new").iterdir()] == []  # a file without a name


@pytest.mark.parametrize("memory", STORES.values(), ids=STORES)
def test_what_is_let_go_takes_no_memory(memory: float) -> None:
    store = ImageStore(memory)
    parts = [pixels(4, 1, (1, 32, 32)) / 255, torch.rand(3, 1, 32, 32), pixels(5, 2, (1, 32, 32)) / 255]
    found, x = Images.join([Images.of(part, store) for part in parts]), torch.cat(parts)
    order = torch.tensor([3, 11, 0, 6, 5, 4, 1, 2, 10, 9, 8, 7])
    found, x = found.select(order), x[order]
    for gone in ([0, 5], [0, 5, 1, 8, 9, 10, 11], [*range(12)]):
        needed = torch.ones(12, dtype=torch.bool)
        needed[gone] = False
        found.keep_only(needed)
        left = torch.nonzero(needed)[:, 0]
        assert same_bits(found[left], x[left])
        assert store.used == sum(block.in_memory for block in found.blocks)
        if memory == math.inf:
            assert found.nbytes == sum(4096 if order[i] in (4, 5, 6) else 1024 for i in left)
        with pytest.raises(LookupError, match="let go that is needed again"):
            found[gone[0]]
    assert found.blocks == []


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = ImageStore(0, tmp_path / "file" / "folder")
    with pytest.raises(OSError, match=r"do not fit into .*folder \(Not a directory\): name a folder .* by state_dir"):
        store.put(torch.rand(2, 1, 4, 4))


class Pixels(Dataset[Any]):
    """Images of 8 bits, made when they are asked for."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> Any:
        return pixels(1, i)[0] / 255, i % 2


class Halves(ForeignModule):
    """Says whether the upper half is brighter."""

    def forward(self, x: Tensor) -> Tensor:
        lead = (x[:, :, :32] - x[:, :, 32:]).mean((1, 2, 3))
        return torch.stack([lead, -lead], 1)


def evaluate_pixels(n: int, folder: Path, **settings: Any) -> RobustEvaluation:
    attack = PGD(Threat(eps=0.002), steps=1)
    evaluation = RobustEvaluation({"pgd": attack}, figure_samples=0, check_samples=0, verbose=False, **settings)
    trainer = quiet_trainer(default_root_dir=folder, callbacks=[evaluation])
    trainer.test(Halves(), DataLoader(Pixels(n), 8), verbose=False)
    return evaluation


@pytest.mark.parametrize(("memory", "most"), [(8.0, 1.1 * BYTES), (0.0, 0.1 * BYTES)])
def test_the_peak_grows_by_the_bytes(memory: float, most: float, tmp_path: Path) -> None:
    evaluate_pixels(8, tmp_path / "first")  # what is made once
    few, many = (
        allocated(lambda n=n: evaluate_pixels(n, tmp_path / str(n), image_memory=memory))  # type: ignore[misc]
        for n in (128, 256)
    )
    assert few > 8 * BYTES  # it sees a batch
    assert many - few <= 128 * most


def test_few_small_columns_wait_beside_large_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many of them would leave holes in the heap, each too small for the images of a batch."""
    settle, waiting = Collected.settle, []

    def seen(self: Collected, most: int | None) -> Samples:
        waiting.append([len(batch) for batch in self.batches])
        return settle(self, most)

    monkeypatch.setattr(Collected, "settle", seen)
    evaluation = evaluate_pixels(8 * 13 + 3, tmp_path)
    assert waiting == [[64, 32, 8, 3]]
    assert evaluation.results[0].samples.index.tolist() == [*range(107)]


def test_the_size_is_told_before_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("lightning_robust.evaluation.image_store.MUCH", 20 * BYTES)
    told = []
    monkeypatch.setattr("lightning_robust.callbacks.sample_collector.rank_zero_info", told.append)
    evaluate_pixels(16, tmp_path / "a")
    evaluate_pixels(64, tmp_path / "b", samples=18)
    assert told == []
    evaluate_pixels(24, tmp_path / "c")
    assert told == ["Until they are attacked, about 0.0 GiB of images wait in main memory on each rank."]


def test_a_file_changes_nothing(tmp_path: Path) -> None:
    """The images of this set are no bytes, and the checks and the examples need some of them at the end."""

    def found(folder: str, memory: float) -> Any:
        attacks = {"pgd": PGD(Threat(eps=0.12), steps=2, step_size=0.03), "again": PGD(Threat("l2", 0.4), steps=2)}
        evaluation = RobustEvaluation(attacks, check_samples=3, targets=[1], image_memory=memory, verbose=False)
        trainer = quiet_trainer(default_root_dir=tmp_path / folder, callbacks=[evaluation])
        trainer.test(ForeignModule(), DataLoader(images(30), 8), verbose=False)
        done = evaluation.results[0]
        return done.report["checks"], done.report["targeted"], [v.size.tolist() for v in done.samples.verdicts.values()]

    assert found("a", 8.0) == found("b", 2e-5)
    assert not [path for path in (tmp_path / "b").rglob("*.tmp")]


def test_ranks_hold_dealt_images_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dealing, "_PIECE", 8 * BYTES)  # two images, as floats
    n = 128

    def on(rank: int) -> Any:
        torch.set_num_threads(1)
        with process_group():
            index = torch.arange(n if rank == 0 else 0)
            samples = Samples(index, index, index, index, index, index < 0, Images.none(0, SIZE))
            if rank == 0:
                samples.x = Images.join([Images.of(part) for part in (pixels(n) / 255).split(8)])
            most = allocated(lambda: deal(samples, samples.index >= 0, CPU))
            samples.x.keep_only(torch.ones(len(samples), dtype=torch.bool))
            return most, samples.x.nbytes, torch.equal(samples.x[:], pixels(n)[samples.index] / 255)

    (sent, left, first), (received, arrived, second) = run_ddp(on)
    assert first
    assert second
    assert left == arrived == n // 2 * BYTES
    assert sent < 0.5 * arrived
    assert received < 1.1 * arrived + 0.5 * arrived
