"""The checks of an evaluation in Lightning's loops: where they are made, what they leave, and what `strict` does."""

import csv
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_robust.attacks import APGD, PGD, AutoAttack
from lightning_robust.callbacks import RobustEvaluation, UnsoundEvaluation
from lightning_robust.callbacks.unsound_evaluation import refuse_doubts
from lightning_robust.evaluation.clean_check import clean_accuracy
from lightning_robust.threat import Threat
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp
from tests.helpers.foreign import ForeignModule, loader
from tests.helpers.trained import held_out, trained_net


class Sound(LightningModule):
    """A trained net, and one whose gradients are all zero."""

    def __init__(self, quantised: bool = False) -> None:
        super().__init__()
        self.net, self.quantised = nn.Sequential(trained_net(robust=False)), quantised

    def forward(self, x: Tensor) -> Tensor:
        return self.net((8 * x).round() / 8 if self.quantised else x)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self(batch[0])

    test_step = validation_step


def data(n: int = 64) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*held_out(n)), 16)


def evaluation(**settings: Any) -> RobustEvaluation:
    attacks = {"apgd": APGD(Threat(eps=0.12), steps=30)}
    return RobustEvaluation(**{"attacks": attacks, "figure_samples": 0, **settings})


def checks(folder: Path) -> dict[str, str]:
    told = json.loads((folder / "robustness.json").read_text())["checks"]
    assert all(list(check) == ["name", "status", "sentence"] for check in told)
    return {check["name"]: check["status"] for check in told}


@pytest.mark.slow
def test_a_sound_evaluation_passes_strictly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    attacks = {"rapid": AutoAttack(Threat(eps=0.12), "rapid")}
    trainer = quiet_trainer(default_root_dir=tmp_path, callbacks=[evaluation(attacks=attacks, strict=True)])
    trainer.test(Sound(), data(), verbose=False)
    found = checks(tmp_path)
    assert len(found) == 12
    assert set(found.values()) == {"pass"}
    assert "warn" not in capsys.readouterr().out


@pytest.mark.parametrize("stage", ["validate", "test"])
@pytest.mark.slow
def test_strict_ends_with_an_error_once_everything_is_written(stage: str, tmp_path: Path) -> None:
    trainer = quiet_trainer(
        logger=CSVLogger(tmp_path, name="", version="run"),
        default_root_dir=tmp_path,
        callbacks=[evaluation(strict=True, figure_samples=2)],
    )
    with pytest.raises(UnsoundEvaluation, match=r"not to be trusted: The input gradient .* exactly zero .* Square"):
        getattr(trainer, stage)(Sound(quantised=True), data(), verbose=False)
    run, name = tmp_path / "run", {"validate": "val"}.get(stage, stage)
    assert {name for name, status in checks(run).items() if status != "pass"} == {
        *("gradients", "more_steps", "huge_radius", "black_box")
    }
    assert len((run / "samples.csv").read_text().splitlines()) == 1 + 64
    assert {path.name for path in run.glob("figures/*")} == {f"{name}-apgd.png", f"{name}-classes.png"}
    (logged,) = csv.DictReader((run / "metrics.csv").read_text().splitlines())
    assert float(logged[f"{name}/worst_acc"]) == json.loads((run / "robustness.json").read_text())["worst"]["accuracy"]
    assert not list(tmp_path.glob("unfinished/*/*"))  # nothing is left to be resumed


@pytest.mark.slow
def test_without_strict_the_table_is_followed_by_the_doubts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = quiet_trainer(default_root_dir=tmp_path, callbacks=[evaluation()])
    trainer.test(Sound(quantised=True), data(16), verbose=False)
    told = " ".join(capsys.readouterr().out.split())
    assert "fail: The input gradient of the cross-entropy and the margin and the difference of logits ratio is" in told


def test_no_checks_if_none_are_asked_for(tmp_path: Path) -> None:
    trainer = quiet_trainer(default_root_dir=tmp_path, callbacks=[evaluation(check_samples=0, strict=True)])
    trainer.test(Sound(quantised=True), data(16), verbose=False)
    assert checks(tmp_path) == {}


def test_none_inside_fit(tmp_path: Path) -> None:
    """Where the net is as good as untrained, and a check would fail."""
    callback = evaluation(attacks={"idle": PGD(Threat(eps=0.3), steps=0)}, strict=True)
    trainer = quiet_trainer(max_epochs=1, default_root_dir=tmp_path, callbacks=[callback])
    trainer.fit(ForeignModule(), loader(8), loader(24))
    assert checks(tmp_path) == {}
    with pytest.raises(UnsoundEvaluation, match="the evaluation's attacks are too weak"):
        trainer.validate(ForeignModule(), loader(24), verbose=False)


def test_only_so_many_samples_are_probed(tmp_path: Path) -> None:
    trainer = quiet_trainer(default_root_dir=tmp_path, callbacks=[evaluation(check_samples=5)])
    trainer.test(Sound(), data(16), verbose=False)
    told = json.loads((tmp_path / "robustness.json").read_text())["checks"]
    assert next(check for check in told if check["name"] == "huge_radius")["sentence"].startswith("0 of 5 samples")


