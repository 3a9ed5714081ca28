"""What a person sees: the real commands in a terminal of 80 x 24, and their output in a job's log."""

import io
import logging
import re
import subprocess
import sys
import warnings
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import pytest
from lightning import Callback
from lightning.pytorch.callbacks import ModelSummary, ProgressBar, RichModelSummary, RichProgressBar, TQDMProgressBar
from lightning.pytorch.utilities import rank_zero_info
from lightning_utilities.core import rank_zero

from lightning_robust.callbacks import EpochLines
from lightning_robust.cli.terminal import StartLine, calm, with_terminal
from lightning_robust.defenses import Standard
from tests.helpers.ddp import quiet_trainer
from tests.helpers.few import Few, plain_net
from tests.helpers.screen import Shown, screen

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "lightning_robust"]
FIT = ["fit", f"--config={ROOT / 'configs/digits/at.yaml'}", "--trainer.max_epochs=3", "--model.attack.steps=4"]
SLOW = [
    *("--model.net.class_path=tests.helpers.sleepy.SleepyConvNet", "--model.net.init_args.seconds=0.15"),
    *("--evaluation.attacks.pgd50.steps=10", "--evaluation.batch_size=64", "--evaluation.check_samples=0"),
]
EPOCH = re.compile(r"epoch (\d)/3  loss \d\.\d{4}  clean  ?\d+\.\d %  worst  ?\d+\.\d %  [\d.]+ s")
NOISE = ("Tip", "FLOPs", "litlogger", "litmodels", "GPU available", "TPU available", "stopped: `max_epochs")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("terminal")


@pytest.fixture(scope="module")
def fit(folder: Path) -> Shown:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        return screen([*COMMAND, *FIT], folder)


@pytest.fixture(scope="module")
def test(folder: Path, fit: Shown) -> Shown:
    run = min(folder.glob("runs/Digits/AT/fit-*"))  # the first: other tests fit here, too
    (best,) = run.glob("checkpoints/best-*.ckpt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        command = ["test", f"--config={run.relative_to(folder)}/config.yaml", f"--ckpt_path={best.relative_to(folder)}"]
        return screen([*COMMAND, *command, *SLOW], folder)


@pytest.mark.slow
def test_a_loss_shows_before_the_first_epoch_ends(fit: Shown) -> None:
    first = [frame for frame in fit.frames if not any(EPOCH.search(line) for line in frame)]
    losses = {match[0] for frame in first for line in frame if (match := re.search(r"loss: \d+\.\d{3}", line))}
    assert len(losses) >= 2


@pytest.mark.slow
def test_each_epoch_leaves_a_line_and_the_bar_goes(fit: Shown) -> None:
    lines = [match for line in fit.whole if (match := EPOCH.fullmatch(line))]
    assert [match[1] for match in lines] == ["1", "2", "3"]
    assert not any("━" in line for line in fit.whole)


@pytest.mark.slow
def test_the_checkpoint_is_named(test: Shown) -> None:
    (line,) = (line for line in test.whole if "weights" in line)
    assert re.fullmatch(r"Loaded model weights from …\S*/checkpoints/best-\S+\.ckpt", line)


@pytest.mark.slow
def test_a_stage_moves(test: Shown) -> None:
    stage = list(dict.fromkeys(line for line in test.with_line("pgd50") if "━" in line))
    assert len(stage) >= 5
    done = [int(match[1]) for line in stage if (match := re.search(r" (\d+)/\d+ ", line))]
    assert done == sorted(done)
    assert len(set(done)) >= 5
    bounds = [float(match[1]) for line in stage if (match := re.search(r"<= (\d+\.\d+)%", line))]
    assert bounds == sorted(bounds, reverse=True)
    assert len(set(bounds)) >= 3
    assert any(re.search(r"\d+ s left", line) for line in stage)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["fit", "test"])
def test_nothing_wraps_and_nothing_is_advertised(command: str, request: pytest.FixtureRequest) -> None:
    shown: Shown = request.getfixturevalue(command)
    assert not shown.wrapped
    told = "\n".join(line for frame in [*shown.frames, shown.whole] for line in frame)
    assert not [word for word in NOISE if word in told]
    # a cell that its column was too narrow for goes on below, far from the left edge
    assert not [line for frame in shown.frames for line in frame if line.startswith(" " * 40)]


