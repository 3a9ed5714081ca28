"""`lightning-robust plan`: how long a recipe will take on this machine, measured by a few of its steps."""

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from rich.console import Console
from rich.table import Table

from lightning_robust.callbacks import RobustEvaluation
from lightning_robust.cli.stopwatch import Stopwatch, attack_seconds
from lightning_robust.evaluation.stages import named_stages
from lightning_robust.utils.messages import duration


@dataclass(frozen=True)
class Plan:
    """The time and memory that a recipe will take, in seconds on the devices at hand.

    Args:
        epochs: number of epochs of the recipe.
        steps: number of steps of an epoch.
        devices: number of devices at hand.
        step: seconds of a training step, the mean over epochs spread over the recipe.
        attack_share: share of a step that the attack takes.
        images_per_second: images a second in training, on all devices together.
        fit: seconds of the whole fit, with its validations.
        memory: peak memory in MiB, of a GPU or of the process; None where the system does not tell.
        attacks: seconds of each attack on the test set, an upper bound.
    """

    epochs: int
    steps: int
    devices: int
    step: float
    attack_share: float
    images_per_second: float
    fit: float
    memory: float | None
    attacks: dict[str, float]

    @property
    def test(self) -> float:
        """Seconds that all attacks of the test take together."""
        return sum(self.attacks.values())

    def table(self, devices: Sequence[int]) -> Table:
        """Return a table for the screen: for the devices at hand, and for other numbers of their kind."""
        kind = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        table = Table(title=f"{self.epochs} epochs of {self.steps} steps on {self.devices} x {kind}")
        table.add_column("what")
        table.add_column("takes", justify="right")
        table.add_row("a training step", f"{1000 * self.step:.1f} ms, {self.attack_share:.0%} of it the attack")
        table.add_row("images a second", f"{self.images_per_second:.1f}")
        if self.memory is not None:
            table.add_row("peak memory", f"{self.memory:.0f} MiB")
        for name, seconds in {"fit": self.fit, **{f"test: {k}": v for k, v in self.attacks.items()}}.items():
            table.add_row(name, duration(seconds))
        for n in devices:
            scaled = self.devices / n
            words = f"fit {duration(scaled * self.fit)}, test {duration(scaled * self.test)}"
            table.add_row(f"on {n} device{'s' * (n > 1)}, none waiting", words)
        return table


