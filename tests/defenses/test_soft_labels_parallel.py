"""Two ranks do what one process does on their batches joined, also where labels are probabilities."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from lightning_robust.attacks import MSD, PGD, FriendlyPGD, OneOf, SparsePGD, TrainingAPGD, WorstOf
from lightning_robust.defenses import (
    ALP,
    AT,
    AVG,
    AWP,
    EAT,
    EMR,
    GAIRAT,
    IAAT,
    MAIL,
    MART,
    MMC,
    SCORE,
    SCOREAT,
    ST,
    TRADES,
    Defense,
    Standard,
)
from lightning_robust.parts import ASAM, RobustWeightPerturbation
from lightning_robust.threat import Threat
from tests.defenses.test_parallel import weights
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp
from tests.helpers.few import Few, centred, plain_net

THREAT = Threat(eps=0.2)
NOISY, NORMAL = (PGD(THREAT, steps=2, step_size=0.05, start=start) for start in ("uniform", "normal"))
NORMS: dict[str, Any] = {"linf": NOISY, "l1": SparsePGD(Threat("l1", 2.0), steps=2, step_size=1.0, most=8)}
METHODS: dict[str, Callable[..., Defense]] = {
    "ALP": lambda net, **given: ALP(net, attack=NORMAL, **given),
    "AT": lambda net, **given: AT(net, attack=NOISY, **given),
    "APGD": lambda net, **given: AT(net, attack=TrainingAPGD(THREAT), **given),
    "AVG": lambda net, **given: AVG(net, attack=WorstOf(NORMS), **given),
    "AT with MSD": lambda net, **given: AT(net, attack=MSD(NORMS), **given),
    "AT with OneOf": lambda net, **given: AT(net, attack=OneOf(NORMS), **given),
    "EAT": lambda net, **given: EAT(net, attack=OneOf({**NORMS, "l2": TrainingAPGD(Threat("l2", 0.5))}), **given),
    "AWP": lambda net, **given: AWP(net, attack=NOISY, gamma=0.05, start_epoch=0, **given),
    "EMR": lambda net, **given: EMR(net, attack=NOISY, weight=0.1, **given),
    "FAT": lambda net, **given: AT(
        net, attack=FriendlyPGD(THREAT, steps=3, step_size=0.05, tau=1, noise=0.01), **given
    ),
    "GAIRAT": lambda net, **given: GAIRAT(net, attack=NOISY, start_epoch=0, **given),
    "IAAT": lambda net, **given: IAAT(net, attack=NOISY, gamma=0.05, beta=0.5, warmup=0, **given),
    "MAIL": lambda net, **given: MAIL(net, attack=NOISY, start_epoch=0, **given),
    "MART": lambda net, **given: MART(net, attack=NORMAL, **given),
    "MMC": lambda net, **given: MMC(
        centred(net), attack=NOISY, **{**given, "optimizer": lambda p: torch.optim.SGD(p, lr=0.05)}
    ),
    "RWP": lambda net, **given: AT(
        net, attack=NOISY, weight_perturbation=RobustWeightPerturbation(0.05, steps=2, threshold=5.0), **given
    ),
    "SCORE": lambda net, **given: SCORE(net, attack=NORMAL, clip=0.05, **given),
    "SCOREAT": lambda net, **given: SCOREAT(net, attack=NOISY, clip=0.05, **given),
    "ST": lambda net, **given: ST(net, attack=NORMAL, **given),
    "ASAM": lambda net, **given: Standard(net, weight_perturbation=ASAM(), **given),
    "Standard": lambda net, **given: Standard(net, **given),
    "TRADES": lambda net, **given: TRADES(net, attack=NORMAL, **given),
}


class Soft(Few):
    """Few images in float64, whose labels are probabilities."""

    def train_data(self, augment: bool) -> TensorDataset:
        x, y = super().train_data(augment).tensors
        other = torch.rand(len(x), 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64).softmax(1)
        return TensorDataset(x.double(), 0.6 * nn.functional.one_hot(y, 3) + 0.4 * other)


def trained(method: str, trainer: Any, batch_size: int) -> list[Tensor]:
    defense = METHODS[method](
        plain_net(dtype=torch.float64),
        label_smoothing=0.1,
        optimizer=lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.9),
    )
    trainer.fit(defense, Soft(n=24, batch_size=batch_size, seed=3))
    return weights(defense)


@pytest.mark.parametrize("method", METHODS)
def test_two_ranks_equal_one_process(method: str) -> None:
    alone = trained(method, quiet_trainer(max_epochs=2, limit_val_batches=0), 8)
    first, second = run_ddp(lambda rank: trained(method, ddp_trainer(max_epochs=2, limit_val_batches=0), 4))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(first, alone, rtol=1e-9, atol=1e-11)
    assert not torch.allclose(first[0], weights(plain_net(dtype=torch.float64))[0], atol=1e-2)
