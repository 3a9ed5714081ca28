"""Going on with an evaluation that was killed, and ending one so that it can."""

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import nn

from lightning_robust.evaluation.description import describe
from lightning_robust.evaluation.evaluate import Evaluation
from lightning_robust.evaluation.fingerprint import fingerprint
from lightning_robust.evaluation.samples import Samples
from lightning_robust.evaluation.state import State
from lightning_robust.runtime.ranks import gather_objects
from lightning_robust.utils.files import inner_folder


def go_on(
    trainer: Trainer,
    net: nn.Module,
    samples: Samples,
    run: Evaluation,
    classes: int,
    number: int,
    state_dir: str | None,
    about: Mapping[str, Any],
) -> State:
    """Restore the results of an earlier evaluation that was killed; all ranks call it together.

    Args:
        trainer: in its evaluation loop.
        net: the net under evaluation.
        samples: its samples, whose verdicts and examples are restored.
        run: the evaluation that goes on, whose seconds are.
        classes: number of classes that the net tells apart.
        number: which of the data loaders it is.
        state_dir: where unfinished evaluations are kept; by default `unfinished` in the trainer's root directory.
        about: what else must not change in between, as plain data.

    Returns:
        What saves the results so far, and is to be discarded at the end.
    """
    attacks = {name: describe(attack) for name, attack in run.attacks.items()}
    stage = "test" if trainer.testing else "validate"
    settings = {"stage": stage, "attacks": attacks, "seed": run.seed, "precision": run.precision, **about}
    settings["exactly"] = run.attacks  # with the tensors and functions that a description only names
    name = gather_objects(fingerprint(net, settings))[0]  # batch norms of other ranks may have seen other samples
    place = Path(state_dir) if state_dir else inner_folder(Path(trainer.default_root_dir), "unfinished")
    folder = place / f"{name}-{number}"
    state = State(folder)
    run.seconds = state.restore(samples, run.attacks, classes)
    trainer.strategy.barrier()  # nobody writes before all have read
    done = sum(gather_objects(int(samples.stages_done().sum())))
    if done:
        rank_zero_info(f"Resuming an unfinished evaluation. To start over, delete {folder}.")
    return state


@contextmanager
def ends_on_sigterm(trainer: Trainer) -> Iterator[None]:
    """End the block where a SIGTERM comes, as Ctrl-C would: what was saved until then is kept.

    Lightning notes the signal and ends after a batch of the loader, but attacks run after the last of these. On several
    ranks it also waits, within its handler, for ranks that may be somewhere else. Inside fit, which keeps no verdicts,
    its handler stays: the validation ends, its checkpoint is saved, and then the run ends.

    Args:
        trainer: in its evaluation loop.

    Raises:
        SIGTERMException: a SystemExit that says how to go on; also for a signal that Lightning has noted before.
    """
    ended = SIGTERMException(
        "SIGTERM has ended the evaluation. What it found is kept: run the same command again, and it goes on there."
    )

    def end(number: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
        if (launcher := trainer.strategy.launcher) is not None:
            launcher.kill(number)
        raise ended

    # Python handles signals in the main thread alone
    if trainer.state.fn == "fit" or threading.current_thread() is not threading.main_thread():
        yield
        return
    if trainer.received_sigterm:
        raise ended
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