class RobustTrainer(Trainer):
    """Lightning's trainer, which can also say how long a recipe would take."""

    planned: Plan | None = None
    """What `plan` found last."""

    run_folder: Path | None = None
    """Where this run's files go; None leaves it to `lightning_robust.callbacks.run_folder`."""

    def plan(
        self,
        model: Any,
        datamodule: Any,
        steps: int = 20,
        devices: Sequence[int] = (1, 8),
        seconds: float = 10.0,
    ) -> Plan:
        """Measure a few steps on this machine, and print how long the recipe will take.

        The command line leaves nothing; here the recipe's own callbacks write what they write.

        Args:
            model: the defense; afterwards its weights are of no use.
            datamodule: the data, which must be there.
            steps: training steps that are measured in each of six epochs.
            devices: numbers of devices of this kind for which hours are printed.
            seconds: after which an attack of the evaluation is extrapolated.

        Raises:
            ValueError: for a recipe without `max_epochs`.
        """
        epochs = self.max_epochs
        if epochs is None or epochs < 1:
            raise ValueError("A plan needs the number of epochs: set trainer.max_epochs.")
        limits = self.limit_train_batches, self.limit_val_batches
        every = self.check_val_every_n_epoch or 1
        self.limit_train_batches, self.limit_val_batches = (_least(limit, steps) for limit in limits)
        self.check_val_every_n_epoch, self.num_sanity_val_steps = 1, 0
        stopwatch = Stopwatch(epochs)
        self.callbacks.append(stopwatch)  # type: ignore[attr-defined]
        self.fit(model, datamodule=datamodule)
        self.callbacks.remove(stopwatch)  # type: ignore[attr-defined]
        drawing, drawings = self._drawing(stopwatch, epochs, every)
        first, probes = stopwatch.measured[0], stopwatch.measured[1:] or stopwatch.measured
        full = [_batches(limit, n) for limit, n in zip(limits, self._batches(), strict=True)]
        seen = self.num_training_batches, sum(self.num_val_batches)
        usual = statistics.mean(probe.whole(int(seen[0]), 1) for probe in probes)
        once = first.began - stopwatch.began + max(first.whole(int(seen[0]), 1) - usual, 0.0)
        epoch = statistics.mean(probe.whole(full[0], full[1] / max(seen[1], 1) / every) for probe in probes)
        step = statistics.mean(probe.step for probe in probes)
        self.planned = Plan(
            epochs=epochs,
            steps=full[0],
            devices=self.world_size,
            step=step,
            attack_share=sum(probe.attack for probe in probes) / sum(probe.ends[-1] - probe.began for probe in probes),
            images_per_second=datamodule.batch_size * self.world_size / step,
            fit=once + epochs * epoch + drawings * drawing,
            memory=_peak_memory(),
            attacks=self._attacks(model, datamodule, seconds),
        )
        if self.is_global_zero:
            Console().print(self.planned.table(devices))
        return self.planned

    def _drawing(self, stopwatch: Stopwatch, epochs: int, every: int) -> tuple[float, int]:
        """Take the seconds of a validation's figures out of the epochs; return them and how often they are drawn."""
        evaluation = self._evaluation()
        draws = [e for e in range(epochs) if evaluation and evaluation.draws_after(e, epochs)]
        measured = list(zip(stopwatch.chosen, stopwatch.measured, strict=True))
        drawn = [probe for e, probe in measured if e in draws]
        plain = [probe.validation for e, probe in measured if e not in draws]
        if not drawn or not plain:
            return 0.0, 0
        seconds = max(min(probe.validation for probe in drawn) - statistics.mean(plain), 0.0)
        for probe in drawn:
            probe.validation -= seconds
        return seconds, sum((e + 1) % every == 0 for e in draws)

    def _evaluation(self) -> RobustEvaluation | None:
        return next((c for c in self.callbacks if isinstance(c, RobustEvaluation)), None)  # type: ignore[attr-defined]

    def _batches(self) -> tuple[int, int]:
        """Return the number of batches of an epoch and of a validation, without Lightning's limits."""
        train: Any = self.train_dataloader
        val: Any = self.val_dataloaders or ()
        return len(train), sum(len(loader) for loader in (val if isinstance(val, (list, tuple)) else (val,)))

    def _attacks(self, model: Any, datamodule: Any, seconds: float) -> dict[str, float]:
        """Return the seconds of each attack on the test set, on the devices at hand."""
        evaluation = self._evaluation()
        datamodule.setup("test")
        loader = datamodule.test_dataloader()
        given = datamodule.transfer_batch_to_device(next(iter(loader)), self.strategy.root_device, 0)
        x = model.reader(datamodule.on_after_batch_transfer(given, 0)).x
        model.to(self.strategy.root_device)
        share, found = len(loader.sampler) / len(x), {}
        for name, attack in (evaluation.attacks_on(model) if evaluation else {}).items():
            for stage in named_stages(name, attack):
                found[stage.name] = share * attack_seconds(stage.search, model, x, seconds)
        return found


def _least(limit: int | float, steps: int) -> int | float:
    """Return Lightning's limit for the measurement: a number of batches, or a share if that is all or none."""
    if isinstance(limit, int) or limit > 1:
        return min(limit, steps)
    return steps if limit else 0


def _batches(limit: int | float, n: int) -> int:
    """Return how many of n batches Lightning's limit leaves."""
    return int(n * limit) if isinstance(limit, float) and limit <= 1 else min(n, int(limit))


def _peak_memory() -> float | None:
    """Return the peak memory in MiB: of the GPU if there is one, else of the process; None if nobody knows."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        import resource
    except ImportError:  # on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # macOS counts bytes, Linux KiB
