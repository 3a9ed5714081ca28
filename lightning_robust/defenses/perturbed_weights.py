"""When, within a training step, weights are perturbed and restored."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from lightning_robust.parts.weight_perturbation import WeightPerturbation


class PerturbedWeights:
    """Perturbs a net's weights before a step's loss, and restores them when the perturbation asks for it.

    Each context restores the weights also if something fails inside.

    Args:
        perturbations: the perturbations, each of which starts where the one before has moved the weights.
    """

    def __init__(self, perturbations: Sequence[WeightPerturbation]) -> None:
        if len({perturbation.restore for perturbation in perturbations}) > 1:
            raise ValueError(
                "Weight perturbations that follow one another must have the same `restore`: set all to 'before_step' "
                "or all to 'after_step'."
            )
        self._perturbations = perturbations
        self._late = any(perturbation.restore == "after_step" for perturbation in perturbations)
        self._moved: list[Callable[[], None]] = []
        self._stepping = False

    @contextmanager
    def during_loss(
        self, net: nn.Module, loss_fn: Callable[[], Tensor], epoch: int, scale: Tensor | None
    ) -> Iterator[None]:
        """Perturb the weights; they stay so for the backward pass.

        Args:
            net: the net.
            loss_fn: returns the loss [b] of each sample at the current weights.
            epoch: epoch, counting from 0.
            scale: factor of the loss that keeps gradients from underflowing in fp16, or None.
        """
        try:
            for perturbation in self._perturbations:
                perturbation.scale = scale
                self._moved.append(perturbation(net, loss_fn, epoch))
            yield
        except BaseException:
            self._restore()
            raise

    @contextmanager
    def during_backward(self) -> Iterator[None]:
        """Restore the weights after the backward pass, unless an optimizer step follows that should meet them moved."""
        done = False
        try:
            yield
            done = True
        finally:
            if not (done and self._late and self._stepping):  # no optimizer step follows while gradients accumulate
                self._restore()

    @contextmanager
    def during_step(self) -> Iterator[None]:
        """Restore the weights after the optimizer's step."""
        self._stepping = True
        try:
            yield
        finally:
            self._stepping = False
            self._restore()

    def _restore(self) -> None:
        while self._moved:
            self._moved.pop()()
