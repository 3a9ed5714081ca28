"""What a recipe is said to take, by a clock that only the recipe's own parts move."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback
from torch import Tensor, nn

import lightning_robust.cli.stopwatch
from lightning_robust.attacks import FAB, PGD
from lightning_robust.callbacks import RobustEvaluation
from lightning_robust.cli.main import main
from lightning_robust.cli.plan import Plan, RobustTrainer, _peak_memory
from lightning_robust.cli.stopwatch import attack_seconds
from lightning_robust.data import CIFAR10
from lightning_robust.defenses import AT
from lightning_robust.threat import Threat
from lightning_robust.types import Batch, Losses, Views
from tests.helpers.few import Few, plain_net
from tests.helpers.files import checksums_of, write_cifar10

ATTACK = PGD(Threat(eps=0.1), steps=1)
CONFIG = Path(__file__).parents[2] / "configs" / "digits" / "at.yaml"


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 100.0
        monkeypatch.setattr(lightning_robust.cli.stopwatch, "now", lambda: self.seconds)


class Slow(AT):
    """An attack of 3 s, 6 s from epoch 4 on; 1 s for the rest of a step; 5 s for each batch of a validation."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(plain_net(), attack=ATTACK)
        self.clock, self.right = [clock], []

    def generate(self, batch: Batch) -> Views:
        self.right.append((self(batch.x).argmax(1) == batch.y).all())
        self.clock[0].seconds += 3 if self.current_epoch < 4 else 6
        return super().generate(batch)

    def loss(self, batch: Batch, views: Views) -> Losses:
        self.clock[0].seconds += 1
        return super().loss(batch, views)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.clock[0].seconds += 5


def trainer(**settings: Any) -> RobustTrainer:
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return RobustTrainer(accelerator="cpu", devices=1, **{**quiet, "max_epochs": 10, **settings})


@pytest.mark.parametrize(
    ("settings", "steps", "validations"),
    [
        ({}, 6, 10),
        ({"check_val_every_n_epoch": 2}, 6, 5),
        ({"limit_train_batches": 4}, 4, 10),
        ({"limit_train_batches": 0.5, "limit_val_batches": 1}, 3, 5),
        ({"limit_val_batches": 0}, 6, 0),
    ],
)
def test_every_part_of_the_recipe_counts_as_often_as_it_comes(
    monkeypatch: pytest.MonkeyPatch, settings: Any, steps: int, validations: int
) -> None:
    """24 images in batches of 4, and 2 batches of a validation; measured are three steps, and one or two batches."""
    defense = Slow(Clock(monkeypatch))
    plan = trainer(**settings).plan(defense, Few(n=24, batch_size=4, val_size=8), steps=3)
    attack = (4 * 3 + 6 * 6) / 10
    assert plan.step == pytest.approx(1 + attack)
    assert plan.attack_share == pytest.approx(attack / (1 + attack))
    assert plan.images_per_second == pytest.approx(4 / (1 + attack))
    assert plan.steps == steps
    assert plan.fit == pytest.approx(10 * steps * (1 + attack) + 10 * validations)
    assert len(defense.right) == 6 * 3
    assert all(defense.right)  # labels are the net's own predictions


@pytest.mark.parametrize(
    ("every", "drawings"), [(1, 4), (2, 1)]
)  # after epochs 0, 4, 8 and 9; with the even ones left out
def test_figures_count_as_often_as_they_are_drawn(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, every: int, drawings: int
) -> None:
    clock = Clock(monkeypatch)
    evaluation = RobustEvaluation({"pgd": ATTACK}, figure_samples=1, figure_every_n_epochs=4)

    class Draws(Callback):
        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            clock.seconds += 7 * evaluation.draws_after(trainer.current_epoch, 10)

    settings = {"callbacks": [evaluation, Draws()], "default_root_dir": tmp_path, "check_val_every_n_epoch": every}
    plan = trainer(**settings).plan(Slow(clock), Few(n=24, batch_size=4, val_size=8), steps=3)
    assert plan.fit == pytest.approx(10 * 6 * (1 + (4 * 3 + 6 * 6) / 10) + 10 / every * 2 * 5 + drawings * 7)


def test_a_recipe_shorter_than_the_probes_is_measured_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = trainer(max_epochs=2).plan(Slow(Clock(monkeypatch)), Few(n=8, batch_size=4), steps=20)
    assert plan.fit == pytest.approx(2 * (2 * 4 + 5))


def test_an_attack_is_extrapolated_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, net = Clock(monkeypatch), plain_net().double()

    def slow(x: Tensor) -> Tensor:
        clock.seconds += 1
        out: Tensor = net(x)
        return out

    x = torch.rand(4, 1, 4, 4, dtype=torch.float64)
    assert attack_seconds(PGD(Threat(eps=1e-9), steps=5), slow, x) == 5
    assert attack_seconds(PGD(Threat(eps=1e-9), steps=200), slow, x, limit=10) == pytest.approx(200)
    began = clock.seconds
    attack_seconds(PGD(Threat(eps=1e-9), steps=200), slow, x, limit=10)
    assert clock.seconds - began < 15


