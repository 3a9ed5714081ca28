"""Several attacks, each on the samples that the ones before it did not break."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_robust.attacks.base import Attack, craft, misclassified
from lightning_robust.attacks.pad_small_batches import PadSmallBatches
from lightning_robust.attacks.runs import room_for
from lightning_robust.runtime.modes import AttackBN
from lightning_robust.runtime.precision import full_precision
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.types import Net, Objective, Radius


class Ensemble(Attack):
    """The worst case of several attacks: each runs only on what is still classified correctly.

    Args:
        attacks: by name, in order; all of one threat model.
        batch_size: images at a time, at most (four times as many where no gradient is taken); the survivors of all
            batches fill the next stage's, and so do several targets or restarts of a sample. By default as many as
            there are samples.

    Raises:
        ValueError: for no attacks, different threat models, or a batch size < 1.
    """

    def __init__(self, attacks: Mapping[str, Attack], batch_size: int | None = None) -> None:
        threats = list(dict.fromkeys(attack.threat for attack in attacks.values()))
        if len(threats) != 1:
            raise ValueError(
                f"An ensemble needs attacks of one threat model, got {len(threats)}: "
                f"{', '.join(map(str, threats)) or 'no attacks'}."
            )
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {batch_size}.")
        super().__init__(threats[0])
        self.attacks = dict(attacks)
        self.batch_size = batch_size

    @property
    def stages(self) -> dict[str, Attack]:
        """The attacks; of an ensemble within the ensemble, its own."""
        flat: dict[str, Attack] = {}
        for name, attack in self.attacks.items():
            flat.update({f"{name}-{inner}": stage for inner, stage in attack.stages.items()} or {name: attack})
        return flat

    def __call__(
        self,
        net: Net,
        x: Tensor,
        target: Tensor,
        *,
        objective: Objective | None = None,
        eps: Radius | None = None,
        step_size: Radius | None = None,
        start: Tensor | None = None,
        bn: AttackBN = "eval",
        rng: SampleRNG | None = None,
    ) -> Tensor:
        """Craft examples; see `Attack.__call__`. What no attack breaks is returned as it is."""
        size, net = self.batch_size or max(len(x), 1), PadSmallBatches(net)
        with craft(net, x, target, bn, rng) as (x, y, rng), room_for(size):
            x_adv = x.clone()
            left = _standing(net, x, y, torch.arange(len(x), device=x.device), size)
            for number, attack in enumerate(self.stages.values()):
                if not len(left):
                    break
                for some in torch.split(left, attack.fitting(size)):
                    x_adv[some] = attack(
                        net,
                        x[some],
                        y[some],
                        objective=objective,
                        eps=_rows(eps, some),
                        step_size=_rows(step_size, some),
                        start=None if start is None else start[some],
                        bn=bn,
                        rng=rng[some].fork(number),
                    )
                left = _standing(net, x_adv, y, left, size)
            x_adv[left] = x[left]
        return x_adv


def _rows(value: Radius | None, which: Tensor) -> Radius | None:
    return value[which] if isinstance(value, Tensor) and value.dim() else value


@torch.no_grad()
def _standing(net: Net, x: Tensor, y: Tensor, among: Tensor, size: int) -> Tensor:
    """Which of these samples are classified correctly, in fp32."""
    with full_precision(x):
        wrong = [misclassified(net, x[some], net(x[some]), y[some]) for some in torch.split(among, size)]
    return among[~torch.cat(wrong)] if len(among) else among
