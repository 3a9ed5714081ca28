"""A run's folder holds the same files whatever the loggers, and files of the user stay as they are."""

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_robust.cli.main import main
from tests.cli.test_cli import AT, QUICK, STANDARD, folder, the_run  # noqa: F401

QUICKER = [*QUICK, "--trainer.limit_val_batches=2", "--model.attack.steps=1", "--evaluation.fit_attacks.pgd10.steps=1"]
MINE = "this: is mine\n"
TOLD = {"method": "AT", "norm": "linf", "eps": 0.15, "lr": 0.1, "batch_size": 128, "net": "SmallConvNet", "steps": 1}


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
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    report = json.loads((run / "robustness.json").read_text())
    logged = [float(row["val/worst_acc"]) for row in rows if row.get("val/worst_acc")]
    assert logged == [pytest.approx(report["worst"]["accuracy"])]
    assert (run / "figures/val-pgd10.png").is_file()
    (best,) = (run / "checkpoints").glob("best-*.ckpt")
    assert report["checkpoint"]["sha256"] == hashlib.sha256(best.read_bytes()).hexdigest()
    assert report["weights"] == "best checkpoint by val/worst_acc (max)"


def class_path(name: str, **settings: Any) -> dict[str, Any]:
    return {"class_path": f"lightning.pytorch.loggers.{name}", "init_args": settings}


@pytest.mark.parametrize("kind", ["default", "none", "one", "several"])
def test_a_run_has_its_files_under_any_loggers(kind: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    one = class_path("TensorBoardLogger", save_dir="board", name="mine", version="a")
    two = [one, class_path("CSVLogger", save_dir="table", name="mine", version="b")]
    run = fit(AT, {"default": None, "none": False, "one": one, "several": two}[kind])
    assert_whole(run)
    assert f"--config {run}/config.yaml --ckpt_path {run}/checkpoints/best-" in capsys.readouterr().out
    places = {
        "default": [run],
        "none": [run],
        "one": [run, "board/mine/a"],
        "several": [run, "board/mine/a", "table/mine/b"],
    }
    for place in places[kind]:
        told = yaml.safe_load(Path(place, "hparams.yaml").read_text())
        assert {name: told[name] for name in TOLD} == TOLD
    assert bool(list(Path("board").rglob("events.*"))) == (kind in ("one", "several"))
