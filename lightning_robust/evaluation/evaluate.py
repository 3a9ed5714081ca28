"""The evaluation of robust accuracy: attacks samples stage after stage, each stage only those that still stand."""

import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, Protocol, TypeAlias

import torch
from torch import Tensor

from lightning_robust.attacks.base import Attack
from lightning_robust.attacks.pad_small_batches import PadSmallBatches
from lightning_robust.attacks.progress import room_for
from lightning_robust.evaluation.black_box_checks import black_box_stages
from lightning_robust.evaluation.dealing import deal
from lightning_robust.evaluation.random_nets import is_random, share_right
from lightning_robust.evaluation.samples import Samples
from lightning_robust.evaluation.scores import scores, strongest
from lightning_robust.evaluation.stages import Stage, named_stages
from lightning_robust.evaluation.verdicts import STANDING, Verdicts
from lightning_robust.evaluation.with_gradient import WithGradient, passes_gradient
from lightning_robust.runtime.modes import logits_no_grad
from lightning_robust.runtime.precision import full_precision
from lightning_robust.runtime.ranks import gather_objects
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat, per_image
from lightning_robust.types import Net
from lightning_robust.utils.images import check_examples

Precision: TypeAlias = Literal["fp32", "bf16"]


NO_GRADIENT = (
    "The net passes on no gradient to its input (is there a detach, no_grad or argmax on the way?): attacks that take "
    "gradients find nothing, and robust accuracy means nothing."
)


class Watch(Protocol):
    """Follows the progress of an evaluation, for example with a progress bar."""

    def __call__(self, stage: str, n: int, batch_size: int) -> AbstractContextManager[Callable[[int, float], None]]:
        """Follow one stage.

        Args:
            stage: the name the stage is reported under.
            n: the number of samples that this rank attacks.
            batch_size: how many it attacks at a time.

        Returns:
            A context that gives `tell(done, bound)`, which is called after each batch with the number of samples in it
            and an upper bound on the worst-case accuracy, in [0, 1].
        """


