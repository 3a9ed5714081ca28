"""How far the present attack is, shown in whichever progress bar the trainer has."""

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager

from lightning import Trainer
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar

from lightning_robust.attacks.base import Listener, watching

_EVERY = 0.2  # seconds between updates


@contextmanager
def attack_progress(trainer: Trainer, name: str) -> Iterator[None]:
    """Show the steps of the attacks run inside under this name: in the Rich or tqdm bar, if there is one."""
    bar = trainer.progress_bar_callback
    if isinstance(bar, RichProgressBar) and bar.is_enabled and bar.progress is not None:
        progress = bar.progress
        task = progress.add_task(f"[white]{name}", total=1, visible=False)
        show = functools.partial(progress.update, task, visible=True)
        with watching(_throttled(lambda done, total: show(completed=done, total=total))):
            try:
                yield
            finally:
                progress.remove_task(task)
    elif isinstance(bar, TQDMProgressBar) and bar.is_enabled:
        line = bar.test_progress_bar if trainer.testing else bar.val_progress_bar
        with watching(_throttled(lambda done, total: line.set_postfix_str(f"{name} {done}/{total}"))):
            try:
                yield
            finally:
                line.set_postfix_str("")
    else:
        yield


def _throttled(listener: Listener) -> Listener:
    last = time.monotonic()

    def listen(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _EVERY:
            last = time.monotonic()
            listener(done, total)

    return listen
