"""A run's folder holds the same files whatever the loggers, and files of the user stay as they are."""

import csv
import hashlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_robust.cli.main import main
from tests.cli.test_cli import AT, QUICK, STANDARD, folder, the_run  # noqa: F401

pytestmark = pytest.mark.slow  # each starts the command line, which takes a third of a second and more

QUICKER = [*QUICK, "--trainer.limit_val_batches=2", "--model.attack.steps=1", "--evaluation.fit_attacks.pgd10.steps=1"]
MINE = "this: is mine\n"
TOLD = {"method": "AT", "norm": "linf", "eps": 0.15, "lr": 0.1, "batch_size": 64, "net": "SmallConvNet", "steps": 1}


def fit(config: str = AT, logger: Any = None, *more: str) -> Path:
    """Fit in a folder that has a `config.yaml` and others of the user's; gives the run's folder."""
    names = ("config.yaml", "metrics.csv", "robustness.json")
    for name in names:
        Path(name).write_text(MINE)
    if logger is not None:
        Path("logger.yaml").write_text(yaml.safe_dump({"trainer": {"logger": logger}}))
        more = ("--config", "logger.yaml", *more)
    main(["fit", "--config", config, *more, *(QUICK if config == STANDARD else QUICKER)])
    digests = {hashlib.md5(Path(name).read_bytes()).hexdigest() for name in names}
    assert digests == {hashlib.md5(MINE.encode()).hexdigest()}
    return the_run(Path(), "Digits/*/fit-*")


def assert_whole(run: Path) -> None:
    """The four things are in the run's folder, and what they say is this run's."""
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["class_path"].endswith("AT")
    rows = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    report = json.loads((run / "robustness.json").read_text())
    logged = [float(row["val/worst_acc"]) for row in rows if row.get("val/worst_acc")]
    assert logged == [pytest.approx(report["worst"]["accuracy"])]
    assert (run / "figures/val-pgd10.png").is_file()
    (best,) = (run / "checkpoints").glob("best-*.ckpt")
    assert report["checkpoint"]["sha256"] == hashlib.sha256(best.read_bytes()).hexdigest()
    assert report["weights"] == "best checkpoint by val/worst_acc (max)"


def class_path(kind: str, **settings: Any) -> dict[str, Any]:
    return {"class_path": f"lightning.pytorch.loggers.{kind}", "init_args": settings}


@pytest.mark.parametrize("kind", ["default", "none", "several"])
def test_a_run_has_its_files_under_any_loggers(kind: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    board = class_path("TensorBoardLogger", save_dir="board", name="mine", version="a")
    table = class_path("CSVLogger", save_dir="table", name="mine", version="b")
    run = fit(AT, {"default": None, "none": False, "several": [board, table]}[kind])
    assert_whole(run)
    told = capsys.readouterr().out
    assert f"run={run}\n" in told
    assert '--config "$run/config.yaml"' in told
    for place in [run, "board/mine/a", "table/mine/b"] if kind == "several" else [run]:
        found = yaml.safe_load(Path(place, "hparams.yaml").read_text())
        assert {name: found[name] for name in TOLD} == TOLD
    assert bool(list(Path("board").rglob("events.*"))) == (kind == "several")


def wandb_records(place: Path) -> Iterator[Any]:
    """Everything that Weights & Biases wrote offline: a LevelDB log of its protocol's records."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = place.glob("wandb/offline-run-*/run-*.wandb")
    content, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if (left := 32768 - at % 32768) < 7:
            at += left  # what is left of a block is too short for a header
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


@pytest.mark.slow
def test_weights_and_biases_offline(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Hyper-parameters and figures are read back from the files that it would upload."""
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    Path("tracked").mkdir()
    run = fit(AT, class_path("WandbLogger", save_dir="tracked", project="mine", offline=True))
    wandb.finish()
    wandb.teardown()  # another test's run has a folder of its own
    assert_whole(run)
    records = list(wandb_records(Path("tracked")))
    told: dict[str, Any] = {}
    for record in records:
        for config in (record.run.config, record.config):
            told |= {item.key: json.loads(item.value_json) for item in config.update if item.key}
    assert {name: told[name] for name in TOLD} == TOLD
    shown = {item.key or item.nested_key[0] for record in records for item in record.history.item}
    assert {"val/worst_acc", "val-pgd10"} <= shown
    assert list(Path("tracked").rglob("*.png"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of SQLAlchemy, in MLflow's tables
@pytest.mark.slow
def test_mlflow_in_a_database(folder: Path) -> None:  # noqa: F811
    """Hyper-parameters, numbers and figures are read back by MLflow's own client."""
    tracking = pytest.importorskip("mlflow.tracking")
    pytest.importorskip("alembic")
    settings = {"tracking_uri": "sqlite:///mine.db", "artifact_location": (folder / "artifacts").as_uri()}
    run = fit(AT, class_path("MLFlowLogger", **settings))
    assert_whole(run)
    client = tracking.MlflowClient("sqlite:///mine.db")
    (experiment,) = [found for found in client.search_experiments() if found.name == "lightning_logs"]
    (logged,) = client.search_runs([experiment.experiment_id])
    assert {name: logged.data.params[name] for name in TOLD} == {name: str(value) for name, value in TOLD.items()}
    report = json.loads((run / "robustness.json").read_text())
    assert logged.data.metrics["val/worst_acc"] == pytest.approx(report["worst"]["accuracy"])
    assert [file.path for file in client.list_artifacts(logged.info.run_id, "figures")] == ["figures/val-pgd10.png"]


@pytest.mark.slow
def test_a_resumed_run_keeps_the_config_of_its_earlier_part(folder: Path) -> None:  # noqa: F811
    run = fit(STANDARD)
    first = (run / "config.yaml").read_text()
    main(["fit", "--config", STANDARD, *QUICK, "--trainer.max_epochs=2", f"--ckpt_path={run}/checkpoints/last.ckpt"])
    assert "max_epochs: 2" in (run / "config.yaml").read_text()
    (before,) = run.glob("config-before-*.yaml")
    assert before.read_text() == first


def test_another_checkpoint_callback_lies_beside_and_is_not_the_best(folder: Path) -> None:  # noqa: F811
    more = ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.monitor=train/loss"]
    run = fit(STANDARD, None, *more, "--trainer.callbacks.filename=lowest")
    assert (run / "checkpoints/lowest.ckpt").is_file()
    report = json.loads((run / "robustness.json").read_text())
    assert Path(report["checkpoint"]["path"]).name.startswith("best-")
