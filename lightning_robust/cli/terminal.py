"""What the command line shows while it runs."""

import logging
import shlex
import sys
import textwrap
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelSummary, ProgressBar
from lightning.pytorch.utilities.model_summary.model_summary import get_human_readable_count
from rich import get_console
from torch.nn.parameter import is_lazy

from lightning_robust.callbacks import EpochLines, RobustProgressBar

_NOISE = (
    *("💡 Tip", "GPU available", "TPU available", "LOCAL_RANK", "Restoring states"),
    *("`Trainer.fit` stopped: `max_epochs", "Trainer already configured with model summary"),
)
"""How messages of Lightning's begin that advertise, repeat what `StartLine` says, or say that all is well."""


class StartLine(Callback):
    """Prints what runs: method, net, number of parameters and devices."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Print it, before a strategy cuts the parameters up."""
        if not trainer.is_global_zero:
            return
        net = getattr(pl_module, "net", pl_module)
        sizes = [(p.numel(), p.requires_grad) for p in pl_module.parameters() if not is_lazy(p)]
        total, trained = sum(n for n, _ in sizes), sum(n for n, trains in sizes if trains)
        size, some = (get_human_readable_count(n).strip() for n in (total, trained))
        frozen = "" if total == trained else f", {some} of them trained"
        device = torch.cuda.get_device_name() if trainer.strategy.root_device.type == "cuda" else "CPU"
        method = f"{type(pl_module).__name__}, {type(net).__name__}"
        print(f"{method}: {size} parameters{frozen}, on {trainer.world_size} x {device}")


def with_terminal(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """Add what shows on the terminal to a trainer's callbacks; a bar or a summary among them stays as it is.

    Args:
        trainer: the trainer's arguments. `enable_progress_bar: false` also turns off the line an epoch,
            `enable_model_summary: false` the line at the start.

    Returns:
        The arguments that change.
    """
    given = trainer["callbacks"]
    callbacks = [given] if isinstance(given, Callback) else list(given or ())
    if trainer["enable_model_summary"] is not False and not any(isinstance(c, ModelSummary) for c in callbacks):
        callbacks.append(StartLine())
    if trainer["enable_progress_bar"] is not False:
        callbacks.append(EpochLines())
        if not any(isinstance(callback, ProgressBar) for callback in callbacks):
            callbacks.append(RobustProgressBar())
    return {"callbacks": callbacks, "enable_model_summary": False}


def how_to_test(config: Path, checkpoint: Path) -> str:
    """Give the lines for the shell that test a checkpoint, short enough for a terminal where the folders allow it."""
    run = config.parent
    settings, weights = _within(run, config), _within(run, checkpoint)
    return f"run={shlex.quote(str(run))}\nlightning-robust test --config {settings} \\\n  --ckpt_path {weights}"


def _within(run: Path, path: Path) -> str:
    """Write a path for the shell, by its variable `run` where it lies in that folder."""
    if not path.is_relative_to(run):
        return shlex.quote(str(path))
    inside = str(path.relative_to(run))
    return f'"$run/{inside}"' if shlex.quote(inside) == inside else f'"$run"/{shlex.quote(inside)}'


class _Messages(logging.Handler):
    """Writes to where stderr is at that time, so that lines stand above a progress bar and not in it."""

    def emit(self, record: logging.LogRecord) -> None:
        message = self.format(record)
        what, at, path = message.partition(" from the checkpoint at ")
        if at and sys.stderr.isatty():
            message = f"{what} from {_tail(path, get_console().width - len(what) - 6)}"
        if not message.startswith(_NOISE):
            print(_folded(message), file=sys.stderr)


def _folded(text: str) -> str:
    """Break a text between words where the terminal's lines end; whatever is no terminal keeps whole lines."""
    if not sys.stderr.isatty():
        return text
    width = get_console().width
    lines = (textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False) for line in text.splitlines())
    return "\n".join(lines)


def _tail(text: str, width: int) -> str:
    """Give the end of a text that is too long."""
    return text if len(text) <= width else f"…{text[len(text) - width + 1 :]}"


def _warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Give a warning's text, without the place in the code where it is a word to the user."""
    place = "" if issubclass(category, UserWarning) else f"{filename}:{lineno}: {category.__name__}: "
    return f"{_folded(f'warning: {place}{message}')}\n"


@contextmanager
def calm() -> Iterator[None]:
    """Leave out what Lightning says that nobody needs, and fold what is longer than a line."""
    # once pytorch_lightning is imported, too, both packages' messages go to its logger
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "pytorch_lightning")]
    handlers, form = [logger.handlers for logger in loggers], warnings.formatwarning
    for logger in loggers:
        if logger.handlers:  # else someone else collects the messages
            logger.handlers = [_Messages()]
    warnings.formatwarning = _warning
    try:
        yield
    finally:
        for logger, own in zip(loggers, handlers, strict=True):
            logger.handlers = own
        warnings.formatwarning = form
