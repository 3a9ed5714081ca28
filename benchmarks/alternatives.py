"""What could be done otherwise in an attack's passes, and why it is not.

python -m benchmarks.alternatives [--net resnet18] [--batch_size 16] [--rounds 7] [--device cuda]
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from benchmarks.common.tables import Row, write
from benchmarks.common.timing import Arm, interleave, ratio, timed
from benchmarks.common.training import STEPS
from benchmarks.common.workloads import Workload, on_workload
from lightning_robust.losses import cross_entropy
from lightning_robust.runtime.batch_norms import fast_bn_backward
from lightning_robust.types import Batch


def alternatives(net: nn.Module, batch: Batch) -> dict[str, Callable[[], None]]:
    """The passes of an attack step as they are made, and as they could have been."""
    net, x, y = net.eval().requires_grad_(False), batch.x, batch.y
    half = partial(torch.autocast, x.device.type, torch.bfloat16)

    def gradient(z: torch.Tensor) -> None:
        z = z.clone().requires_grad_()
        with fast_bn_backward(net.modules()):  # as attacks do; it leaves norms alone whose weights await a gradient
            torch.autograd.grad(cross_entropy(net(z), y.repeat(len(z) // len(y))).sum(), z)

    def unfrozen() -> None:
        net.requires_grad_(True)
        gradient(x)
        net.requires_grad_(False)

    def attack(cached: bool) -> None:
        net.requires_grad_(cached)  # autocast keeps its copies of weights only where they await a gradient
        with half():
            for _ in range(STEPS):
                gradient(x)
        net.requires_grad_(False)

    def twice() -> None:
        gradient(x)
        gradient(x)

    pair = torch.cat([x, x])
    return {
        "weights frozen": lambda: gradient(x),
        "weights not frozen": unfrozen,
        "ST's pair in two passes": twice,
        "ST's pair in one": lambda: gradient(pair),
        "bf16 attack, weights cast in each pass": lambda: attack(False),
        "bf16 attack, weights cast once": lambda: attack(True),
    }


TAKEN = {
    "weights not frozen": "weights frozen",
    "ST's pair in two passes": "ST's pair in one",
    "bf16 attack, weights cast once": "bf16 attack, weights cast in each pass",
}
"""Of each alternative, what is done instead."""


def main(workload: Workload, rounds: int = 7) -> None:
    """Measure, print the table, and leave it in results/alternatives_<net>_<device>.{csv,md}.

    Args:
        workload: the net, the batch and the device.
        rounds: all arms run once in each.
    """
    given, batch = workload.build()
    arms: dict[str, Arm] = {name: timed(run) for name, run in alternatives(given, batch).items()}
    seconds = interleave(arms, rounds)
    rows: list[Row] = []
    for name, taken in TAKEN.items():
        over = ratio(seconds[name], seconds[taken])
        row: Row = {
            "alternative": name,
            "instead of": taken,
            "seconds over": over.median,
            "quartiles": over.quartiles(),
        }
        rows.append(row)
    print(write(f"alternatives_{workload.net}_{workload.device}", f"What was not done, and why: {workload}", rows))


if __name__ == "__main__":
    on_workload(main)
