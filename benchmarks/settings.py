"""What each setting that promises speed does to an adversarial training step: seconds, and the first step's loss.

python -m benchmarks.settings [--net resnet18] [--batch_size 16] [--rounds 5] [--device cuda]
"""

from functools import partial
from typing import Any

import torch

from benchmarks.common.figures import bars
from benchmarks.common.tables import Row, required, write
from benchmarks.common.timing import Arm, Spread, interleave, ratio
from benchmarks.common.training import STEPS, Fit, defended
from benchmarks.common.workloads import Workload, on_workload
from lightning_robust.callbacks import AveragedWeights

DEFAULT = "default: fp32, eager"
CLOSE = {"32-true": 1e-3, "bf16": 2e-2}
"""How far, relatively, a setting's first loss may lie from that of the default, where it computes the same."""

SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    DEFAULT: ({}, {}),
    "channels_last": ({"channels_last": True}, {}),
    "compile": ({"compile": True}, {}),
    "compile + channels_last": ({"compile": True, "channels_last": True}, {}),
    "attack in bf16": ({"attack_precision": "bf16"}, {}),
    "attack in bf16 + channels_last": ({"attack_precision": "bf16", "channels_last": True}, {}),
    "bf16-mixed": ({}, {"precision": "bf16-mixed"}),
    "bf16-mixed + channels_last": ({"channels_last": True}, {"precision": "bf16-mixed"}),
    "bf16-mixed + channels_last + compile": ({"channels_last": True, "compile": True}, {"precision": "bf16-mixed"}),
    "fused SGD": ({"optimizer": partial(torch.optim.SGD, lr=1e-6, momentum=0.9, weight_decay=5e-4, fused=True)}, {}),
    "with weight averaging (EMA)": ({}, {"callbacks": lambda: [AveragedWeights()]}),
    "label smoothing": ({"label_smoothing": 0.1}, {}),
    "attack on batch statistics": ({"attack_bn": "batch"}, {}),
}
"""Settings of the defense, and of the trainer."""
OTHER = ("attack on batch statistics", "label smoothing")
"""Those that compute something else."""


def main(
    workload: Workload,
    rounds: int = 5,
    settings: list[str] = list(SETTINGS),  # noqa: B006  (read alone; a list shows in --help)
) -> None:
    """Measure, print the table, and leave it in results/settings_<net>_<device>.{csv,md,png}.

    Args:
        workload: the net, the batch and the device.
        rounds: all arms run once in each.
        settings: those that are measured, next to the default.
    """
    given, batch = workload.build()
    fits: dict[str, Fit] = {}
    for name in dict.fromkeys([DEFAULT, *settings]):
        of_defense, of_trainer = SETTINGS[name]
        fits[name] = Fit(defended("AT", given, **of_defense), batch, **of_trainer)
    arms: dict[str, Arm] = {**fits}
    seconds = interleave(arms, rounds)

    rows: list[Row] = []
    share: dict[str, Spread] = {}
    same: dict[str, bool] = {}
    for name, fit in fits.items():
        share[name] = ratio(seconds[name], seconds[DEFAULT])
        row: Row = {
            "setting": name,
            "seconds": Spread.of(seconds[name]).median,
            "over the default": share[name].median,
            "its quartiles": share[name].quartiles(),
            "times as fast": 1 / share[name].median,
            "first loss": fit.loss,
        }
        rows.append(row)
        if name not in OTHER:
            close = CLOSE["bf16" if "bf16" in name else "32-true"]
            same[name] = abs(fit.loss / fits[DEFAULT].loss - 1) < close
    requirement = f"the first loss within {CLOSE['32-true']:.1%} of the default's, in bf16 within {CLOSE['bf16']:.0%}"
    name = f"settings_{workload.net}_{workload.device}"
    print(write(name, f"What settings do to a step: {workload}, PGD-{STEPS}", rows, required({requirement: same})))
    bars(name, share, "seconds of a step over those in the default setting")


if __name__ == "__main__":
    on_workload(main)
