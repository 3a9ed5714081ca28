"""The learning rate in proportion to the samples of a step, also of a run that goes on with others."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch.optim.lr_scheduler import LinearLR, MultiStepLR, SequentialLR

from lightning_robust.defenses import AT, Standard
from tests.helpers.ddp import quiet_trainer
from tests.helpers.few import Few, plain_net

SCHEDULES: dict[str, Any] = {
    "none": None,
    "steps": lambda o: MultiStepLR(o, [1, 3], 0.1),
    "warm-up": lambda o: SequentialLR(o, [LinearLR(o, 0.5, total_iters=2), MultiStepLR(o, [1])], [2]),
}


def rates(schedule: str, batch_size: int, base: int | None, folder: Path | None, until: int, ckpt: Any = None) -> Any:
    """The rate of each epoch, and the trainer."""
    found: list[float] = []

    class Told(Standard):
        def on_train_epoch_start(self) -> None:
            found.append(self.trainer.optimizers[0].param_groups[0]["lr"])

    defense = Told(
        plain_net(),
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
        scheduler=SCHEDULES[schedule],
        base_batch_size=base,
    )
    trainer = quiet_trainer(max_epochs=until, limit_val_batches=0)
    trainer.fit(defense, Few(n=24, batch_size=batch_size), ckpt_path=ckpt)
    if folder is not None:
        trainer.save_checkpoint(folder / "run.ckpt")
    return found


@pytest.mark.filterwarnings(
    "ignore:The epoch parameter in `scheduler.step", "ignore:Please also save or load the state"
)
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("batch_size", [2, 8])
@pytest.mark.slow
def test_a_run_goes_on_with_the_rates_of_its_batches(schedule: str, batch_size: int, tmp_path: Path) -> None:
    rates(schedule, 4, 4, tmp_path, until=2)
    whole = rates(schedule, batch_size, 4, None, until=5)
    assert rates(schedule, batch_size, 4, None, until=5, ckpt=tmp_path / "run.ckpt") == pytest.approx(whole[2:])
    without = rates(schedule, 4, None, None, until=5)
    rates(schedule, 4, None, tmp_path, until=2)
    assert rates(schedule, batch_size, None, None, until=5, ckpt=tmp_path / "run.ckpt") == pytest.approx(without[2:])


def test_one_rate_for_batches_that_change_is_refused() -> None:
    trainer = quiet_trainer(max_epochs=1, callbacks=[GradientAccumulationScheduler({0: 1, 2: 4})])
    with pytest.raises(ValueError, match="GradientAccumulationScheduler changes the samples of a step"):
        trainer.fit(AT(plain_net(), base_batch_size=4), Few())
