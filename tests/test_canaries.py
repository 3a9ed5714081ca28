"""The silent traps of the libraries underneath: each still there, so that we notice when it changes, and none of ours.

Where another test already shows that this package is immune, `ELSEWHERE` names it and only the trap itself stands here.
"""

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning import LightningModule, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, DistributedSampler
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy
from torchvision.transforms import v2

from lightning_robust.attacks import PGD
from lightning_robust.cli.main import main
from lightning_robust.defenses import Standard
from lightning_robust.metrics import AttackSuccessRate, RobustAccuracy
from lightning_robust.parts.regularizers import Regularizer
from lightning_robust.types import Batch, Views
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp
from tests.helpers.few import Few, norm_net, plain_net
from tests.helpers.foreign import ForeignModule, images, loader

TESTS = Path(__file__).parent
ELSEWHERE = {
    "a checkpoint's settings override those asked for": (
        "cli/test_cli.py",
        "test_fit_says_how_to_test_and_test_obeys_the_command_line",
    ),
    "a stale checkpoint of another SLURM job is loaded": (
        "cli/test_cli.py",
        "test_a_slurm_job_finds_its_own_folder_again",
    ),
    "a mean's gradient underflows in fp16": ("runtime/test_modes.py", "test_fp16_does_not_lose_the_gradient"),
    "weights restored before the backward pass": (
        "defenses/test_base.py",
        "test_the_gradient_is_taken_at_the_perturbed_weights_and_applied_at_the_old",
    ),
    "an attack through backward()": (
        "defenses/test_base.py",
        "test_two_accumulated_batches_equal_one_of_twice_the_size",
    ),
    "a padded sampler in evaluation": ("data/test_data_module.py", "test_two_ranks_and_a_prime_number_of_samples"),
    "a padded sampler in a foreign project": (
        "callbacks/test_robust_evaluation.py",
        "test_two_ranks_count_every_sample_once",
    ),
    "means of uneven ranks": (
        "defenses/test_parallel.py",
        "test_logged_means_are_over_samples_however_unevenly_the_ranks_share_them",
    ),
    "resuming repeats samples": (
        "test_reproducibility.py",
        "test_a_killed_and_resumed_run_ends_with_the_weights_of_one_never_killed",
    ),
    "the same noise on every rank": ("defenses/test_parallel.py", "test_random_starts_differ_between_ranks_and_steps"),
    "statistics moved by the attack": ("defenses/test_base.py", "test_running_statistics_move_as_attack_bn_says"),
    "one draw for a whole batch": (
        "data/test_sampling.py",
        "test_augmentation_depends_on_the_seed_alone_and_leaves_the_generator_alone",
    ),
    "synchronised batch norms forgotten": ("runtime/test_modes.py", "test_running_statistics_move_only_in_train_mode"),
}


