"""What is refused is told in one sentence; a bug shows its traceback."""

import errno
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping

from lightning_robust.attacks import PGD
from lightning_robust.callbacks import EffectiveMargins, RobustEvaluation, UnsoundEvaluation
from lightning_robust.cli.main import main
from lightning_robust.cli.monitors import check_monitors
from lightning_robust.cli.refusals import TRACEBACK, is_refusal
from lightning_robust.data import Digits
from lightning_robust.defenses import Standard
from lightning_robust.threat import Threat
from lightning_robust.types import Batch
from lightning_robust.utils.batch_reader import as_batch
from lightning_robust.utils.images import check_images
from lightning_robust.utils.labels import check_labels
from tests.cli.test_checkpoints import small_disk  # noqa: F401
from tests.helpers.command_line import refusal
from tests.helpers.ddp import quiet_trainer
from tests.helpers.few import plain_net
from tests.helpers.launch import finish_refused, launch, named

pytestmark = pytest.mark.slow  # each starts the command line, which takes a third of a second and more

FIT = [
    *("fit", "--config=digits/at", "--trainer.max_epochs=1", "--trainer.limit_train_batches=2"),
    *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"),
    "--model.init_args.net.init_args.width=4",
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LIGHTNING_ROBUST_RUN", raising=False)
    return tmp_path


def caught(run: Any) -> Exception:
    with pytest.raises(Exception) as info:  # noqa: PT011
        run()
    return info.value


class OutOfRange(Digits):
    """Images in [0, 255], as an untold transform would leave them."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Batch:
        given = as_batch(super().on_after_batch_transfer(batch, dataloader_idx))
        return given._replace(x=255 * given.x)


class Buggy(Callback):
    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        [][0]


class Disk(Callback):
    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        Path("file").touch()
        Path("file/folder").mkdir()


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (lambda: check_images(torch.ones(1, 1, 2, 2) * 9), True),  # ours, on purpose
        (lambda: check_labels(torch.ones(2)), True),
        (lambda: torch.optim.SGD([torch.ones(1)], lr=-1.0), True),  # a setting that a constructor does not take
        (lambda: check_images(None), True),  # type: ignore[arg-type]
        (lambda: Threat("linf", 0.1).distance(None, None), False),  # type: ignore[arg-type]  # Python's, in our code
        (lambda: Threat("linf", 0.1) + 1, False),  # type: ignore[operator]  # TypeError that Python raises
        (lambda: int("x"), False),
        (lambda: torch.ones(2) @ torch.ones(3), False),
        (lambda: [][0], False),
        (lambda: os.mkdir("/proc/version/x"), True),  # NotADirectoryError of the system
        (lambda: Path("/nowhere/at/all").read_text(), False),  # a file that our code expected to be there
    ],
)
def test_the_boundary(run: Any, expected: bool) -> None:
    assert is_refusal(caught(run)) is expected


def test_an_assertion_or_a_foreign_type_of_ours_is_a_bug() -> None:
    code = compile("def f(error):\n    raise error", "f.py", "exec")
    names: dict[str, Any] = {"__name__": "lightning_robust.somewhere"}
    exec(code, names)
    for error, expected in (
        (ValueError("a"), True),
        (TypeError("a"), True),
        (FileNotFoundError("a"), True),
        (ImportError("a"), True),
        (AssertionError("a"), False),
        (IndexError("a"), False),
        (ZeroDivisionError("a"), False),
        (RuntimeError("a"), False),
        (NotImplementedError("a"), False),
        (UnsoundEvaluation("a"), True),
    ):
        assert is_refusal(caught(lambda error=error: names["f"](error))) is expected
    names["__name__"] = "somewhere.else"
    assert not is_refusal(caught(lambda: names["f"](ValueError("a"))))
    assert is_refusal(caught(lambda: names["f"](MisconfigurationException("a"))))
    assert is_refusal(caught(lambda: names["f"](OSError(errno.ENOSPC, "No space left on device"))))


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--data=CIFAR10"], "There is no data/cifar-10-batches-py"),
        (["--model.net.num_classes=7"], "The net gives 7 logits but the data has 10 classes"),
        (["--data.init_args.val_size=100000"], "val_size must lie between 0 and 1346, got 100000"),
        (["--data=tests.cli.test_refusals.OutOfRange"], "Images must lie in [0, 1] but range over [0, 255]"),
        (["--model.optimizer.init_args.lr=-1"], "error: Invalid learning rate: -1.0"),
        (["--trainer.accelerator=gpu"], "No supported gpu backend found"),
        (["--trainer.precision=16-true"], "stores images in half precision"),
        (["--trainer.callbacks+=tests.cli.test_refusals.Disk"], "Not a directory: 'file/folder'"),
    ],
)
def test_what_is_refused_is_one_sentence_and_leaves_nothing(
    args: list[str], told: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told in refusal(capsys, *FIT, *args)
    assert not (folder / "runs").exists()


@pytest.mark.slow
def test_weights_of_another_net_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(FIT)
    (last,) = folder.rglob("last.ckpt")
    before = sorted(folder.rglob("*"))
    told = refusal(capsys, "test", *FIT[1:-1], "--model.init_args.net.init_args.width=5", f"--ckpt_path={last}")
    assert told.startswith("error: The checkpoint's weights do not fit the config's net (size mismatch for net.")
    assert sorted(folder.rglob("*")) == before


@pytest.mark.slow
def test_a_checkpoint_of_another_method_is_refused_by_every_command(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the same net, whose weights would fit."""
    main(["fit", "--config=digits/trades", *FIT[2:], "--model.attack.steps=1"])
    (last,) = folder.rglob("last.ckpt")
    before = sorted(folder.rglob("*"))
    for command, recipe in (("fit", "at"), ("validate", "at"), ("test", "at"), ("test", "mart"), ("predict", "mart")):
        told = refusal(capsys, command, f"--config=digits/{recipe}", *FIT[2:], f"--ckpt_path={last}")
        assert f"This checkpoint was written by TRADES, not by {recipe.upper()}: use the config" in told
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--checkpoint.monitor=train/lss"], "could not find the monitored key in the returned metrics: ['val/loss'"),
        (
            ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=train/lss"],
            "Early stopping conditioned on metric `train/lss` which is not available.",
        ),
    ],
)
@pytest.mark.slow
def test_a_monitor_that_is_missed_after_an_epoch_is_one_sentence(
    args: list[str], told: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told in refusal(capsys, *FIT, *args)
    assert not (folder / "runs").exists() or "EarlyStopping" in args[0]  # which looks once a checkpoint was saved


@pytest.mark.parametrize("foreign", ["nothing", "model", "datamodule", "callback"])
def test_what_others_classes_log_is_not_known_beforehand(foreign: str) -> None:
    model = type("Mine", (Standard,), {})(plain_net()) if foreign == "model" else Standard(plain_net())
    data = OutOfRange() if foreign == "datamodule" else Digits()
    callbacks: list[Any] = [RobustEvaluation({"pgd": PGD()}, name="x"), EffectiveMargins()]
    callbacks += [Buggy()] if foreign == "callback" else []
    for monitor in ("val/x/worst_acc", "val/x/pgd_acc", "val/loss", "val/effective_margin", "train/any", None):
        check_monitors(quiet_trainer(callbacks=[*callbacks, EarlyStopping(monitor or "a")]), model, data, monitor)
    trainer = quiet_trainer(callbacks=[*callbacks, EarlyStopping("val/worst_acc")])
    if foreign == "nothing":
        with pytest.raises(
            ValueError, match="EarlyStopping monitors 'val/worst_acc', which this run does not log; did"
        ):
            check_monitors(trainer, model, data)
    else:
        check_monitors(trainer, model, data)


class Unreadable(Digits):
    """The first image is refused where it is loaded."""

    def train_data(self, augment: bool) -> Any:
        return Broken(super().train_data(augment))


class Broken:
    def __init__(self, whole: Any) -> None:
        self.whole = whole

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, i: int) -> Any:
        check_images(self.whole[i][0] * 255)