@pytest.mark.slow
def test_a_wider_terminal_has_no_longer_lines(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So what fitted into 80 columns had not been broken to fit."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    short = ["--trainer.limit_train_batches=2", "--trainer.log_every_n_steps=1"]
    shown = screen([*COMMAND, *FIT, *short], folder, columns=160)
    assert max(len(line) for frame in [*shown.frames, shown.whole] for line in frame) <= 80


@pytest.mark.slow
def test_a_log_has_one_line_an_epoch_and_one_a_stage(
    folder: Path, test: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def log(*args: str) -> list[str]:
        done = subprocess.run([*COMMAND, *args], cwd=folder, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        assert not [word for word in NOISE if word in done.stdout + done.stderr]
        assert "━" not in done.stdout + done.stderr
        return done.stdout.splitlines()

    assert sum(bool(EPOCH.fullmatch(line)) for line in log(*FIT, "--trainer.limit_train_batches=2")) == 3
    config = next(folder.glob("runs/Digits/AT/fit-*/config.yaml"))
    stages = [line for line in log("test", f"--config={config}", *SLOW[2:]) if line.startswith("pgd50: ")]
    assert len(stages) == 1
    assert re.fullmatch(r"pgd50: accuracy <= [\d.]+%, \d+ samples in [\d.]+ s", stages[0])


BARS = [RichProgressBar(), TQDMProgressBar()]
SETTINGS = {"enable_progress_bar": None, "enable_model_summary": None}


@pytest.mark.parametrize("given", [None, BARS[0], [*BARS[1:], RichModelSummary()]])
def test_a_bar_and_a_summary_of_the_configs_own_stay(given: Any) -> None:
    wanted = [given] if isinstance(given, Callback) else given or []
    callbacks = with_terminal({**SETTINGS, "callbacks": given})["callbacks"]
    assert [callback for callback in callbacks if callback in wanted] == wanted
    for kind in (ProgressBar, EpochLines):
        assert sum(isinstance(callback, kind) for callback in callbacks) == 1
    assert sum(isinstance(callback, (ModelSummary, StartLine)) for callback in callbacks) == 1


def test_what_is_turned_off_stays_off() -> None:
    assert not with_terminal({**dict.fromkeys(SETTINGS, False), "callbacks": None})["callbacks"]


def test_the_start_line_names_method_net_size_and_devices(capsys: pytest.CaptureFixture[str]) -> None:
    net = plain_net()
    net[0].requires_grad_(False)
    quiet_trainer(max_epochs=1, callbacks=[StartLine()]).fit(Standard(net), Few())
    told = "Standard, Sequential: 91 parameters, 51 of them trained, on 1 x CPU"
    assert capsys.readouterr().out.splitlines()[0] == told


def test_a_message_of_lightnings_stands_where_stderr_is_and_advertisements_nowhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import pytorch_lightning  # noqa: F401

    for name in ("lightning.pytorch", "pytorch_lightning"):  # either may be where messages go
        logger = logging.getLogger(name)
        monkeypatch.setattr(logger, "handlers", [logging.StreamHandler(io.StringIO())])
        monkeypatch.setattr(rank_zero, "log", logging.getLogger(f"{name}.utilities.rank_zero"))
        with calm(), redirect_stderr(io.StringIO()) as told:
            rank_zero_info("💡 Tip: buy this")
            rank_zero_info("Something happened")
        assert told.getvalue() == "Something happened\n"
        assert type(logger.handlers[0]) is logging.StreamHandler


def test_a_warning_is_a_sentence_and_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with calm():
        told = warnings.formatwarning("word " * 30, UserWarning, "file.py", 3)
        placed = warnings.formatwarning("old", FutureWarning, "file.py", 3)
    assert told.startswith("warning: word word")
    assert max(len(line) for line in told.splitlines()) <= 80
    assert told.split()[1:] == ["word"] * 30
    assert placed == "warning: file.py:3: FutureWarning: old\n"


OWN = """
from lightning import Trainer
from lightning_robust.attacks import PGD
from lightning_robust.callbacks import RobustEvaluation
from lightning_robust.threat import Threat
from tests.helpers.foreign import ForeignModule, loader
from tests.helpers.sleepy import slowed

evaluation = RobustEvaluation({"pgd": PGD(Threat(eps=0.05), steps=10)}, check_samples=0, figure_samples=0)
Trainer(accelerator="cpu", logger=False, callbacks=[evaluation]).test(slowed(ForeignModule()), loader(64, 8))
"""


@pytest.mark.slow
def test_a_stage_moves_in_the_bar_of_someone_elses_trainer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    shown = screen([sys.executable, "-c", OWN], folder)
    stage = list(dict.fromkeys(line for line in shown.with_line("pgd") if "━" in line))
    assert len(stage) >= 5
    assert len({match[0] for line in stage if (match := re.search(r"<= [\d.]+%", line))}) >= 2
    assert max(len(line) for frame in shown.frames for line in frame if "━" in line) <= 80