@pytest.mark.parametrize("trap", ELSEWHERE)
def test_the_tests_named_above_exist(trap: str) -> None:
    file, name = ELSEWHERE[trap]
    tree = ast.parse((TESTS / file).read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


# ------------------------------------------------------------------------------------------------------------ metrics


class Clean(MulticlassAccuracy):
    def update(self, logits: Tensor, logits_adv: Tensor, y: Tensor) -> None:
        super().update(logits, y)


class Robust(MulticlassAccuracy):
    def update(self, logits: Tensor, logits_adv: Tensor, y: Tensor) -> None:
        super().update(logits_adv, y)


def test_compute_groups_report_clean_accuracy_as_robust() -> None:
    """https://github.com/Lightning-AI/torchmetrics/issues/2596"""
    right, wrong, y = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([0])
    stock = MetricCollection({"clean": Clean(2, average="micro"), "robust": Robust(2, average="micro")})
    ours = RobustAccuracy(["pgd"])
    grouped = MetricCollection({"accuracy": ours, "success": AttackSuccessRate()})
    for adv in (right, wrong, wrong, wrong):  # the first batch ties
        stock.update(right, adv, y)
        grouped["accuracy"].update(right, {"pgd": adv}, y)
        grouped["success"].update(right, adv, y)
    assert float(stock.compute()["robust"]) == 1.0  # the trap
    assert float(ours.compute()["pgd"]) == 0.25
    assert float(grouped["success"].compute()) == 0.75
    for name in ("pgd", "clean"):
        assert float(grouped.compute()[name]) == {"pgd": 0.25, "clean": 1.0}[name]


def test_two_metrics_of_ours_in_one_collection_need_compute_groups_off() -> None:
    """What torchmetrics does to any two equal metrics; one RobustAccuracy holds all attacks, so there is no need."""
    metric = RobustAccuracy(["fgsm", "pgd"])
    right, wrong, y = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([0])
    collection = MetricCollection({"only": metric})
    for fgsm, pgd in ((right, right), (right, wrong)):
        collection.update(right, {"fgsm": fgsm, "pgd": pgd}, y)
    got = collection.compute()
    assert [float(got[name]) for name in ("clean", "fgsm", "pgd", "worst")] == [1.0, 1.0, 0.5, 0.5]


def test_logged_floats_are_averaged_wrongly_over_uneven_ranks() -> None:
    """https://github.com/Lightning-AI/pytorch-lightning/issues/21838"""

    class Logs(ForeignModule):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.log("mean", batch[2].float().mean(), sync_dist=True, on_epoch=True, batch_size=len(batch[0]))

    def on(rank: int) -> float:
        data = Few(test_size=5, eval_batch_size=2)  # ranks hold samples 0 2 4 and 1 3
        trainer = ddp_trainer()
        trainer.test(Logs(), data, verbose=False)
        return float(trainer.callback_metrics["mean"])

    assert run_ddp(on)[0] != pytest.approx(2.0)  # the trap: it is the mean of 0 1 2 3 4


def test_lightnings_sampler_pads() -> None:
    padded = [list(DistributedSampler(images(5), 2, rank, shuffle=False)) for rank in (0, 1)]
    assert padded == [[0, 2, 4], [1, 3, 0]]  # the trap: 6 of 5
    ours = []
    for rank in (0, 1):
        data = Few(test_size=5)
        data._world_size_and_rank = lambda rank=rank: (2, rank)  # type: ignore[method-assign]
        data.setup("test")
        ours.append(list(data.test_dataloader().sampler))
    assert ours == [[0, 2, 4], [1, 3]]


# ---------------------------------------------------------------------------------------------------------- gradients


class Penalty(Regularizer):
    """The squared norm of the gradient of the summed loss, in evaluation mode, without any care."""

    name = "penalty"

    def __call__(self, net: Any, batch: Batch, views: Views, epoch: int) -> Tensor:
        net.eval()
        x = batch.x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(cross_entropy(net(x), batch.y, reduction="sum"), x, create_graph=True)
        net.train()
        return grad.square().flatten(1).sum(1)


def stale_net() -> nn.Sequential:
    """One forward pass in training mode moves its running statistics far."""
    net = norm_net()
    net[0].running_var.fill_(0.02)
    net[0].momentum = 0.9
    return net


def test_a_training_forward_spoils_an_earlier_graph_in_evaluation_mode() -> None:
    net, (x, y) = stale_net(), images(6).tensors
    loss = cross_entropy(net.eval()(x), y)
    right = torch.autograd.grad(loss, net[0].weight, retain_graph=True)[0]
    net.train()(x)
    wrong = torch.autograd.grad(loss, net[0].weight)[0]
    assert (wrong - right).norm() > 0.05 * right.norm()  # the trap: no error was raised


def test_regularizers_come_after_the_methods_forward_passes() -> None:
    defense = Standard(stale_net(), optimizer=lambda p: torch.optim.SGD(p, lr=1.0), regularizers=[Penalty()])
    before = defense.net[1].weight.detach().clone()
    quiet_trainer(max_epochs=1).fit(defense, loader(6, 6))

    net, (x, y) = stale_net(), images(6).tensors
    loss = cross_entropy(net(x), y)
    for name, buffer in list(net[0].named_buffers()):
        net[0]._buffers[name] = buffer.clone()  # nothing that follows can overwrite what the graph holds
    penalty = Penalty()(net, Batch(x, y), Views(x), 0)
    (gradient,) = torch.autograd.grad(loss + penalty.mean(), net[1].weight)
    torch.testing.assert_close(before - defense.net[1].weight.detach(), gradient, rtol=1e-4, atol=1e-6)


def test_weights_restored_through_data_spoil_the_gradient() -> None:
    (x, y), net = images(6).tensors, plain_net()
    moves = [0.3 * torch.randn_like(p) for p in net.parameters()]

    def shift(sign: int) -> None:
        for p, move in zip(net.parameters(), moves, strict=True):
            p.data += sign * move

    shift(1)
    loss = cross_entropy(net(x), y)
    right = torch.autograd.grad(loss, list(net.parameters()), retain_graph=True)
    shift(-1)
    wrong = torch.autograd.grad(loss, list(net.parameters()))
    assert not torch.allclose(right[0], wrong[0], rtol=1e-2)  # the trap: no error was raised


def test_an_attack_through_backward_writes_the_parameters_gradients() -> None:
    (x, y), net = images(6).tensors, plain_net()
    cross_entropy(net(x.clone().requires_grad_()), y).backward()
    assert net[0].weight.grad.norm() > 0  # the trap
    net.zero_grad()
    PGD(steps=2, restarts=2)(net, x, y)
    assert all(p.grad is None for p in net.parameters())


def test_autocast_hides_weights_moved_in_place() -> None:
    (x, y), net = images(6).tensors, plain_net()
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=True):
        before = cross_entropy(net(x), y)
        with torch.no_grad():
            for p in net.parameters():
                if p.dim() > 1:
                    p += 0.5
        assert cross_entropy(net(x), y) == before  # the trap
        torch.clear_autocast_cache()
        assert cross_entropy(net(x), y) != before


