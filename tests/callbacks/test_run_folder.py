"""Where callbacks write: the first logger's directory or the trainer's, and never over what lies there."""

from pathlib import Path
from typing import Any

import pytest
from lightning import Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger

from lightning_robust.attacks import PGD
from lightning_robust.callbacks import RobustEvaluation
from lightning_robust.callbacks.run_folder import run_folder
from tests.helpers.ddp import quiet_trainer
from tests.helpers.foreign import ForeignModule, loader


class Elsewhere(DummyLogger):
    """Keeps its own files in a place of its own, as Weights & Biases or MLflow do."""

    @property
    def save_dir(self) -> str:
        return "elsewhere"


def after_test(folder: Path, logger: Any = False) -> Trainer:
    callback = RobustEvaluation({"pgd": PGD(steps=1)}, figure_samples=1, check_samples=0)
    trainer = quiet_trainer(default_root_dir=folder, logger=logger, callbacks=[callback])
    trainer.test(ForeignModule(), loader(4), verbose=False)
    return trainer


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_follows_the_first_logger_if_that_keeps_files(tmp_path: Path) -> None:
    csv = CSVLogger(tmp_path, name="csv", version=3)
    board = TensorBoardLogger(str(tmp_path), name="board", version="b")
    cases: list[tuple[list[Logger], str]] = [
        ([csv], "csv/version_3"),
        ([board, csv], "board/b"),
        ([Elsewhere(), csv], ""),
        ([], ""),
    ]
    for loggers, place in cases:
        trainer = quiet_trainer(default_root_dir=tmp_path, logger=loggers or False)
        assert run_folder(trainer) == tmp_path / place


def test_one_trainer_writes_to_one_place(tmp_path: Path) -> None:
    trainer = after_test(tmp_path)
    trainer.validate(trainer.lightning_module, loader(4), verbose=False)
    assert run_folder(trainer) == tmp_path
    assert not list(tmp_path.glob("run-*"))


@pytest.mark.parametrize("logger", [False, True])
def test_another_trainer_leaves_the_first_ones_files_alone(logger: bool, tmp_path: Path) -> None:
    def again() -> Trainer:
        return after_test(tmp_path, TensorBoardLogger(str(tmp_path), name="", version="") if logger else False)

    again()
    before = contents(tmp_path)
    for number in (1, 2):
        assert run_folder(again()) == tmp_path / f"run-{number}"
    after = contents(tmp_path)
    assert {path: after[path] for path in before} == before
    for number in (1, 2):
        names = {path.relative_to(tmp_path / f"run-{number}") for path in after if f"run-{number}" in path.parts}
        assert Path("robustness.json") in names
        assert Path("figures/test-pgd.png") in names


@pytest.mark.parametrize("name", ["robustness.json", "robustness-1.json", "samples.csv", "figures/mine.pdf"])
def test_a_file_of_the_users_is_left_alone(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    assert run_folder(after_test(tmp_path)) == tmp_path / "run-1"
    assert (tmp_path / name).read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} - {"unfinished"} == {name.split("/")[0], "run-1"}


def test_other_files_are_no_reason_to_move(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("mine")
    (tmp_path / "figures").mkdir()
    assert run_folder(after_test(tmp_path)) == tmp_path


def test_trainers_of_the_tests_write_nowhere_near_the_sources() -> None:
    folders = [run_folder(quiet_trainer()) for _ in range(2)]
    assert folders[0] != folders[1]
    assert not any(folder == Path.cwd() or Path.cwd() in folder.parents for folder in folders)
