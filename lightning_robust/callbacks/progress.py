"""Shows how far an evaluation is, in whichever progress bar the trainer has."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeAlias

from lightning import Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from rich.markup import escape

from lightning_robust.attacks import progress
from lightning_robust.evaluation.evaluate import Watch
from lightning_robust.utils.messages import duration
from lightning_robust.utils.named_class import is_named

_EVERY = 0.2  # seconds between updates

Show: TypeAlias = Callable[[float, str], None]
"""Puts the number of samples done, and a title, on the screen."""


def evaluation_progress(trainer: Trainer, bounded: str = "accuracy") -> Watch:
    """Follow an evaluation on the screen of rank 0.

    A stage is a line of the trainer's Rich or tqdm bar while it runs: samples done, time left, and the upper bound on
    worst-case accuracy so far. Where the Rich bar writes to a file, `validate` and `test` print a line when a stage is
    over. Without a progress bar nothing is shown.

    Args:
        trainer: in its evaluation loop.
        bounded: what the share of the samples that still stand is called.
    """

    @contextmanager
    def watch(stage: str, n: int, batch_size: int) -> Iterator[Callable[[int, float], None]]:
        finished, title = 0, stage
        with _line(trainer, stage, n) as show:
            last = time.monotonic()

            def step(k: int, total: int) -> None:
                nonlocal last
                if time.monotonic() - last >= _EVERY:
                    last = time.monotonic()
                    show(finished + min(batch_size, n - finished) * k / total, title)

            def tell(number: int, bound: float) -> None:
                nonlocal finished, title
                finished, title = finished + number, f"{stage}: {bounded} <= {bound:.2%}"
                show(finished, title)

            with progress.listen(step):
                yield tell

    return watch


def _line(trainer: Trainer, stage: str, n: int) -> AbstractContextManager[Show]:
    bar: Any = trainer.progress_bar_callback
    if is_named(bar, "RichProgressBar") and bar.is_enabled and bar.progress is not None:
        console = bar.progress.console
        if console.is_terminal or console.is_jupyter:
            return _rich_line(bar, stage, n)
        if trainer.state.fn != "fit":
            return _printed_line(n)
    if is_named(bar, "TQDMProgressBar") and bar.is_enabled:
        return _tqdm_line(stage, n)
    return _no_line()


@contextmanager
def _rich_line(bar: RichProgressBar, stage: str, n: int) -> Iterator[Show]:
    progress = bar.progress
    assert progress is not None
    task = progress.add_task(escape(stage), total=n)

    def show(done: float, title: str) -> None:
        progress.update(task, completed=done, description=escape(title))
        bar.refresh()  # the bar draws nothing by itself

    try:
        yield show
    finally:
        progress.remove_task(task)


@contextmanager
def _tqdm_line(stage: str, n: int) -> Iterator[Show]:
    with Tqdm(desc=stage, total=n, leave=False, dynamic_ncols=True, unit="sample") as line:

        def show(done: float, title: str) -> None:
            line.set_description(title, refresh=False)
            line.n = round(done, 2)
            line.refresh()

        yield show


@contextmanager
def _printed_line(n: int) -> Iterator[Show]:
    begun, last = time.monotonic(), ""

    def show(done: float, title: str) -> None:
        nonlocal last
        last = title

    yield show
    if last:
        print(f"{last}, {n} samples in {duration(time.monotonic() - begun)}", flush=True)


@contextmanager
def _no_line() -> Iterator[Show]:
    yield lambda done, title: None
