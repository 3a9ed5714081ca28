"""How an evaluation calls an attack follows from what the attack's class declares."""

from typing import Any

import torch
from torch import Tensor

from lightning_robust.attacks import Attack, Ensemble
from lightning_robust.evaluation.accuracy_figures import accuracy_by_radius
from lightning_robust.evaluation.evaluate import Evaluation
from lightning_robust.evaluation.images import Images
from lightning_robust.evaluation.samples import Samples
from lightning_robust.threat import Threat

X = torch.tensor([0.9, 0.8, 0.6]).view(3, 1, 1, 1).repeat(1, 1, 2, 2)


def net(x: Tensor) -> Tensor:
    """Says 0 where the mean is above 0.5."""
    return (x.mean((1, 2, 3))[:, None] - 0.5) * torch.tensor([1.0, -1.0])


class Darker(Attack):
    """Knows the nearest example, just below a mean of 0.5, and shares no class with the package's own searches."""

    minimizes = True

    def nearest(self, net: Any, x: Tensor, y: Tensor, **_: Any) -> Tensor:
        return torch.full_like(x, 0.499)

    def _perturb(self, net: Any, x: Tensor, target: Tensor, call: Any) -> Tensor:
        near = self.nearest(net, x, target)
        return torch.where((near - x).abs() <= call.eps, near, x)


def evaluated(attack: Attack) -> Samples:
    index, y = torch.arange(3), torch.zeros(3, dtype=torch.int64)
    samples = Samples(index, y, y, index, index, index < 0, Images.of(X))
    evaluation = Evaluation({"darker": attack})
    evaluation.prepare(samples)
    evaluation.run(net, samples, X.device)
    return samples


def test_a_search_of_ones_own_is_kept_beyond_the_radius() -> None:
    attack = Darker(Threat("linf", 0.31))
    samples = evaluated(attack)
    torch.testing.assert_close(samples.verdicts["darker"].size.float(), torch.tensor([0.401, 0.301, 0.101]))
    assert samples.robust().tolist() == [True, False, False]
    assert accuracy_by_radius(samples, {"darker": attack}) is not None


def test_within_an_ensemble_it_stays_within_the_radius() -> None:
    samples = evaluated(Ensemble({"darker": Darker(Threat("linf", 0.31))}))
    torch.testing.assert_close(samples.verdicts["darker"].size.float(), torch.tensor([0.0, 0.301, 0.101]))
    assert samples.robust().tolist() == [True, False, False]