class Failing(Broken):
    def __getitem__(self, i: int) -> Any:
        return [][i]


class Faulty(Digits):
    def train_data(self, augment: bool) -> Any:
        return Failing(super().train_data(augment))


@pytest.mark.slow
def test_what_a_loading_process_refuses_is_one_sentence_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workers = ["--data.num_workers=1", "--trainer.num_sanity_val_steps=0", "--data.val_size=64"]
    told = refusal(capsys, *FIT, *workers, "--data=tests.cli.test_refusals.Unreadable")
    assert re.match(r"error: Images must lie in \[0, 1\] but range over \[0, 2\d\d.*\]: leave normalisation", told)
    with pytest.raises(IndexError):
        main([*FIT, *workers, "--data=tests.cli.test_refusals.Faulty"])
    assert not (folder / "runs").exists()


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_keeps_what_is_whole(
    folder: Path,
    small_disk: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    wide = ["--model.net.width=64", f"--trainer.default_root_dir={small_disk}"]
    told = refusal(capsys, *FIT[:-1], *wide)
    assert re.search(r"The checkpoint .*\.ckpt was not written .*Is the disk full\?|No space left on device", told)
    for path in small_disk.rglob("*.ckpt"):
        assert "state_dict" in torch.load(path, weights_only=True)


def test_a_bug_shows_its_traceback_and_leaves_nothing_either(folder: Path) -> None:
    with pytest.raises(IndexError):
        main([*FIT, "--trainer.callbacks+=tests.cli.test_refusals.Buggy"])
    assert not (folder / "runs").exists()


def test_the_traceback_of_a_run_can_be_had(folder: Path) -> None:
    with pytest.raises(ValueError, match="The net gives 7 logits"):
        main([*FIT, "--model.net.num_classes=7", "--traceback"])
    assert TRACEBACK not in os.environ


def test_the_traceback_of_settings_can_be_had(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = "--model.attack.threat.eps=-1"
    with pytest.raises(Exception, match="must be a finite number"):
        main(["--traceback", *FIT, bad])
    monkeypatch.setenv(TRACEBACK, "1")
    with pytest.raises(Exception, match="must be a finite number"):
        main([*FIT, bad])


@pytest.mark.slow
@pytest.mark.parametrize("alone", [False, True])
def test_of_two_ranks_one_tells_and_both_end(alone: bool, tmp_path: Path) -> None:
    """Both meet wrong settings; an image out of range may be in the share of the second alone."""
    bad = "--data=__main__.SecondRank" if alone else "--model.net.num_classes=7"
    began = time.monotonic()
    told = finish_refused(
        launch(tmp_path, named("refused"), [*FIT, "--trainer.strategy=ddp", "--trainer.devices=2", bad])
    )
    assert time.monotonic() - began < 120
    told_by = "error on rank 1: Images must lie in" if alone else "error: The net gives 7 logits"
    assert told.count(told_by) == 1
    assert told.count("error: ") + told.count("error on rank") == 1
    assert "raise ValueError" not in told
    assert "Connection closed" not in told  # what the rank that waited met is no bug
    assert not list(tmp_path.glob("runs/*/*/*")) or alone


def test_a_run_can_wait_for_its_calibration() -> None:
    def check(monitor: str, **settings: Any) -> None:
        evaluation = RobustEvaluation(figure_samples=0, **settings)
        check_monitors(quiet_trainer(callbacks=[evaluation, EarlyStopping(monitor)]), Standard(plain_net()), Digits())

    for monitor in ("val/clean_ece", "val/worst_nll", "val/worst_acc"):
        check(monitor, attacks={"pgd": PGD(steps=1)}, calibration=True)
    with pytest.raises(ValueError, match="monitors 'val/worst_nll', which this run does not log"):
        check("val/worst_nll", attacks={"pgd": PGD(steps=1)})
    with pytest.raises(ValueError, match="monitors 'val/worst_nll', which this run does not log"):
        check("val/worst_nll", attacks={}, calibration=True)
