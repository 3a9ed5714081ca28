"""The peak memory of a training step of every defense over that of plain training.

python -m benchmarks.memory [--net resnet18] [--batch_size 32] [--device cuda]
"""

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.common.figures import bars
from benchmarks.common.tables import Row, required, write
from benchmarks.common.timing import Spread
from benchmarks.common.training import DEFENSES, bare_step, defended
from benchmarks.common.workloads import Workload, on_workload
from lightning_robust.defenses import Defense
from lightning_robust.types import Batch

LIMIT = 1.1
TWO_GRAPHS = "keeps the graphs of clean and adversarial images until their one backward pass"
WHY = {
    "TRADES": TWO_GRAPHS,
    "MART": TWO_GRAPHS,
    "EMR": "the gradient of a gradient keeps the first backward pass, beside the loss's graph",
    "ST": "keeps the graphs of clean, collaborative and adversarial images until their one backward pass",
    "AWP": "keeps the weights as they were",
    "FreeAT": "awaits the gradient of the images too",
}
"""What a method needs that plain training does not."""


def peak(defense: Defense, batch: Batch) -> float:
    """MiB during the second step: weights, optimizer state, batch, and whatever is allocated at the same time."""
    run = bare_step(defense, batch)
    run()
    defense.zero_grad()
    if batch.x.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() / 2**20
    state = [*defense.parameters(), *defense.buffers(), batch.x, batch.y]
    momenta = list(defense.parameters())  # one for each weight
    return (sum(t.nbytes for t in (*state, *momenta)) + allocated(run)) / 2**20


def allocated(run: Callable[[], None]) -> int:
    """The most bytes that a call has allocated at once, by the allocator's own account."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        run()
    most = now = 0
    for event in found.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


def main(
    workload: Workload,
    defenses: list[str] = list(DEFENSES),  # noqa: B006  (read alone; a list shows in --help)
) -> None:
    """Measure, print the table, and leave it in results/memory_<net>_<device>.{csv,md,png}.

    Args:
        workload: the net, the batch and the device.
        defenses: names of those in common/training.py.
    """
    given, batch = workload.build()
    x = torch.cat([batch.x, batch.x])
    twice = Batch(x, batch.y.repeat(2), torch.arange(len(x), device=x.device))
    plain, double = (peak(defended("Standard", given), images) for images in (batch, twice))
    rows: list[Row] = []
    over: dict[str, Spread] = {}
    for name in defenses:
        most = peak(defended(name, given), batch)
        over[name] = Spread(*[most / plain] * 3)
        row: Row = {
            "defense": name,
            "peak MiB": round(most, 1),
            "over plain training": most / plain,
            "over plain training of twice the images": most / double,
            "why": WHY.get(name, "") if most / plain > LIMIT else "",
        }
        rows.append(row)
    met = {row["defense"]: float(row["over plain training"]) <= LIMIT for row in rows}
    caption = required({f"at most {LIMIT} over plain training, else explained": met})
    name = f"memory_{workload.net}_{workload.device}"
    print(write(name, f"Peak memory of a step: {workload}", rows, caption))
    bars(name, over, "peak memory of a step over that of plain training", LIMIT)


if __name__ == "__main__":
    on_workload(main, batch_size=32)
