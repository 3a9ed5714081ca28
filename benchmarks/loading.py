"""What it takes to load a batch: from memory, as bytes, or from where the images wait on the device.

python -m benchmarks.loading [--rounds 7] [--device cuda]
"""

from functools import partial
from types import SimpleNamespace
from typing import Any

from jsonargparse import auto_cli
from lightning.pytorch.plugins import Precision

from benchmarks.common.figures import bars
from benchmarks.common.pictures import Pictures
from benchmarks.common.processes import prepare
from benchmarks.common.tables import Row, write
from benchmarks.common.timing import Spread, interleave, ratio, timed
from lightning_robust.data import Digits, RobustDataModule

BATCH = 128


SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "uint8_transfer": {"uint8_transfer": True},
    "on_device": {"on_device": True},
}


def epoch(data: RobustDataModule, device: str) -> None:
    """Load all batches and bring them to the device."""
    for batch in data.train_dataloader():
        moved = [part.to(device, non_blocking=True) for part in batch]
        data.on_after_batch_transfer(moved, 0)


def main(rounds: int = 7, device: str = "cpu") -> None:
    """Measure in the process itself (no workers), print the table, leave it in results/loading_<device>.{csv,md,png}.

    Args:
        rounds: all arms run once in each.
        device: "cpu" or "cuda".
    """
    prepare()
    arms, batches = {}, {}
    for kind, settings in (
        *((Pictures, s) for s in SETTINGS.items()),
        *((Digits, s) for s in SETTINGS.items() if s[0] != "uint8_transfer"),
    ):
        data = kind(batch_size=BATCH, seed=0, val_size=100, **settings[1])
        data.setup("fit")
        data.trainer = SimpleNamespace(training=True, world_size=1, global_rank=0, precision_plugin=Precision())
        name = f"{'32x32x3, cropped and flipped' if kind is Pictures else 'digits'}: {settings[0]}"
        batches[name] = len(data.train_dataloader())
        arms[name] = timed(partial(epoch, data, device))
    seconds = interleave(arms, rounds)
    rows: list[Row] = []
    over: dict[str, Spread] = {}
    for name in arms:
        over[name] = ratio(seconds[name], seconds[f"{name.split(':')[0]}: default"])
        row: Row = {
            "images: setting": name,
            "ms a batch": 1000 * Spread.of(seconds[name]).median / batches[name],
            "over the default": over[name].median,
            "quartiles": over[name].quartiles(),
        }
        rows.append(row)
    title = f"Loading a batch of {BATCH}, without workers, to the {device}"
    print(write(f"loading_{device}", title, rows))
    bars(f"loading_{device}", over, "seconds over those in the default setting")


if __name__ == "__main__":
    auto_cli(main)
