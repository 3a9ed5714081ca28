"""How far an evaluation is, shown in whichever progress bar the trainer has."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeAlias

from lightning import Trainer
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from lightning_robust.attacks import progress
from lightning_robust.evaluation.evaluate import Watch

_EVERY = 0.2  # seconds between updates

Show: TypeAlias = Callable[[float, str], None]
"""Puts the number of samples done, and a title, on the screen."""


def evaluation_progress(trainer: Trainer) -> Watch:
    """One line for each stage: its samples done, the time left, and the upper bound on worst-case accuracy so far."""

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
                finished, title = finished + number, f"{stage} <= {bound:.2%}"
                show(finished, title)

            with progress.listen(step):
                yield tell

    return watch


def _line(trainer: Trainer, stage: str, n: int) -> AbstractContextManager[Show]:
    bar = trainer.progress_bar_callback
    if isinstance(bar, RichProgressBar) and bar.is_enabled and bar.progress is not None:
        return _rich_line(bar, stage, n)
    if isinstance(bar, TQDMProgressBar) and bar.is_enabled:
        return _tqdm_line(stage, n)
    return _no_line()


@contextmanager
def _rich_line(bar: RichProgressBar, stage: str, n: int) -> Iterator[Show]:
    progress = bar.progress
    assert progress is not None
    task = progress.add_task(f"[white]{stage}", total=n)
    try:
        yield lambda done, title: progress.update(task, completed=done, description=f"[white]{title}")
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
def _no_line() -> Iterator[Show]:
    yield lambda done, title: None