def test_every_forward_in_training_mode_moves_the_running_statistics() -> None:
    net, (x, y) = norm_net(), images(6).tensors
    for _ in range(3):
        net(x)
    assert int(net[0].num_batches_tracked) == 3  # the trap
    PGD(steps=3)(net, x, y)
    assert int(net[0].num_batches_tracked) == 3


def test_a_synchronised_batch_norm_is_no_batch_norm_2d() -> None:
    assert not isinstance(nn.SyncBatchNorm(3), nn.BatchNorm2d)  # the trap
    assert isinstance(nn.SyncBatchNorm(3), nn.modules.batchnorm._BatchNorm)


# ---------------------------------------------------------------------------------------------- randomness and resuming


def test_every_rank_draws_the_same() -> None:
    def on(rank: int) -> Tensor:
        seed_everything(0)
        return torch.rand(3)

    first, second = run_ddp(on)
    assert torch.equal(first, second)  # the trap


def test_a_transform_flips_the_whole_batch_or_none_of_it() -> None:
    x, flip = images(8).tensors[0], v2.RandomHorizontalFlip()
    for _ in range(5):
        flipped = [not torch.equal(a, b) for a, b in zip(flip(x), x, strict=True)]
        assert len(set(flipped)) == 1  # the trap


class Order(LightningModule):
    """Keeps the order in which it sees the samples."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen: list[int] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen += batch[-1].tolist()
        return self.weight * 1.0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


# Lightning says that a plain loader cannot go on mid-epoch, and where it saves:
# https://github.com/Lightning-AI/pytorch-lightning/blob/master/src/lightning/pytorch/loops/fit_loop.py
@pytest.mark.filterwarnings(
    "ignore:You're resuming from a checkpoint that ended before the epoch ended",
    "ignore:Checkpoint directory .* exists and is not empty",
)
@pytest.mark.parametrize("step", [4, 6], ids=["epoch's end", "mid-epoch"])
@pytest.mark.parametrize("ours", [False, True], ids=["shuffle=True", "ours"])
def test_a_plain_loader_repeats_its_order_when_resumed(ours: bool, step: int, tmp_path: Path) -> None:
    def run(epochs: int, resume: str | None = None) -> list[int]:
        seed_everything(1)
        module = Order()
        plain = DataLoader([(i,) for i in range(8)], 2, shuffle=True, collate_fn=lambda b: (torch.tensor(b)[:, 0],))
        save = ModelCheckpoint(
            tmp_path, "step{step}", every_n_train_steps=2, save_top_k=-1, auto_insert_metric_name=False
        )
        trainer = quiet_trainer(max_epochs=epochs, enable_checkpointing=True, callbacks=[save])
        few = Few(n=8, batch_size=2)
        few.setup("fit")
        loader = few.train_dataloader() if ours else plain
        trainer.fit(module, loader, ckpt_path=resume, weights_only=True if resume else None)
        return module.seen

    whole = run(2)
    resumed = run(2, str(tmp_path / f"step{step}.ckpt"))
    expected = whole[2 * step :]
    assert len(resumed) == len(expected)
    assert (resumed == expected) is ours  # the trap, and its cure


# -------------------------------------------------------------------------------------------------------- command line


def test_a_later_file_replaces_the_callbacks_but_not_evaluation_and_checkpointing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = TESTS.parent / "configs/digits/at.yaml"
    for name in ("LearningRateMonitor", "DeviceStatsMonitor"):
        (tmp_path / f"{name}.yaml").write_text(f"trainer: {{callbacks: [{{class_path: {name}}}]}}\n")
    files = [base, tmp_path / "LearningRateMonitor.yaml", tmp_path / "DeviceStatsMonitor.yaml"]
    with pytest.raises(SystemExit):
        main(["fit", *(f"--config={file}" for file in files), "--print_config"])
    config = yaml.safe_load(capsys.readouterr().out)
    names = [callback["class_path"].rpartition(".")[2] for callback in config["trainer"]["callbacks"]]
    assert names == ["DeviceStatsMonitor"]  # the trap
    assert list(config["evaluation"]["attacks"]) == ["pgd50"]
    assert config["checkpoint"]["monitor"] == "val/worst_acc"
