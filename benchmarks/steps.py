"""What a training step of every defense costs over the passes it consists of, and what Lightning adds.

python -m benchmarks.steps [--net resnet18] [--batch_size 16] [--rounds 5] [--device cuda]
"""

import copy
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.common.figures import bars
from benchmarks.common.tables import Row, required, write
from benchmarks.common.timing import WITHIN, Arm, Spread, interleave, ratio, timed
from benchmarks.common.training import DEFENSES, STEPS, Fit, bare_step, defended, sgd
from benchmarks.common.workloads import Workload, on_workload
from lightning_robust.losses import cross_entropy
from lightning_robust.runtime.batch_norms import fast_bn_backward
from lightning_robust.types import Batch

LIMIT, LIGHTNING = 1.05, 1.02
"""What a step may cost over its passes, and with Lightning over without. Not asked of the small net, where the calls
cost more than the arithmetic."""

F, I, B, W, WI, D, S = (  # noqa: E741
    "forward",
    "input gradient",
    "input gradient, batch statistics",
    "weight gradient",
    "weight and input gradient",
    "gradient of a gradient",
    "SGD step",
)
PASSES: dict[str, dict[str, float]] = {
    "Standard": {W: 1, S: 1},
    "AT": {I: STEPS, W: 1, S: 1},
    "TRADES": {F: 1, I: STEPS, W: 2, S: 1},  # the attack's reference; clean and adversarial images
    "MART": {I: STEPS, W: 2, S: 1},
    "MAIL": {I: STEPS, W: 1, S: 1},
    "EMR": {I: STEPS, W: 1, D: 1, S: 1},
    "AWP": {I: STEPS, W: 2, S: 1},  # where the weights move; the loss there
    "ST": {F: 1, B: 3 * STEPS, W: 3, S: 1},  # clean, collaborative and adversarial images in each step
    "IAAT, all probes": {F: 3, I: 3 * STEPS, W: 1, S: 1},  # clean images, two probes, the attack
    "FreeAT": {WI: 4, S: 4},
}
"""What each method's definition asks for, whatever its code does; IAAT's default leaves out samples, and is counted."""


def primitives(net: nn.Module, batch: Batch) -> dict[str, Callable[[], None]]:
    """Each kind of pass, alone."""
    optimizer, x, y = sgd(net.parameters()), batch.x, batch.y
    weights = list(net.parameters())

    def mode(training: bool, frozen: bool) -> None:
        net.train(training).requires_grad_(not frozen)

    def forward() -> None:
        mode(False, True)
        with torch.no_grad():
            net(x)

    def input_gradient(training: bool = False) -> None:
        mode(training, True)
        with fast_bn_backward(net.modules()):  # else the passes would take longer here than within a step
            z = x.clone().requires_grad_()
            torch.autograd.grad(cross_entropy(net(z), y).sum(), z)

    def weight_gradient(z: Tensor = x) -> None:
        mode(True, False)
        optimizer.zero_grad()
        torch.autograd.backward(cross_entropy(net(z), y).mean())

    def gradient_of_a_gradient() -> None:
        mode(False, False)
        z = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(cross_entropy(net(z), y).sum(), z, create_graph=True)
        torch.autograd.grad(grad.square().sum(), weights, allow_unused=True)

    return {
        F: forward,
        I: input_gradient,
        B: lambda: input_gradient(True),
        W: weight_gradient,
        WI: lambda: weight_gradient(x.clone().requires_grad_()),
        D: gradient_of_a_gradient,
        S: optimizer.step,
    }


class Counted(nn.Module):
    """A net that counts the images of its passes, with the gradient of images and without."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.images = net, Counter[str]()

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            self.images[I if x.requires_grad else F] += len(x)
        logits: Tensor = self.net(x)
        return logits


class Passes:
    """An arm: the seconds of every kind of pass, each the mean of a few; their sum is returned."""

    def __init__(self, net: nn.Module, batch: Batch, repeats: int) -> None:
        self.arms = {name: timed(run) for name, run in primitives(net, batch).items()}
        self.arms[W]()  # leaves gradients, without which SGD has nothing to do
        self.repeats, self.seconds = repeats, {name: list[float]() for name in self.arms}

    def __call__(self) -> float:
        for name, arm in self.arms.items():
            self.seconds[name].append(sum(arm() for _ in range(self.repeats)) / self.repeats)
        return sum(seconds[-1] for seconds in self.seconds.values())

    def of(self, counts: dict[str, float]) -> list[float]:
        """In each round that counts, the seconds of so many passes of each kind."""
        rounds = zip(*(self.seconds[name][1:] for name in counts), strict=True)
        return [sum(n * s for n, s in zip(counts.values(), seconds, strict=True)) for seconds in rounds]


def main(
    workload: Workload,
    rounds: int = 5,
    defenses: list[str] = list(DEFENSES),  # noqa: B006  (read alone; a list shows in --help)
    repeats: int = 3,
) -> None:
    """Measure, print the table, and leave it in results/steps_<net>_<device>.{csv,md,png}.

    Args:
        workload: the net, the batch and the device.
        rounds: all arms run once in each.
        defenses: names of those in common/training.py.
        repeats: of each pass, in each round.
    """
    given, batch = workload.build()
    passes = Passes(copy.deepcopy(given), batch, repeats)
    counted: Counted | None = None
    arms: dict[str, Arm] = {"passes": passes}
    for name in defenses:
        bare = defended(name, given)
        if name == "IAAT":
            bare.net = counted = Counted(bare.net)
        arms[f"{name}, bare"] = timed(bare_step(bare, batch))
        arms[name] = Fit(defended(name, given), batch)
    seconds = interleave(arms, rounds)
    images = {kind: n / workload.batch_size / (rounds + 1) for kind, n in counted.images.items()} if counted else {}
    rows: list[Row] = []
    over: dict[str, Spread] = {}
    slow: dict[str, bool] = {}
    for name in defenses:
        counts = PASSES.get(name, {**images, W: 1, S: 1})
        over[name] = ratio(seconds[f"{name}, bare"], passes.of(counts))
        # IAAT's default leaves out other samples in each, so that only its passes can be compared
        lightning = ratio(seconds[name], seconds[f"{name}, bare"]) if name != "IAAT" else None
        if lightning:
            slow[name] = lightning.at_most(LIGHTNING)
        row: Row = {
            "defense": name,
            "seconds": Spread.of(seconds[name]).median,
            "over AT's": ratio(seconds[name], seconds["AT"]).median if "AT" in defenses else "",
            "bare loop over the passes": over[name].median,
            "its quartiles": over[name].quartiles(),
            "Lightning over the bare loop": lightning.median if lightning else "",
            "Lightning's quartiles": lightning.quartiles() if lightning else "",
            "passes": ", ".join(f"{n:g} {kind}" for kind, n in counts.items()),
        }
        rows.append(row)
    heavy = {str(row["defense"]): float(row["bare loop over the passes"]) <= LIMIT for row in rows}
    limits = {
        f"at most {LIMIT} times the passes": heavy,
        f"with Lightning at most {LIGHTNING} times the bare loop, {WITHIN}": slow,
    }
    caption = "" if workload.net == "small" else required(limits)
    title = f"A training step of every defense: {workload}, attacks of {STEPS} steps, fp32"
    name = f"steps_{workload.net}_{workload.device}"
    print(write(name, title, rows, caption))
    bars(name, over, "seconds of a step over those of its passes", None if workload.net == "small" else LIMIT)


if __name__ == "__main__":
    on_workload(main)
