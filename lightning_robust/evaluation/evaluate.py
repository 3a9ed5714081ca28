"""Robust accuracy of a set of samples: stage after stage, each on those that still stand, the same on any machine."""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, Protocol, TypeAlias

import torch
from torch import Tensor

from lightning_robust.attacks.base import Attack
from lightning_robust.attacks.pad_small_batches import PadSmallBatches
from lightning_robust.attacks.runs import room_for
from lightning_robust.evaluation.samples import Samples
from lightning_robust.evaluation.stages import Stage, named_stages
from lightning_robust.evaluation.verdicts import STANDING, Verdicts
from lightning_robust.runtime.modes import logits_no_grad
from lightning_robust.runtime.precision import full_precision
from lightning_robust.runtime.ranks import gather_objects
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat
from lightning_robust.types import Net
from lightning_robust.utils.checks import check_examples

Precision: TypeAlias = Literal["fp32", "bf16"]


class Watch(Protocol):
    """Follows a stage of n samples, in batches; gives a function to call as they are done."""

    def __call__(self, stage: str, n: int, batch_size: int) -> AbstractContextManager[Callable[[int, float], None]]:
        """Inside, `tell(done, bound)`: samples done, and the upper bound on the worst-case accuracy."""


class Evaluation:
    """Attacks samples until each is broken or has withstood every stage.

    What it finds is written into the samples' `verdicts`. Only samples that are classified correctly to begin with are
    attacked.

    The random numbers of a sample depend on the seed and its index alone; so what is found for it depends neither on
    the batches nor on the ranks.

    Args:
        attacks: by name. An attack with `stages` runs each on what the ones before it did not break.
        seed: of the random numbers.
        batch_size: samples attacked at a time; those that stand after a stage are pooled into full batches again.
        precision: of the search: "bf16" runs the attacks under autocast, where each counts as a success only what is
            misclassified in fp32 too. The verdict is given in fp32 in any case.
    """

    def __init__(
        self, attacks: Mapping[str, Attack], seed: int = 0, batch_size: int = 128, precision: Precision = "fp32"
    ) -> None:
        self.attacks, self.seed, self.batch_size, self.precision = dict(attacks), seed, batch_size, precision
        self.seconds: dict[str, float] = {}
        self.examples: dict[str, dict[int, Tensor]] = {name: {} for name in attacks}  # (x, x_adv) [2 c h w] by index

    def prepare(self, samples: Samples) -> None:
        """Give the samples each attack's initial verdicts, and take the clean images as the examples to show."""
        for name in self.attacks:
            samples.verdicts[name] = Verdicts.initial(samples.clean)
            for i in torch.nonzero(samples.shown)[:, 0].tolist():
                self.examples[name][int(samples.index[i])] = torch.stack([samples.x[i]] * 2)

    def extra(self) -> dict[str, Any]:
        """What is to be saved beside the samples."""
        return {"seconds": self.seconds, "examples": self.examples}

    def resume(self, extra: Mapping[str, Any]) -> None:
        """Take what `extra` gave on one of the ranks."""
        for stage, seconds in extra["seconds"].items():
            self.seconds[stage] = max(seconds, self.seconds.get(stage, 0.0))
        for name, examples in extra["examples"].items():
            self.examples[name].update(examples)

    def run(
        self,
        net: Net,
        samples: Samples,
        device: torch.device,
        save: Callable[[], None] = lambda: None,
        watch: Watch = lambda stage, n, batch_size: nullcontext(lambda done, bound: None),
    ) -> None:
        """Run every attack, one rank's part of it.

        Args:
            net: images to logits.
            samples: prepared by `prepare`, and restored if some of it was done before.
            device: where the net is.
            save: called after each batch.
            watch: follows the stages.

        Raises:
            ValueError: if an attack leaves its threat model.
        """
        for name, attack in self.attacks.items():
            for number, stage in enumerate(named_stages(name, attack)):
                size = stage.attack.fitting(self.batch_size)
                samples.deal(self._open(samples, name, number), device)
                todo = torch.nonzero(self._open(samples, name, number))[:, 0]
                n, begun = sum(gather_objects(len(samples))), time.perf_counter()
                batches = torch.split(todo, size)
                with watch(stage.name, len(todo), size) as tell:
                    # as many on every rank, and a word between them: none waits long enough to give the others up
                    for k in range(max(gather_objects(len(batches)))):
                        rows = batches[k] if k < len(batches) else todo[:0]
                        if len(rows):
                            self._attack(net, samples, rows, name, number, stage, device)
                            save()
                        standing = sum(gather_objects(int(samples.robust().sum())))
                        now = time.perf_counter()
                        self.seconds[stage.name] = self.seconds.get(stage.name, 0.0) + now - begun
                        begun = now
                        tell(len(rows), standing / max(n, 1))
                self.seconds.setdefault(stage.name, 0.0)

    def _open(self, samples: Samples, name: str, number: int) -> Tensor:
        """Which samples this stage has to attack: right to begin with, not broken by this attack, not yet done."""
        verdicts = samples.verdicts[name]
        return samples.right & verdicts.standing & (verdicts.done <= number)

    def _attack(
        self, net: Net, samples: Samples, rows: Tensor, name: str, number: int, stage: Stage, device: torch.device
    ) -> None:
        """One batch of one stage."""
        net, threat = PadSmallBatches(net), stage.attack.threat
        x, y, index = (column[rows].to(device) for column in (samples.x, samples.y, samples.index))
        rng = SampleRNG(self.seed, index)
        if self.attacks[name].stages:
            rng = rng.fork(number)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"), room_for(self.batch_size):
            x_adv = stage.search(net, x, y, rng=rng)
        with full_precision(x):
            predicted = logits_no_grad(net, x_adv).argmax(1)
        size = threat.distance(x_adv.double(), x.double())
        wrong = predicted != y
        if stage.nearest:
            size = torch.where(wrong, size, torch.inf)
            wrong &= size <= threat.eps
        else:
            check_examples(x_adv, name, threat.lower, threat.upper)
            _check_size(size, name, threat)
        done, broken = torch.full_like(y, number + 1), torch.where(wrong, number, STANDING)
        samples.verdicts[name][rows] = Verdicts(done, broken, predicted, size)
        for i in torch.nonzero(samples.shown[rows])[:, 0].tolist():
            self.examples[name][int(index[i])] = torch.stack([x[i], x_adv[i]]).cpu()


def _check_size(size: Tensor, name: str, threat: Threat) -> None:
    largest = float(size.max())
    if not largest <= threat.eps * (1 + 1e-5) + 1e-6:  # NaN fails too
        raise ValueError(
            f"Attack {name!r} left its threat model: a perturbation of {threat.norm} size {largest:.6g} with "
            f"eps {threat.eps:.6g}. Its accuracy means nothing; mend it."
        )