class Logging(Sound):
    """Normalises the images in its steps, where `forward` leaves it to them, and logs its accuracy."""

    def __init__(self, name: str, in_steps: bool, factor: float = 1.0) -> None:
        super().__init__()
        self.name, self.in_steps, self.factor = name, in_steps, factor

    def forward(self, x: Tensor) -> Tensor:
        """Expects twice the image, less 1, where steps normalise."""
        return self.net((x + 1) / 2 if self.in_steps else x)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        logits = self(2 * x - 1 if self.in_steps else x)
        self.log(self.name, self.factor * (logits.argmax(1) == y).float().mean(), batch_size=len(y))

    test_step = validation_step


@pytest.mark.parametrize(
    ("name", "in_steps", "factor", "status", "told"),
    [
        ("test_acc", True, 1.0, "fail", "do its steps normalise the images?"),
        ("Accuracy", True, 100.0, "fail", "do its steps normalise the images?"),
        ("test_acc", False, 1.0, "pass", "test_acc = 0.9375"),
        ("acc/percent", False, 100.0, "pass", "acc/percent = 0.9375"),
        ("adv_acc", True, 1.0, "pass", "logged no accuracy"),
        ("loss", True, 1.0, "pass", "logged no accuracy"),
    ],
)
def test_the_clean_accuracy_is_held_against_the_modules_own(
    name: str, in_steps: bool, factor: float, status: str, told: str, tmp_path: Path
) -> None:
    trainer = quiet_trainer(default_root_dir=tmp_path, callbacks=[evaluation(check_samples=1)])
    trainer.test(Logging(name, in_steps, factor), data(64), verbose=False)
    found = json.loads((tmp_path / "robustness.json").read_text())["checks"]
    (check,) = [check for check in found if check["name"] == "clean"]
    assert check["status"] == status
    assert told in check["sentence"]


class LoggingLate(Logging):
    """Logs it in its own hook, which runs after those of callbacks."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.right = getattr(self, "right", 0) + int((self(2 * x - 1).argmax(1) == y).sum())

    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        self.log("test_acc", self.right / 64)


def test_an_accuracy_that_the_module_logs_at_the_epochs_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """However many evaluations there are, whose own accuracies do not count."""
    several = [evaluation(check_samples=1, strict=True), evaluation(check_samples=1, name="again")]
    trainer = quiet_trainer(default_root_dir=tmp_path, callbacks=several[::-1])
    with pytest.raises(UnsoundEvaluation, match="do its steps normalise"):
        trainer.test(LoggingLate("", in_steps=True), data(64), verbose=False)
    assert checks(tmp_path)["clean"] == "fail"
    again = json.loads((tmp_path / "again-robustness.json").read_text())["checks"]
    assert [check["status"] for check in again if check["name"] == "clean"] == ["fail"]
    assert " ".join(capsys.readouterr().out.split()).count("fail: The module logged test_acc = 0.9375") == 2


def test_a_module_that_stays_in_training_mode(tmp_path: Path) -> None:
    class Staying(Sound):
        def on_test_model_eval(self) -> None:
            self.train()

    trainer = quiet_trainer(default_root_dir=tmp_path, callbacks=[evaluation(check_samples=8)])
    trainer.test(Staying(), data(8), verbose=False)
    assert checks(tmp_path)["evaluation_mode"] == "warn"


# Lightning's advice to evaluate on one device: https://github.com/Lightning-AI/pytorch-lightning/issues/12862
@pytest.mark.filterwarnings("ignore:Using `DistributedSampler` with the dataloaders")
@pytest.mark.slow
def test_two_ranks_agree_with_each_other_and_with_one(tmp_path: Path) -> None:
    trained_net(robust=False)  # once, for both

    def on(rank: int) -> Any:
        callback = evaluation(strict=True, check_samples=6)
        trainer = ddp_trainer(default_root_dir=tmp_path, callbacks=[callback])
        with pytest.raises(UnsoundEvaluation) as raised:
            trainer.test(Sound(quantised=True), data(16), verbose=False)
        return str(raised.value)

    first, second = run_ddp(on)
    assert first == second
    assert checks(tmp_path)["gradients"] == "fail"
    trainer = quiet_trainer(default_root_dir=tmp_path, callbacks=[evaluation(strict=True, check_samples=6)])
    with pytest.raises(UnsoundEvaluation) as alone:
        trainer.test(Sound(quantised=True), data(16), verbose=False)
    assert str(alone.value) == first


def test_the_checks_leave_the_global_random_numbers_alone(tmp_path: Path) -> None:
    states = []
    for checks in (0, 8):
        torch.manual_seed(0)
        trainer = quiet_trainer(default_root_dir=tmp_path, callbacks=[evaluation(check_samples=checks)])
        trainer.test(Sound(), data(16), verbose=False)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


@pytest.mark.parametrize(
    ("logged", "correct", "status"),
    [
        ({"val_acc": 0.6, "loss_accum": 0.9}, 90, "fail"),
        ({"val_acc": 0.82}, 90, "warn"),
        ({"macro_acc": 0.5, "acc_per_class": 0.4, "balanced_accuracy": 0.3, "top5_acc": 1.0}, 90, "pass"),
        ({"val_acc": 0.975}, 100, "pass"),  # Wilson's interval is (0.963, 1): the plain one would be empty
    ],
)
def test_only_a_large_difference_from_the_plain_accuracy_is_refused(logged: Any, correct: int, status: str) -> None:
    report: Any = {"n": 100, "clean": {"correct": correct}}
    check = clean_accuracy(report, logged)
    assert check.status == status
    with pytest.raises(UnsoundEvaluation) if status == "fail" else nullcontext():
        refuse_doubts([{"checks": [check._asdict()]}])
