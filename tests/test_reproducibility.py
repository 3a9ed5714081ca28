"""One seed, one result: also when the run is killed and resumed, on one rank and on two."""

import functools
import os
import signal
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lightning_robust.attacks import PGD
from lightning_robust.callbacks import AveragedWeights, RobustEvaluation
from lightning_robust.data import BatchMixing
from lightning_robust.defenses import AT, IAAT, ST, Defense, FreeAT
from lightning_robust.parts import AdversarialWeightPerturbation as AWP
from lightning_robust.threat import Threat
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp
from tests.helpers.few import Few, norm_net

ATTACK = PGD(Threat(eps=0.2), steps=2, step_size=0.05)


def defense(method: str = "AT") -> Defense:
    """With everything that has a memory: momentum, a schedule, running statistics, and the method's own."""
    given: dict[str, Any] = {
        "attack": ATTACK,
        "optimizer": lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.9),
        "scheduler": lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.9),
        "scheduler_interval": "step",
    }
    if method == "IAAT":
        return IAAT(norm_net(), gamma=0.05, beta=0.5, warmup=1, **given)
    if method == "ST":
        return ST(norm_net(), weight_perturbation=AWP(0.05, start_epoch=1), **given)
    if method == "FreeAT":
        return FreeAT(norm_net(), replays=2, **given)
    return AT(norm_net(), attack_bn="train", **given)


def memory(module: Defense) -> list[Tensor]:
    """Weights, running statistics, and the radii or the noise if there are some."""
    own = [module.radii.values] if isinstance(module, IAAT) else [module.noise] if isinstance(module, FreeAT) else []
    return [*weights(module), *(value.clone() for value in own)]


def weights(module: torch.nn.Module) -> list[Tensor]:
    return [value.detach().clone() for value in module.state_dict().values()]


class Kill(Callback):
    """Ends the process as a machine failure would, after this many steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def run(
    folder: Path, ranks: int, callbacks: list[Any], resume: str | None = None, method: str = "AT"
) -> list[list[Tensor]]:
    """Three epochs of six batches a rank, in processes of their own.

    ST has averaged weights, and "mixed", which is AT, mixed images too.
    """

    def on(rank: int) -> list[Tensor]:
        seed_everything(5)
        module = defense(method)
        average = [AveragedWeights(decay=0.7, ramp=method == "mixed", start=0.1)] if method in ("ST", "mixed") else []
        mixed = {"mixing": BatchMixing(mixup_alpha=0.8, cutmix_alpha=1.0)} if method == "mixed" else {}
        save = ModelCheckpoint(
            folder, "step{step}", every_n_train_steps=3, save_top_k=-1, auto_insert_metric_name=False
        )
        kwargs: dict[str, Any] = {
            "max_epochs": 3,
            "callbacks": [save, RobustEvaluation({"pgd": ATTACK}, figure_samples=0), *average, *callbacks],
            "enable_checkpointing": True,
            "default_root_dir": folder,
            "num_sanity_val_steps": 0,
        }
        trainer = ddp_trainer(ranks, **kwargs) if ranks > 1 else quiet_trainer(**kwargs)
        data = Few(n=22 * ranks, batch_size=4, **mixed)
        trainer.fit(module, data, ckpt_path=resume, weights_only=True if resume else None)
        assert trainer.global_step == 18
        kept = average[0].average if average else None
        raw = kept.states(module)[1] if kept else {}  # the averages stand in the module
        return [*memory(module), *raw.values()]

    return run_ddp(on, ranks)


@functools.cache
def never_killed(method: str, ranks: int) -> list[list[Tensor]]:
    with tempfile.TemporaryDirectory() as folder:
        return run(Path(folder), ranks, [], method=method)


@pytest.mark.parametrize("method", ["AT", "FreeAT", "IAAT", "ST", "mixed"])
@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("killed", "saved"),
    [pytest.param(11, 9, id="mid-epoch"), pytest.param(13, 12, id="epoch's end", marks=pytest.mark.slow)],
)
# resuming says where it saves: https://github.com/Lightning-AI/pytorch-lightning/blob/master/src/lightning/pytorch/callbacks/model_checkpoint.py
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_killed_and_resumed_run_ends_with_the_weights_of_one_never_killed(
    killed: int, saved: int, ranks: int, method: str, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match="-9"):
        run(tmp_path / "killed", ranks, [Kill(killed)], method=method)
    checkpoints = sorted((tmp_path / "killed").glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    assert checkpoints[-1].stem == f"step{saved}"
    resumed = run(tmp_path / "killed", ranks, [], str(checkpoints[-1]), method)
    torch.testing.assert_close(resumed, never_killed(method, ranks), rtol=0, atol=0)


def seeded(everything: int | None, **settings: Any) -> list[Tensor]:
    if everything is not None:
        seed_everything(everything)
    module = defense()
    quiet_trainer(max_epochs=2).fit(module, Few(n=22, **settings))
    return weights(module)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    first = seeded(1)
    torch.rand(7)  # what else draws does not matter
    torch.testing.assert_close(seeded(1), first, rtol=0, atol=0)
    assert not torch.allclose(seeded(2)[-2], first[-2])


def test_loading_processes_change_nothing() -> None:
    torch.testing.assert_close(seeded(1, num_workers=1), seeded(1), rtol=0, atol=0)


def test_the_attacks_noise_follows_the_seed_when_the_data_do_not() -> None:
    first = seeded(1, seed=0)
    torch.testing.assert_close(seeded(1, seed=0), first, rtol=0, atol=0)
    assert not torch.allclose(seeded(2, seed=0)[-2], first[-2])


def test_without_seed_everything_torchs_seed_counts() -> None:
    torch.manual_seed(3)
    first = seeded(None)
    torch.manual_seed(3)
    torch.testing.assert_close(seeded(None), first, rtol=0, atol=0)
    torch.manual_seed(4)
    assert not torch.allclose(seeded(None)[-2], first[-2])
