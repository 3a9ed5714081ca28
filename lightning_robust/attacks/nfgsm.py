"""N-FGSM: one step from noise larger than the radius, whose examples may leave the ball."""

from torch import Tensor

from lightning_robust.attacks.call import Call
from lightning_robust.attacks.objectives import Loss
from lightning_robust.attacks.pgd import PGD
from lightning_robust.runtime.gradients import input_gradient
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat
from lightning_robust.types import Net, Objective


class NFGSM(PGD):
    """Takes one step from uniform noise larger than the radius, and does not project onto the ball: a training attack.

        x_0 = clamp(x + noise),  noise uniform in the ball of radius `noise` eps;
        x'  = clamp(x_0 + step_size steepest(gradient at x_0))

    Without the projection one step suffices, where FGSM and R-FGSM end in catastrophic overfitting. An example lies up
    to `noise` eps + step_size away from its image: beyond the threat, at whose radius the net becomes robust and is
    evaluated. Evaluations therefore refuse this attack.

    Args:
        threat: norm, radius and box.
        noise: radius of the noise in units of the threat's, >= 0 (the paper's k; 4 for WRN-28-10 at 16/255).
        step_size: in the units of the radius, > 0; a fraction such as "8/255" is read as such. By default the radius.
            With a radius of 0 there is no step.
        loss: the objective where the caller passes none: "ce", "margin", "dlr", "label_logit" or
            "probability_margin".

    Raises:
        ValueError: for negative noise, a step size that is not > 0, or an unknown loss.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> x, y = torch.rand(2, 3, 4, 4), torch.tensor([0, 2])
        >>> x_adv = NFGSM(Threat("linf", "8/255"))(net, x, y)
        >>> bool(8 / 255 < (x_adv - x).abs().max() <= 24 / 255 + 1e-6)
        True

    Paper: de Jorge et al. 2022 (arXiv 2202.01181).
    Reference: pdejorge/N-FGSM@0a9e4f0, which attacks in training mode (`attack_bn="train"`).
    Deviates: none known; given the noise, the examples are the reference's to rounding.
    """

    within_radius = False

    def __init__(
        self,
        threat: Threat | None = None,
        noise: float = 2.0,
        step_size: float | str | None = None,
        loss: Loss = "ce",
    ) -> None:
        if noise < 0:
            raise ValueError(f"noise must be >= 0, in units of the radius, got {noise}.")
        super().__init__(threat, steps=1, step_size=step_size, start="uniform" if noise else "none", loss=loss)
        self.noise = noise

    def with_steps(self, steps: int) -> "NFGSM":
        """Refuse any number of steps but one.

        Raises:
            ValueError: for another number.
        """
        if steps != 1:
            raise ValueError(f"NFGSM takes one step, got {steps}: set the attack to PGD.")
        return self

    def _step(self, eps: Tensor) -> Tensor:
        return eps if self.step_size is None else self.step_size * (eps > 0).to(eps)

    def _start(self, x: Tensor, call: Call) -> Tensor:
        return self.threat.random(x, call.rng, (self.noise * call.eps).flatten())

    def _ascend(
        self,
        net: Net,
        x: Tensor,
        target: Tensor,
        objective: Objective,
        eps: Tensor,
        step: Tensor,
        x_adv: Tensor,
        rng: SampleRNG,
    ) -> Tensor:
        """Take the step, and stay in the box alone."""
        grad, _ = input_gradient(lambda z: objective(net(z), target), x_adv)
        moved = x_adv + step * self.threat.steepest(grad, x_adv)
        return moved.clamp(self.threat.lower, self.threat.upper)
