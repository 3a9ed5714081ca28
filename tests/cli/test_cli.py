"""The command line: runs, folders, errors."""

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning import Callback, Trainer
from lightning.fabric.plugins import TorchCheckpointIO

from lightning_robust.cli.explanation import explain
from lightning_robust.cli.main import main
from lightning_robust.types import to_float
from tests.helpers.command_line import refusal

ROOT = Path(__file__).parents[2]
AT = str(ROOT / "configs/digits/at.yaml")
STANDARD = str(ROOT / "configs/digits/standard.yaml")
QUICK = [
    *("--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.enable_progress_bar=false"),
    *("--model.init_args.net.init_args.width=4", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"),
    *("--evaluation.figure_samples=1", "--evaluation.fit_samples=32"),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LIGHTNING_ROBUST_RUN", raising=False)
    return tmp_path


def the_run(folder: Path, pattern: str) -> Path:
    (run,) = folder.glob(f"runs/{pattern}")
    return run


def told_command(told: str) -> list[str]:
    """The words of the command that `fit` ends with, as a shell reads it."""
    _, _, command = told.partition("Test it with:\n")
    run, *lines = command.splitlines()
    words = shlex.split(" ".join(line.rstrip("\\") for line in lines[:2]))
    return [word.replace("$run", shlex.split(run)[0].removeprefix("run=")) for word in words]


def error_of(capsys: pytest.CaptureFixture[str], *args: str, command: str = "fit") -> str:
    return refusal(capsys, command, "--config", AT, *args)


def test_fit_says_how_to_test_and_test_obeys_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", "--config", AT, *QUICK])
    told = capsys.readouterr().out
    run = the_run(folder, "Digits/AT/fit-*")
    command = told_command(told)
    assert command[:2] == ["lightning-robust", "test"]
    assert (run / "checkpoints/last.ckpt").is_file()
    assert (run / "metrics.csv").is_file()
    assert (run / "figures/val-pgd10.png").is_file()
    assert Path(command[-1]).is_file()

    # the checkpoint stored eps 0.15; what is asked now wins, for the model's attack and for the evaluation's
    asked = ["--evaluation.attacks.pgd50.threat.eps=1/100", "--model.attack.threat.eps=1/50"]
    main([*command[1:], *asked, "--evaluation.check_samples=2"])
    tested = the_run(folder, "Digits/AT/test-*")
    report = json.loads((tested / "robustness.json").read_text())
    assert report["threat"]["eps"] == 0.01
    assert report["n"] == 450
    assert report["checkpoint"]["path"] == command[-1]
    config = yaml.safe_load((tested / "config.yaml").read_text())
    assert config["model"]["init_args"]["attack"]["init_args"]["threat"]["eps"] == "1/50"
    assert config["weights_only"] is True  # from a URL too, where Lightning's own default unpickles anything
    assert "robustness" not in capsys.readouterr().err


def radii(value: Any) -> list[float]:
    """Every `eps` in a report or a config."""
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    own = [to_float(value["eps"])] if isinstance(value, dict) and "norm" in value else []
    return own + [eps for child in children for eps in radii(child)]


@pytest.mark.slow
def test_one_radius_moves_training_selection_and_test(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--model.attack.threat.eps=8/255", "--trainer.max_epochs=3", "--trainer.callbacks+=LearningRateMonitor"]
    quick = [*QUICK, "--evaluation.attacks.pgd50.steps=2", "--evaluation.fit_attacks.pgd10.steps=2"]
    main(["fit", "--config", AT, *quick, *asked])
    run = the_run(folder, "Digits/AT/fit-*")
    config = run / "config.yaml"
    assert radii(yaml.safe_load(config.read_text())) == [8 / 255]
    assert set(radii(json.loads((run / "robustness.json").read_text()))) == {8 / 255}
    with (run / "metrics.csv").open() as file:
        rates = [float(row["lr-SGD"]) for row in csv.DictReader(file) if row["lr-SGD"]]
    assert rates == pytest.approx([0.1, 0.075, 0.025])  # a cosine over three epochs
    last = ["--ckpt_path", str(run / "checkpoints/last.ckpt")]
    main(["test", "--config", str(config), *last])
    (tested,) = folder.glob("runs/Digits/AT/test-*/robustness.json")
    told = json.loads(tested.read_text())
    assert set(radii(told)) == {8 / 255}
    assert "trained_at" not in told
    capsys.readouterr()
    main(["test", "--config", str(config), *last, "--evaluation.threat.eps=0.15"])
    assert "trained at linf 8/255, evaluated at linf 0.15" in capsys.readouterr().out
    (other,) = set(folder.glob("runs/Digits/AT/test-*/robustness.json")) - {tested}
    assert set(radii(json.loads(other.read_text()))) == {0.15}


@pytest.mark.slow
def test_runs_do_not_collide(folder: Path) -> None:
    for _ in range(3):
        main(["fit", "--config", STANDARD, *QUICK])
    runs = list(folder.glob("runs/Digits/Standard/fit-*"))
    assert len(runs) == 3
    assert all((run / "checkpoints/last.ckpt").is_file() for run in runs)


@pytest.mark.slow
def test_resuming_goes_on_in_the_same_folder(folder: Path) -> None:
    main(["fit", "--config", STANDARD, *QUICK])
    run = the_run(folder, "Digits/Standard/fit-*")
    last = str(run / "checkpoints/last.ckpt")
    main(["fit", "--config", STANDARD, *QUICK, "--trainer.max_epochs=2", "--ckpt_path", last])
    assert the_run(folder, "Digits/Standard/fit-*") == run
    assert len(list(run.glob("metrics*.csv"))) == 2  # what the first part logged is kept
    assert torch.load(last, weights_only=True)["global_step"] == 4


def under_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    job = {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "job", "SLURM_JOB_ID": "17", "SLURM_PROCID": "0"}
    job |= {"SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NTASKS_PER_NODE": "1"}
    for key, value in job.items():
        monkeypatch.setenv(key, value)


@pytest.mark.filterwarnings("ignore:.*there is no last checkpoint available")
@pytest.mark.slow
def test_a_requeued_job_goes_on_from_the_newest_that_was_left(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal of SLURM's leaves an `hpc_ckpt`, a kill only `last.ckpt`."""
    under_slurm(monkeypatch)
    monkeypatch.setenv("HOME", str(folder))
    started: list[str] = []

    class Notes(Callback):
        def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
            started.append(Path(trainer.ckpt_path or "nothing").name)

    monkeypatch.setattr("tests.cli.test_cli.Noting", Notes, raising=False)
    command = ["fit", "--config", STANDARD, *QUICK, "--trainer.callbacks+=tests.cli.test_cli.Noting"]
    command += ["--trainer.default_root_dir=~/runs"]
    for asked, expected in (("last", "last.ckpt"), (None, "nothing")):
        command += [f"--ckpt_path={asked}"] if asked else ["--seed_everything=1"]
        (started.clear(), main(command), main(command))
        newest = max(folder.glob("runs/Digits/Standard/*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
        shutil.copy(newest, newest.parents[1] / "hpc_ckpt_1.ckpt")
        os.utime(newest, (1, 1))
        main(command)
        os.utime(newest)
        main(command)
        assert started == ["nothing", expected, "hpc_ckpt_1.ckpt", "last.ckpt"]
        if asked:
            command.pop()
    assert not (folder / "~").exists()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_the_last_one_is_for_fit_alone(
    command: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    under_slurm(monkeypatch)
    with pytest.raises(SystemExit):
        main([command, "--config", STANDARD, "--ckpt_path=last"])
    assert "`--ckpt_path last` is for `fit`" in capsys.readouterr().err


@pytest.mark.slow
def test_a_slurm_job_finds_its_own_folder_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    under_slurm(monkeypatch)
    for number in ("17", "17", "18"):
        monkeypatch.setenv("SLURM_JOB_ID", number)
        main(["fit", "--config", STANDARD, *QUICK])
    first, second = sorted(run.name for run in folder.glob("runs/Digits/Standard/*"))
    assert first.startswith("fit-slurm-17-")
    assert second.startswith("fit-slurm-18-")


def test_testing_without_a_checkpoint_warns(folder: Path) -> None:
    with pytest.warns(UserWarning, match="No --ckpt_path was given"):
        main(
            [
                "test",
                "--config",
                STANDARD,
                *QUICK[2:],
                "--evaluation.attacks.pgd50.steps=1",
                "--evaluation.check_samples=0",
            ]
        )


@pytest.mark.parametrize("steps", [0, 50])
@pytest.mark.slow
def test_strict_ends_with_a_status_of_its_own(folder: Path, capsys: pytest.CaptureFixture[str], steps: int) -> None:
    """An attack of no steps is too weak to be trusted."""
    main(["fit", "--config", STANDARD, *QUICK, "--trainer.limit_train_batches=20"])
    last = str(the_run(folder, "Digits/Standard/fit-*") / "checkpoints/last.ckpt")
    capsys.readouterr()
    args = ["test", "--config", STANDARD, *QUICK, "--ckpt_path", last, f"--evaluation.attacks.pgd50.steps={steps}"]
    if steps:
        main([*args, "--evaluation.strict=true"])
        assert "error" not in capsys.readouterr().err
    else:
        main(args)  # without `strict`, it is printed below the table alone
        assert "attacks are too weak" in " ".join(capsys.readouterr().out.split())
        with pytest.raises(SystemExit) as stop:
            main([*args, "--evaluation.strict=true"])
        assert stop.value.code == 3
        # where that line goes depends on who took Lightning's messages first in this process
        told = [
            line for line in capsys.readouterr().err.splitlines() if not line.startswith("Loaded model weights from")
        ]
        assert [line.startswith("error: The evaluation is not to be trusted: APGD-T") for line in told] == [True]
        assert len(list(folder.glob("runs/Digits/Standard/test-*/samples.csv"))) == 2


def test_a_checkpoint_of_another_method_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", "--config", STANDARD, *QUICK])
    last = str(the_run(folder, "Digits/Standard/fit-*") / "checkpoints/last.ckpt")
    assert "written by Standard, not by AT: use the config it was" in error_of(
        capsys, *QUICK, "--ckpt_path", last, command="test"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--model.attack.stepz=3"], "model.attack: PGD has no setting 'stepz'; did you mean 'steps'?"),
        (["--model.attack.threat.norm=l3"], "model.attack.threat.norm: expected linf, l2, l1 or l0, got 'l3'."),
        (["--model.attack.threat.eps=-1"], "The radius eps must be a finite number >= 0, got -1.0."),
        (["--model.attack.threat.eps=8/x"], "'8/x' is neither a number nor a fraction such as '8/255'."),
        (["--model.attack.steps=-3"], "steps must be >= 0, got -3."),
        (["--model.attack.step_size=0"], "step_size must be > 0, got 0.0"),
        (["--model=TRADE"], "model: there is no class 'TRADE'"),
        (
            ["--model.scheduler=Cosine"],
            "model.scheduler: there is no class 'Cosine'; did you mean 'CosineAnnealingLR'?",
        ),
        (["--model.scheduler=MultistepLR"], "there is no class 'MultistepLR'; did you mean 'MultiStepLR'?"),
        (
            ["--model.scheduler.Tmax=3"],
            "model.scheduler: CosineAnnealingLR has no setting 'Tmax'; did you mean 'T_max'?",
        ),
        (["--model.scheduler.T_max=x"], "model.scheduler.T_max: expected an integer or null, got 'x'."),
        (
            ["--model.scheduler=torch.optim.lr_scheduler.CosineAnnealingLR"],
            "the following arguments are required: --model.scheduler.T_max",
        ),
        (["--data.val_sise=3"], "data: Digits has no setting 'val_sise'; did you mean 'val_size'?"),
        (["--evaluation.fit_atacks=3"], "evaluation has no setting 'fit_atacks'; did you mean 'fit_attacks'?"),
        (["--evalution.seed=3"], "there is no section 'evalution'; did you mean 'evaluation'?"),
        (["--ckpt_path=last"], "name the file"),
        (["--ckpt_path=nope.ckpt"], "There is no checkpoint 'nope.ckpt'."),
    ],
)
def test_bad_arguments_read_well(folder: Path, capsys: pytest.CaptureFixture[str], args: list[str], told: str) -> None:
    assert told in error_of(capsys, *args)
    assert not (folder / "runs").exists()


def test_a_misspelt_key_in_a_file_reads_well(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.yaml").write_text(Path(AT).read_text().replace("    attack:", "    attak:"))
    assert error_of(capsys, "--config=bad.yaml") == "error: model: AT has no setting 'attak'; did you mean 'attack'?"


def test_explain_leaves_plain_messages_alone() -> None:
    assert explain("something else went wrong") == "something else went wrong"


def test_print_config_and_help(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--config", AT, "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["init_args"]["attack"]["init_args"]["threat"]["eps"] == 0.15
    with pytest.raises(SystemExit):
        main(["fit", "--help-all"])
    assert "--evaluation.attacks" in capsys.readouterr().out
    assert "LIGHTNING_ROBUST_RUN" not in os.environ


def test_a_run_without_logger_keeps_to_its_folder(folder: Path) -> None:
    main(["fit", "--config", STANDARD, *QUICK, "--trainer.logger=false"])
    assert [path.name for path in folder.iterdir()] == ["runs"]


@pytest.mark.slow
def test_two_processes_train_and_test_in_one_folder(folder: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    ranks = ["--trainer.devices=2", "--trainer.strategy=ddp"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def run(*args: str) -> str:
        command = [*launch, "-m", "lightning_robust", *args, *QUICK, *ranks]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert not done.returncode, done.stderr
        return done.stdout

    told = run("fit", "--config", AT)
    assert told.count("Best checkpoint") == 1
    command = told_command(told)
    run(*command[1:], "--evaluation.attacks.pgd50.steps=2")
    report = json.loads((the_run(folder, "Digits/AT/test-*") / "robustness.json").read_text())
    assert (report["n"], report["devices"]) == (450, 2)
    the_run(folder, "Digits/AT/fit-*")


@pytest.mark.slow
def test_the_last_checkpoint_is_the_last_epochs_though_the_best_is_older(folder: Path) -> None:
    """Killed after an epoch that was no better, a run goes on from there and not from the best epoch."""
    still = "--model.optimizer.init_args.lr=0.0"  # no epoch is better than the first
    main(["fit", "--config", AT, *QUICK, "--trainer.max_epochs=3", still])
    (best,) = folder.rglob("best-*.ckpt")
    (last,) = folder.rglob("last*.ckpt")
    assert [torch.load(path, weights_only=True)["global_step"] for path in (best, last)] == [2, 6]
    main(["fit", "--config", AT, *QUICK, "--trainer.max_epochs=4", still, "--ckpt_path", str(last)])
    assert torch.load(last, weights_only=True)["global_step"] == 8
    assert len(list(folder.rglob("*.ckpt"))) == 2


def test_the_last_checkpoint_comes_as_often_as_the_best_is_looked_for(folder: Path) -> None:
    every = ["--checkpoint.every_n_train_steps=1", "--checkpoint.monitor=null", "--checkpoint.filename=best-{step}"]
    main(["fit", "--config", AT, *QUICK, "--trainer.limit_val_batches=0", *every])
    (last,) = folder.rglob("last*.ckpt")
    state = torch.load(last, weights_only=True)
    assert state["global_step"] == 2


def test_a_checkpoint_that_cannot_be_read_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.ckpt").write_text("junk")
    for command in ("fit", "test"):
        told = error_of(capsys, *QUICK, "--ckpt_path=bad.ckpt", command=command)
        assert re.match(r"error: bad.ckpt cannot be read as a checkpoint .*Give another", told)


class Plain(TorchCheckpointIO):
    """As Lightning has it."""


@pytest.mark.slow
def test_checkpoints_are_atomic_unless_a_plugin_of_ones_own_writes_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    save = TorchCheckpointIO.save_checkpoint

    def noted(self: TorchCheckpointIO, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        written.append(Path(path).name)
        save(self, checkpoint, path, storage_options)

    monkeypatch.setattr(TorchCheckpointIO, "save_checkpoint", noted)
    main(["fit", "--config", AT, *QUICK])
    assert not written
    main(["fit", "--config", AT, *QUICK, "--trainer.plugins=tests.cli.test_cli.Plain"])
    assert "last.ckpt" in written


def test_the_last_checkpoint_can_be_left_out(folder: Path) -> None:
    main(["fit", "--config", AT, *QUICK, "--checkpoint.save_last=false"])
    assert [path.name[:4] for path in folder.rglob("*.ckpt")] == ["best"]
