"""A start that fails leaves no run folder behind."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from lightning_robust.cli.devices import launched_rank

_SCRAPS = ("config.yaml", "hparams.yaml", "events.out.tfevents.*")
"""Files that loggers and the command line write before anything has happened."""


@contextmanager
def leaves_nothing_if_it_fails(
    folder: Path, has_results: Callable[[], bool], is_void: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """Remove the run's folder, and those above it, if the block made them and ended with an error before any result.

    A folder that was there before stays, as does one that holds any file besides what every start writes.

    Args:
        folder: the run's.
        has_results: whether training has come further than its start.
        is_void: whether what was found so far is of no use, as the run can never go on; checkpoints are kept.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    except BaseException:
        if made and not launched_rank() and ((not has_results() and _holds_scraps_alone(folder)) or is_void()):
            shutil.rmtree(folder, ignore_errors=True)
            for path in made[1:]:
                _remove_if_empty(path)
        raise


def _holds_scraps_alone(folder: Path) -> bool:
    files = [path for path in folder.rglob("*") if not path.is_dir()]
    return all(any(fnmatch(path.name, scrap) for scrap in _SCRAPS) for path in files)


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:  # another run has begun in it, or it is not there
        return
