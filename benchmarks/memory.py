"""The peak memory of a training step of every defense over that of plain training.

python benchmarks/memory.py [--net resnet18] [--batch_size 32] [--device cuda]
"""

from collections.abc import Callable

import torch
from harness import Row, Spread, bars, required, write
from jsonargparse import auto_cli
from torch.profiler import ProfilerActivity, profile
from workloads import DEFENSES, NetName, bare_step, defended, prepare, workload

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
    net: NetName = "resnet18",
    batch_size: int = 32,
    device: str = "cpu",
    defenses: list[str] = list(DEFENSES),  # noqa: B006  (read alone; a list shows in --help)
) -> None:
    """Measure, print the table, and leave it in results/memory_<net>_<device>.{csv,md,png}.

    Args:
        net: with random weights.
        batch_size: images a step.
        device: "cpu" or "cuda".
        defenses: names of those in workloads.py.
    """
    prepare()
    given, batch = workload(net, batch_size, device)
    x = torch.cat([batch.x, batch.x])
    twice = Batch(x, batch.y.repeat(2), torch.arange(len(x), device=device))
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
    print(write(f"memory_{net}_{device}", f"Peak memory of a step: {net}, batch {batch_size}, {device}", rows, caption))
    bars(f"memory_{net}_{device}", over, "peak memory of a step over that of plain training", LIMIT)


if __name__ == "__main__":
    auto_cli(main)
