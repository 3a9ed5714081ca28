"""Two ranks do what one process does on their batches joined: for every recipe of configs/digits."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.common.combinations import prepared
from lightning_robust.cli.devices import fitting_ddp
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp

RECIPES = sorted(Path(__file__).parents[2].glob("configs/digits/*.yaml"))
# with accumulated batches: a part of each kind; that every method takes them is shown in test_combinations
ACCUMULATED = {"emr_iaat", "mail_mart", "st_awp", "st_rst", "mma", "hat", "lbgat", "ikl", "eat", "cfa"}
EPOCHS, BATCHES, BATCH = 2, 2, 8
# without batch norm, whose statistics are each rank's own
NET = {"class_path": "tests.helpers.few.DigitsNet"}
TEACHER = {**NET, "init_args": {"seed": 2, "factor": 20.0}}


def trained(recipe: Path, ranks: int, accumulate: int) -> tuple[list[Tensor], dict[str, Tensor], Tensor]:
    """Final weights, what was logged of the last epoch, and radii; in double precision."""
    defense, data, _ = prepared(recipe.stem, None, NET, TEACHER, BATCH // ranks)
    settings: dict[str, Any] = {
        "max_epochs": EPOCHS,
        "limit_train_batches": BATCHES,
        "limit_val_batches": 0,
        "precision": "64-true",
        "accumulate_grad_batches": accumulate,
    }
    trainer = (
        ddp_trainer(ranks, fitting_ddp(accumulate)._ddp_kwargs, **settings) if ranks > 1 else quiet_trainer(**settings)
    )
    trainer.fit(defense, data)
    assert trainer.global_step == EPOCHS * BATCHES // accumulate
    weights = [value.detach().clone() for value in defense.net.state_dict().values()]
    return weights, dict(trainer.callback_metrics), getattr(getattr(defense, "radii", None), "values", torch.zeros(0))


@pytest.mark.parametrize(
    ("recipe", "accumulate"),
    [
        pytest.param(r, accumulate, id=f"{r.stem}-{accumulate}")
        for r in RECIPES
        for accumulate in ((1, 2) if r.stem in ACCUMULATED else (1,))
        if r.stem != "iat"  # a sample is mixed with one of its own rank
    ],
)
# DDP's advice on speed, for a convolution of one channel differentiated twice:
# https://github.com/pytorch/pytorch/blob/main/torch/csrc/distributed/c10d/reducer.cpp
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Grad strides do not match bucket view strides")
def test_two_ranks_equal_one_process_on_the_joined_batch(recipe: Path, accumulate: int) -> None:
    weights, logged, radii = trained(recipe, 1, accumulate)
    for own, own_logged, own_radii in run_ddp(lambda rank: trained(recipe, 2, accumulate)):
        torch.testing.assert_close(own, weights, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(own_radii, radii, rtol=0, atol=0)
        assert set(own_logged) == set(logged) >= {"train/loss", "train/adv_acc"}
        for name, value in logged.items():
            torch.testing.assert_close(own_logged[name], value, rtol=1e-5, atol=1e-7, msg=name)
    defense, _, _ = prepared(recipe.stem, None, NET, TEACHER)
    untrained = next(iter(defense.net.state_dict().values()))
    assert not torch.allclose(weights[0], untrained.double(), atol=1e-3)
