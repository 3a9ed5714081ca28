"""Going on with an evaluation that was killed."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from lightning_robust.callbacks.collected import Collected
from lightning_robust.evaluation.description import describe
from lightning_robust.evaluation.evaluate import Evaluation
from lightning_robust.evaluation.fingerprint import fingerprint
from lightning_robust.evaluation.state import State
from lightning_robust.runtime.ranks import gather_objects


def go_on(
    trainer: Trainer,
    net: nn.Module,
    collected: Collected,
    run: Evaluation,
    number: int,
    state_dir: str | None,
    about: Mapping[str, Any],
) -> Callable[[], None]:
    """Restore the results of an earlier evaluation that was killed; all ranks call it together.

    Args:
        trainer: in its evaluation loop.
        net: the net under evaluation.
        collected: its samples, whose verdicts are restored; it keeps the state, which is discarded at the end.
        run: the evaluation that goes on.
        number: which of the data loaders it is.
        state_dir: where unfinished evaluations are kept; by default `unfinished` in the trainer's root directory.
        about: what else must not change in between, as plain data.

    Returns:
        The function that saves the results so far.
    """
    attacks = {name: describe(attack) for name, attack in run.attacks.items()}
    stage = "test" if trainer.testing else "validate"
    settings = {"stage": stage, "attacks": attacks, "seed": run.seed, "precision": run.precision, **about}
    settings["exactly"] = run.attacks  # with the tensors and functions that a description only names
    name = gather_objects(fingerprint(net, settings))[0]  # batch norms of other ranks may have seen other samples
    folder = Path(state_dir or Path(trainer.default_root_dir, "unfinished"), f"{name}-{number}")
    state = collected.state = State(folder)
    for extra in state.restore(collected.samples):
        run.resume(extra)
    trainer.strategy.barrier()  # nobody writes before all have read
    done = sum(gather_objects(int(collected.samples.stages_done().sum())))
    if done:
        rank_zero_info(f"Resuming an unfinished evaluation. To start over, delete {folder}.")
    return lambda: state.save(collected.samples, run.extra())