def test_the_evaluation_is_of_the_whole_test_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clock = Clock(monkeypatch)

    class Ticking(PGD):
        def __call__(self, net: Any, x: Tensor, *args: Any, **settings: Any) -> Tensor:
            clock.seconds += 2 * len(x)
            return super().__call__(net, x, *args, **settings)

    evaluation = RobustEvaluation({"pgd": Ticking(Threat(eps=0.1), steps=1)}, fit_attacks={}, figure_samples=0)
    plan = trainer(callbacks=[evaluation], default_root_dir=tmp_path).plan(
        Slow(clock), Few(n=8, batch_size=4, test_size=11), steps=2
    )
    assert plan.attacks == {"pgd": pytest.approx(22)}
    assert plan.test == pytest.approx(22)


def test_the_evaluations_attacks_are_timed_at_the_recipes_radius(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[float] = []

    class Seen(PGD):
        def __call__(self, *args: Any, **settings: Any) -> Tensor:
            seen.append(self.threat.eps)
            return super().__call__(*args, **settings)

    evaluation = RobustEvaluation({"pgd": Seen(steps=1)}, fit_attacks={}, figure_samples=0)
    trainer(callbacks=[evaluation], default_root_dir=tmp_path).plan(
        Slow(Clock(monkeypatch)), Few(n=8, batch_size=4), steps=2
    )
    assert seen == [ATTACK.threat.eps]


@pytest.mark.slow
def test_images_that_travel_as_bytes_are_attacked_as_images(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    evaluation = RobustEvaluation({"pgd": PGD(Threat(eps=0.1), steps=1)})
    data = CIFAR10(str(tmp_path), batch_size=8, val_size=20, uint8_transfer=True)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    with checksums_of(tmp_path):
        planner = trainer(callbacks=[evaluation], default_root_dir=tmp_path)
        plan = planner.plan(AT(net, attack=ATTACK), data, steps=2, seconds=0.01)
    assert plan.attacks["pgd"] > 0


def test_an_attack_of_its_own_looks_for_the_nearest_example(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, net = Clock(monkeypatch), plain_net()

    def slow(x: Tensor) -> Tensor:
        clock.seconds += 1
        out: Tensor = net(x)
        return out

    attack, x = FAB(Threat(eps=1.0), steps=7), torch.rand(4, 1, 4, 4)
    assert attack_seconds(attack.nearest, slow, x, limit=99) == 1 + 7 * 2
    assert attack_seconds(attack, slow, x, limit=99) < 8


def test_without_a_number_of_epochs_there_is_no_plan() -> None:
    with pytest.raises(ValueError, match=r"set trainer\.max_epochs"):
        trainer(max_epochs=-1).plan(AT(plain_net(), attack=ATTACK), Few(n=8, batch_size=4))


@pytest.mark.slow
def test_the_command_prints_a_table_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    quick = ["--steps=2", "--seconds=0.1", "--devices=[1,4]", "--trainer.accelerator=cpu", "--trainer.max_epochs=7"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "last.ckpt").write_text("a checkpoint of another run")
    main(["plan", "--config", str(CONFIG), *quick, "--checkpoint.dirpath=mine"])
    printed = capsys.readouterr().out
    assert "7 epochs of 19 steps on 1 x CPU" in printed
    for row in ("a training step", "images a second", "peak memory", "fit", "test: pgd50", "on 4 devices"):
        assert row in printed
    assert [path.read_text() for path in tmp_path.rglob("*") if path.is_file()] == ["a checkpoint of another run"]


def test_memory_is_told_in_mebibytes_on_every_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS counts bytes, Linux kibibytes; Windows has no `resource`, and starts without it."""
    fake = types.SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: types.SimpleNamespace(ru_maxrss=3 * 2**30))
    monkeypatch.setitem(sys.modules, "resource", fake)
    for platform, expected in (("darwin", 3 * 2**10), ("linux", 3 * 2**20)):
        monkeypatch.setattr(sys, "platform", platform)
        assert _peak_memory() == expected
    monkeypatch.setitem(sys.modules, "resource", None)  # importing it raises ImportError
    assert _peak_memory() is None
    plan = Plan(1, 1, 1, 1.0, 0.5, 1.0, 1.0, None, {})
    assert "peak memory" not in list(plan.table([1]).columns[0].cells)
    source = Path(lightning_robust.cli.stopwatch.__file__).parents[1]
    starts = [line for path in source.rglob("*.py") for line in path.read_text().splitlines() if line.startswith("imp")]
    assert "import resource" not in starts
    assert "import fcntl" not in starts
