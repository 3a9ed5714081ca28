"""A progress bar that fits into 80 columns and shows the loss of the step."""

from collections.abc import Mapping
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import CustomBarColumn
from rich.progress import ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text
from torch import Tensor

from lightning_robust.runtime.host_value import HostValue
from lightning_robust.utils.messages import duration


class TimeLeft(ProgressColumn):
    """The time a task still needs, in words."""

    def render(self, task: Task) -> Text:
        """Give the time left, or nothing while it is unknown."""
        left = task.time_remaining
        return Text("" if left is None or task.finished else f"{duration(left, digits=0)} left", style="dim")


class RobustProgressBar(RichProgressBar):
    """Lightning's Rich bar with the loss of the step, epochs counted from 1, and at most 80 columns.

    It goes when the run is over: what stays on the screen is what was printed, as `EpochLines` does. It never waits
    for the device: on a GPU the loss shown may be a few steps old.

    Args:
        refresh_rate: times a second that the bar is drawn; 0 for never.
    """

    def __init__(self, refresh_rate: int = 5) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self._loss = HostValue()

    def configure_columns(self, trainer: Trainer) -> list[ProgressColumn]:
        """Give what a line shows: description, bar, how many of how many, and the time left."""
        whole = Column(no_wrap=True)  # the bar gives way first
        return [
            TextColumn("{task.description}"),
            CustomBarColumn(bar_width=16),
            TextColumn("{task.completed:.0f}/{task.total:.0f}", table_column=whole),
            TimeLeft(table_column=whole),
        ]

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Give the loss of a recent step."""
        if self._loss.value is None:
            return {}
        return {"loss": self._loss.value * trainer.accumulate_grad_batches}  # Lightning divides by it

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the step's loss and advance."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if self.is_enabled and isinstance(loss, Tensor):
            self._loss.follow(loss)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def _init_progress(self, trainer: Trainer) -> None:
        super()._init_progress(trainer)
        if self.progress is not None:
            self.progress.live.transient = True

    def _get_train_description(self, current_epoch: int) -> str:
        """Count as people do, and as `EpochLines` does."""
        of = "" if self.trainer.max_epochs in (None, -1) else f"/{self.trainer.max_epochs}"
        return f"epoch {current_epoch + 1}{of}"
