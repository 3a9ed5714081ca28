"""What IAAT's probes cost, and whether leaving out those whose answer cannot matter changes any radius.

python -m benchmarks.iaat [--rounds 5] [--eps 0.15]
"""

import tempfile
from typing import Any

from jsonargparse import auto_cli
from lightning import Callback

from benchmarks.common.processes import quiet
from benchmarks.common.recipes import Steps, adapted
from benchmarks.common.tables import Row, required, write
from benchmarks.common.timing import Spread, interleave, ratio
from lightning_robust.utils.batch_reader import as_batch

PROBING: dict[str, dict[str, Any]] = {
    "default: lazy, 2 steps on": {},
    "lazy, attack afresh": {"refine_steps": None},
    "all probes": {"probing": "all", "refine_steps": None},
}
LIMIT, SAME = 1.6, 99.0
"""The default's step over AT's; the percentage of radii that must be those of all probes."""


class Radii(Callback):
    """Of each sample, whether the radius is the one that all probes would have given on the same net."""

    def __init__(self) -> None:
        self.same: list[bool] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        given, before, settings = as_batch(batch), module.radii.values.clone(), (module.probing, module.refine_steps)
        module._batch_idx = batch_idx
        found = []
        for module.probing, module.refine_steps in (settings, ("all", None)):
            module.generate(given)
            found.append(module.radii[given.index])
            module.radii.values = before.clone()
        module.probing, module.refine_steps = settings
        self.same += (found[0] == found[1]).tolist()


def main(rounds: int = 5, eps: float = 0.15) -> None:
    """Train on digits until the radii are at work, measure, and leave the table in results/iaat.{csv,md}.

    Args:
        rounds: epochs of which each contender's steps are timed, one after the other.
        eps: linf radius.
    """
    quiet()
    with tempfile.TemporaryDirectory() as folder:
        arms = {"AT": Steps(adapted("at", eps), folder)}
        for name, settings in PROBING.items():
            arms[name] = Steps(adapted("iaat", eps), folder)
            arms[name].config["model"]["init_args"].update(settings)
        seconds = interleave(arms, rounds)
        radii: dict[str, float] = {}
        for name in PROBING:
            check, cli = Radii(), arms[name].cli
            assert cli is not None
            cli.trainer.callbacks.append(check)  # type: ignore[attr-defined]
            arms[name]()
            radii[name] = 100 * sum(check.same) / len(check.same)
    rows: list[Row] = []
    for name in PROBING:
        over = ratio(seconds[name], seconds["AT"])
        row: Row = {
            "probing": name,
            "ms a step": 1000 * Spread.of(seconds[name]).median,
            "over AT's": over.median,
            "quartiles": over.quartiles(),
            "radii as with all probes %": radii[name],
        }
        rows.append(row)
    caption = "Digits, batches of 64, loading included; each net some epochs after its warm-up. " + required(
        {
            f"the default's step at most {LIMIT} of AT's": {"default": float(rows[0]["over AT's"]) <= LIMIT},
            f"at least {SAME:g} % of its radii those of all probes": {"default": radii[next(iter(PROBING))] >= SAME},
        }
    )
    print(write("iaat", "IAAT's probes", rows, caption))


if __name__ == "__main__":
    auto_cli(main)