class Evaluation:
    """Attacks samples until each is broken or has withstood every stage.

    Of a deterministic net, only samples that are classified correctly without an attack are attacked. A random net (one
    whose logits differ between forward passes) is attacked on every sample, by each stage until it is wrong in all of
    `PASSES` passes. The example with the fewest correct passes is kept, it counts as successful if the net is wrong in
    more than half of them, and the accuracy is the share of correct passes among as many new ones.

    What is found is written into the samples' `verdicts` and `examples`. A sample's random numbers depend only on the
    seed and its key, so its verdicts depend neither on the batch size nor on the number of ranks.

    Args:
        attacks: the attacks, by the name under which they are reported. The stages of an attack that has some run one
            after the other, each on the samples that the earlier ones did not break.
        seed: seed of the attacks' random numbers.
        batch_size: how many samples are attacked at a time; what stands after a stage is pooled into full batches.
        precision: "fp32", or "bf16" to run the attacks under autocast. An example found in bf16 counts only if the net
            misclassifies it in fp32 too.

    Example:
        A net that says 0 where the mean of an image is above 0.5, and two images with the mean 0.9 and 0.6:

        >>> import torch
        >>> from lightning_robust.attacks import PGD
        >>> from lightning_robust.evaluation.checksums import checksums
        >>> from lightning_robust.evaluation.images import Images
        >>> from lightning_robust.evaluation.samples import Samples
        >>> from lightning_robust.threat import Threat
        >>> net = lambda x: (x.mean((1, 2, 3))[:, None] - 0.5) * torch.tensor([1, -1])
        >>> x = torch.tensor([0.9, 0.6]).view(2, 1, 1, 1).repeat(1, 1, 4, 4)
        >>> y, index = torch.zeros(2, dtype=torch.int64), torch.arange(2)
        >>> samples = Samples(index, y, net(x).argmax(1), checksums(x, y), index, index < 0, Images.of(x))
        >>> evaluation = Evaluation({"pgd": PGD(Threat("linf", 0.2), steps=3)})
        >>> evaluation.prepare(samples)
        >>> evaluation.run(net, samples, x.device)
        >>> samples.robust().tolist(), samples.verdicts["pgd"].predicted.tolist()
        ([True, False], [0, 1])
    """

    def __init__(
        self, attacks: Mapping[str, Attack], seed: int = 0, batch_size: int = 128, precision: Precision = "fp32"
    ) -> None:
        self.attacks = dict(attacks)
        self.seed = seed
        self.batch_size = batch_size
        self.precision = precision
        self.seconds: dict[str, float] = {}
        """The time that each stage took on this rank, by the stage's name."""
        self.random = False
        """Whether the net's logits change from pass to pass; known once it runs."""

    def prepare(self, samples: Samples) -> None:
        """Set each attack's verdicts to their initial values, and its examples to the clean images."""
        shown = torch.nonzero(samples.shown)[:, 0].tolist()
        for name in self.attacks:
            samples.verdicts[name] = Verdicts.initial(samples.clean, samples.scores)
            samples.examples[name] = {int(samples.index[i]): torch.stack([samples.x[i]] * 2) for i in shown}

    def run(
        self,
        net: Net,
        samples: Samples,
        device: torch.device,
        save: Callable[[], None] = lambda: None,
        watch: Watch = lambda stage, n, batch_size: nullcontext(lambda done, bound: None),
        wanted: Tensor | None = None,
    ) -> None:
        """Run every attack on this rank's samples; all ranks call it together.

        Args:
            net: maps images to logits.
            samples: this rank's samples, after `prepare`; stages that their verdicts count as done are not run again.
            device: the device of the net.
            save: called after each batch.
            watch: follows the progress of the stages.
            wanted: the index of each sample whose image is needed afterwards. The others' are let go once no attack,
                nor a check, needs them. By default all are needed.

        Raises:
            ValueError: if an attack's example lies outside its threat model, or the net's logits on it are NaN.
        """
        if self.attacks:
            few = samples.x[:8].to(device)
            with full_precision(few):
                self.random = any(gather_objects(is_random(net, few)))
        for name, attack in self.attacks.items():
            for number, stage in enumerate(named_stages(name, attack)):
                size = stage.attack.fitting(self.batch_size)
                deal(samples, self._open(samples, name, number), device)
                if wanted is not None:
                    samples.x.keep_only(torch.isin(samples.index, wanted) | self._needed(samples, name))
                todo = torch.nonzero(self._open(samples, name, number))[:, 0]
                n, begun = sum(gather_objects(len(samples))), time.perf_counter()
                batches = torch.split(todo, size)
                with watch(stage.name, len(todo), size) as tell:
                    # All ranks take part in every round and talk once in each: a rank that is done early would
                    # otherwise wait in silence for the others until the backend's timeout.
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
        """Mark the samples left to a stage: correct, not broken by this attack, not yet through the stage."""
        verdicts = samples.verdicts[name]
        return (samples.right | self.random) & self._unbroken(verdicts) & (verdicts.done <= number)

    def _unbroken(self, verdicts: Verdicts) -> Tensor:
        """Mark the samples that an attack goes on with: of a random net, those that it was right on in some pass."""
        return verdicts.held > 0 if self.random else verdicts.standing

    def _needed(self, samples: Samples, name: str) -> Tensor:
        """Mark the samples whose images this attack, a later one, or the check of black-box attacks needs."""
        needed = samples.right | self.random
        if name == list(self.attacks)[-1]:
            needed &= self._unbroken(samples.verdicts[name])
        for attack, stages in black_box_stages(self.attacks).items():
            broken = samples.verdicts[attack].broken
            needed |= torch.isin(broken, broken.new_tensor(stages))
        return needed

    def _attack(
        self, net: Net, samples: Samples, rows: Tensor, name: str, number: int, stage: Stage, device: torch.device
    ) -> None:
        """Run one stage on the samples at these rows, and write down what it found."""
        net = PadSmallBatches(net, self.batch_size)
        threat = stage.attack.threat
        x, y, key = samples.x.read(rows, device), samples.y[rows].to(device), samples.key[rows].to(device)
        index = samples.index[rows]
        rng = SampleRNG(self.seed, key)
        if self.attacks[name].stages:
            rng = rng.fork(number)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"), room_for(self.batch_size):
            try:
                x_adv = stage.search(net, x, y, rng=rng)
            except (RuntimeError, TypeError, ValueError):
                if not stage.attack.gradients or passes_gradient(net, x):
                    raise
                warnings.warn(NO_GRADIENT, stacklevel=2)
                x_adv = stage.search(WithGradient(net), x, y, rng=rng)
        if not stage.nearest:
            check_examples(x_adv, name, threat.lower, threat.upper)
        if not torch.equal(threat.restrict(x_adv, x), x_adv):
            raise ValueError(
                f"Attack {name!r} left its threat model, {threat}: it changed pixels elsewhere. Correct the attack."
            )
        with full_precision(x):
            logits = logits_no_grad(net, x_adv)
        if (unclear := logits.isnan().any(1)).any():
            raise ValueError(
                f"The net's logits are NaN on the examples that attack {name!r} made of {int(unclear.sum())} samples "
                f"(index {', '.join(map(str, index[unclear.cpu()][:10].tolist()))}): look at its weights."
            )
        predicted = logits.argmax(1)
        size = threat.distance(x_adv.double(), x.double())
        wrong = predicted != y
        if stage.nearest:
            size = torch.where(wrong, size, torch.inf)
            wrong &= size <= threat.eps
        else:
            _check_size(size, name, threat)
        done, found = torch.full_like(y, number + 1), torch.ones_like(wrong)
        # an example beyond the radius, as a search for the nearest may find, tells nothing of this threat
        before = samples.verdicts[name].scores[rows].to(device)
        kept = strongest(before, scores(logits, y), wrong, within=not stage.nearest)
        verdicts = Verdicts(done, torch.where(wrong, number, STANDING), predicted, size, scores=kept)
        if self.random:
            judged = torch.where(per_image(size <= threat.eps * (1 + 1e-5) + 1e-6, x).bool(), x_adv, x)
            with full_precision(x):
                verdicts.held, verdicts.accuracy = (share_right(net, judged, y) for _ in range(2))
            first = samples.verdicts[name].broken[rows].to(device)  # the stage that broke it, if a later one finds more
            verdicts.broken = torch.where((verdicts.held < 0.5) & (first == STANDING), number, first)
            found = verdicts.held.cpu() < samples.verdicts[name].held[rows]
        samples.verdicts[name].done[rows] = number + 1
        samples.verdicts[name][rows[found.cpu()]] = verdicts[found]
        for i in torch.nonzero(samples.shown[rows] & found.cpu())[:, 0].tolist():
            samples.examples[name][int(index[i])] = torch.stack([x[i], x_adv[i]]).cpu()


def _check_size(size: Tensor, name: str, threat: Threat) -> None:
    largest = float(size.max())
    if not largest <= threat.eps * (1 + 1e-5) + 1e-6:  # written so that NaN fails too
        raise ValueError(
            f"Attack {name!r} left its threat model: a perturbation of {threat.norm} size {largest:.6g} with "
            f"eps {threat.eps:.6g}. Its accuracy would mean nothing: correct the attack."
        )
