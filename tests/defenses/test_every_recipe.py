"""Two ranks do what one process does on their batches joined: for every recipe of configs/digits."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.cli import LightningArgumentParser
from torch import Tensor

import lightning_robust.attacks
import lightning_robust.models  # noqa: F401  (short names)
from lightning_robust.cli.devices import fitting_ddp
from lightning_robust.data import RobustDataModule
from lightning_robust.defenses import Defense
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp
from tests.helpers.few import DigitsNet

RECIPES = sorted(Path(__file__).parents[2].glob("configs/digits/*.yaml"))
# each part once, and accumulated batches; the rest only in the full suite
QUICK = {("emr_iaat", 2), ("st_awp", 1), ("st_rst", 1), ("mail_mart", 1)}
EPOCHS, BATCHES, BATCH = 2, 2, 8


def sooner(value: Any) -> Any:
    """The recipe with every warm-up ending after one epoch, and attacks of three steps."""
    if isinstance(value, list):
        return [sooner(part) for part in value]
    if not isinstance(value, dict):
        return value
    now = {"start_epoch": 1, "begin": 1, "warmup": 1, "milestones": [1], "steps": 3}
    return {key: now[key] if key in now else sooner(part) for key, part in value.items()}


def built(recipe: Path, batch_size: int) -> tuple[Defense, RobustDataModule]:
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Defense, "model")
    parser.add_subclass_arguments(RobustDataModule, "data")
    config = yaml.safe_load(recipe.read_text())
    config["data"].setdefault("init_args", {}).update(batch_size=batch_size, seed=3)
    if "teacher" in config["model"]["init_args"]:
        config["model"]["init_args"]["teacher"] = {
            "class_path": "tests.helpers.few.DigitsNet",
            "init_args": {"seed": 2, "factor": 20.0},
        }
    built = parser.instantiate_classes(parser.parse_object({"model": sooner(config["model"]), "data": config["data"]}))
    built.model.net = DigitsNet()  # without batch norm, whose statistics are each rank's own
    return built.model, built.data


def trained(recipe: Path, ranks: int, accumulate: int) -> tuple[list[Tensor], dict[str, Tensor], Tensor]:
    """Final weights, what was logged of the last epoch, and radii; in double precision."""
    defense, data = built(recipe, BATCH // ranks)
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
        pytest.param(
            r, accumulate, id=f"{r.stem}-{accumulate}", marks=() if (r.stem, accumulate) in QUICK else pytest.mark.slow
        )
        for r in RECIPES
        for accumulate in (1, 2)
        if (r.stem, accumulate) != ("free_at", 2)  # refused
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
    untrained = built(recipe, BATCH)[0].net[0].weight
    assert not torch.allclose(weights[0], untrained.double(), atol=1e-3)
