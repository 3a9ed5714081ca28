"""The loggers of a run: those that were asked for, and always its own `metrics.csv`."""

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from lightning_robust.cli.devices import launched_rank
from lightning_robust.utils.files import set_aside


def run_loggers(asked: Logger | Iterable[Logger] | bool | None, folder: Path) -> list[Logger]:
    """Return the loggers of a run, of which the last one that the config did not name writes `metrics.csv`.

    A run that goes on in its folder keeps what its earlier parts logged there.

    Args:
        asked: what the config has as `trainer.logger`. By default, TensorBoard where it is installed; False for none.
        folder: the run's.
    """
    if not launched_rank():
        set_aside(folder / "metrics.csv")
        if (folder / "hparams.yaml").is_symlink():  # which the loggers would write through
            set_aside(folder / "hparams.yaml")
    csv = CSVLogger(str(folder.parent), name="", version=folder.name)
    if isinstance(asked, Logger):
        return [asked, csv]
    if asked is False:
        return [csv]
    if asked is not None and asked is not True:
        return [*asked, csv]
    if not find_spec("tensorboard"):
        return [csv]
    return [csv, TensorBoardLogger(str(folder.parent), name="", version=folder.name, default_hp_metric=False)]
