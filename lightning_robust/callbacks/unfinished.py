"""Going on with an evaluation that was killed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from lightning_robust.evaluation.description import describe
from lightning_robust.evaluation.evaluate import Evaluation
from lightning_robust.evaluation.fingerprint import fingerprint
from lightning_robust.evaluation.samples import Samples
from lightning_robust.evaluation.state import State
from lightning_robust.runtime.ranks import gather_objects


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
    folder = Path(state_dir or Path(trainer.default_root_dir, "unfinished"), f"{name}-{number}")
    state = State(folder)
    run.seconds = state.restore(samples, run.attacks, classes)
    trainer.strategy.barrier()  # nobody writes before all have read
    done = sum(gather_objects(int(samples.stages_done().sum())))
    if done:
        rank_zero_info(f"Resuming an unfinished evaluation. To start over, delete {folder}.")
    return state
