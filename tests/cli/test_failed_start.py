"""A start that fails leaves nothing, and takes nothing that was there."""

from pathlib import Path

import pytest

from lightning_robust.cli.failed_start import leaves_nothing_if_it_fails


def fail(folder: Path, *files: str, results: bool = False) -> None:
    def start() -> None:
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).touch()
        raise KeyError

    with pytest.raises(KeyError), leaves_nothing_if_it_fails(folder, lambda: results):
        start()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "runs/Digits/AT/fit-1"


def test_all_that_it_made_goes(run: Path, tmp_path: Path) -> None:
    fail(run, "config.yaml", "hparams.yaml", "events.out.tfevents.1.host")
    assert not list(tmp_path.iterdir())


def test_a_start_that_made_nothing_is_fine(run: Path, tmp_path: Path) -> None:
    fail(run)
    assert not list(tmp_path.iterdir())


def test_other_runs_stay(run: Path) -> None:
    other = run.with_name("fit-0") / "checkpoints/last.ckpt"
    other.parent.mkdir(parents=True)
    other.touch()
    fail(run, "config.yaml")
    assert not run.exists()
    assert other.exists()


def test_a_run_that_begins_at_the_same_time_stays(run: Path) -> None:
    """It is not this start's, though it lies in a folder that this one made."""
    fail(run, "config.yaml", "../fit-2/config.yaml")
    assert [path.name for path in run.parent.iterdir()] == ["fit-2"]


def test_a_folder_that_was_there_stays_whole(run: Path) -> None:
    run.mkdir(parents=True)
    fail(run, "config.yaml")
    assert (run / "config.yaml").exists()


@pytest.mark.parametrize("result", ["checkpoints/last.ckpt", "robustness.json", "figures/a.png", "notes.txt"])
def test_whatever_else_is_there_counts_as_a_result(result: str, run: Path) -> None:
    fail(run, "config.yaml", result)
    assert sorted(path for path in run.rglob("*") if path.is_file()) == sorted([run / "config.yaml", run / result])


def test_a_run_that_trained_is_no_failed_start(run: Path) -> None:
    fail(run, "config.yaml", results=True)
    assert (run / "config.yaml").exists()


def test_a_run_that_went_well_stays(run: Path) -> None:
    with leaves_nothing_if_it_fails(run, lambda: False):
        run.mkdir(parents=True)
    assert run.is_dir()
