"""Averaged weights against torch's `AveragedModel`, over checkpoints, ranks and interruptions."""

import copy
import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import (
    EMAWeightAveraging,
    LearningRateFinder,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from torch.utils.data import DataLoader, IterableDataset

from lightning_robust.attacks import PGD
from lightning_robust.callbacks import AveragedWeights, RobustEvaluation
from lightning_robust.cli.main import main
from lightning_robust.data import BatchMixing
from lightning_robust.defenses import AT, IAAT, Defense
from lightning_robust.models.weight_files import extract_weights
from lightning_robust.parts import AdversarialWeightPerturbation as AWP
from lightning_robust.threat import Threat
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp
from tests.helpers.few import Few, norm_net, plain_net
from tests.helpers.foreign import ForeignModule, loader

# runs go on without the callbacks that saved their checkpoints, and in other folders
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{told}") for told in ("Be aware that when", "The dirpath has changed")
]
ATTACK = PGD(Threat(eps=0.2), steps=2, step_size=0.05)
STEPS_AN_EPOCH, EPOCHS = 4, 3


def at(net: nn.Module | None = None, method: type[Defense] = AT, **settings: Any) -> Defense:
    sgd = functools.partial(torch.optim.SGD, lr=0.3, momentum=0.9)
    return method(net or norm_net(), attack=ATTACK, optimizer=sgd, **settings)


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def same(ours: Any, theirs: Any, exactly: bool = True) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0 if exactly else 1e-10, atol=0 if exactly else 1e-12)


class Notes(Callback):
    """Keeps the weights that train: at the start, and after each optimizer step; and those of each validation."""

    def __init__(self) -> None:
        self.nets: list[dict[str, Tensor]] = []
        self.evaluated: list[dict[str, Tensor]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.nets = [state(pl_module)]

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == len(self.nets):
            self.nets.append(state(pl_module))

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if not trainer.sanity_checking:
            self.evaluated.append(state(pl_module))


def fitted(
    average: AveragedWeights, module: LightningModule | None = None, data: Any = None, **trainer: Any
) -> tuple[Notes, LightningModule, Trainer]:
    seed_everything(3)
    notes, module = Notes(), at() if module is None else module
    given = {"max_epochs": EPOCHS, "num_sanity_val_steps": 0, **trainer}
    fitting = quiet_trainer(**{**given, "callbacks": [notes, average, *given.get("callbacks", [])]})
    fitting.fit(module, Few(n=16, batch_size=4, val_size=4, seed=3) if data is None else data)
    return notes, module, fitting


def averaged(average: AveragedWeights) -> dict[str, Tensor]:
    assert average.average is not None
    return average.average.tensors


# ---------------------------------------------------------------------------------------------------------- the average


def by_torch(nets: list[dict[str, Tensor]], first: int, decays: list[float | None]) -> dict[str, Tensor]:
    """The average of the nets from number `first` on, which begins with the one before, by torch's own class."""
    holder = nn.ParameterDict({k.replace(".", "/"): nn.Parameter(v.clone()) for k, v in nets[0].items() if v.dim()})
    average: AveragedModel | None = None
    for number, decay in enumerate(decays, first):
        for net in [nets[number - 1], nets[number]] if average is None else [nets[number]]:
            for key, value in net.items():
                if value.dim():
                    holder[key.replace(".", "/")].data.copy_(value)
            if average is None:
                average = AveragedModel(holder)
            if net is nets[number]:
                average.n_averaged.fill_(1)  # its first update copies
                average.multi_avg_fn = get_ema_multi_avg_fn(decay)
                average.update_parameters(holder)
    assert average is not None
    return {key.replace("/", "."): value.detach() for key, value in average.module.items()}


LAST = STEPS_AN_EPOCH * EPOCHS
RULES: dict[str, tuple[dict[str, Any], int, list[float | None]]] = {
    "constant": ({"decay": 0.7}, 1, [0.7] * LAST),
    "from step 5": ({"decay": 0.7, "start": 5}, 5, [0.7] * (LAST - 4)),
    "from epoch 1": ({"decay": 0.7, "start_epoch": 1}, 5, [0.7] * (LAST - 4)),
    "ramp": ({"decay": 0.5, "ramp": True}, 1, [min(0.5, (1 + t) / (10 + t)) for t in range(1, LAST + 1)]),
    "ramp from a share": (  # 2.4 steps, so that t is 0.6 in step 3
        {"decay": 0.5, "ramp": True, "start": 0.2},
        3,
        [min(0.5, (1 + t) / (10 + t)) for t in (s - 0.2 * LAST for s in range(3, LAST + 1))],
    ),
    "equal": ({"decay": None, "start": 3}, 3, [n / (n + 1) for n in range(LAST - 2)]),
}


@pytest.mark.parametrize("rule", RULES)
def test_the_average_is_torchs(rule: str) -> None:
    settings, first, decays = RULES[rule]
    average = AveragedWeights(**settings)
    notes, module, _ = fitted(average)
    assert len(notes.nets) == LAST + 1
    expected = by_torch(notes.nets, first, decays)
    torch.testing.assert_close(averaged(average), expected, rtol=1e-6, atol=1e-7)
    for name, value in expected.items():
        torch.testing.assert_close(module.state_dict()[name], value, rtol=1e-6, atol=1e-7)


def test_equal_weights_are_the_mean() -> None:
    average = AveragedWeights(decay=None, start_epoch=1)
    notes, _, _ = fitted(average)
    for name, value in averaged(average).items():
        mean = torch.stack([net[name] for net in notes.nets[STEPS_AN_EPOCH + 1 :]]).double().mean(0)
        torch.testing.assert_close(value.double(), mean, rtol=1e-6, atol=1e-7)


def test_nets_are_averaged_before_the_validation_of_their_epoch() -> None:
    average = AveragedWeights(decay=None, every="epoch")
    notes, _, _ = fitted(average)
    ends = [notes.nets[STEPS_AN_EPOCH * n] for n in range(1, EPOCHS + 1)]
    for epoch, evaluated in enumerate(notes.evaluated):
        mean = torch.stack([net["net.4.weight"] for net in ends[: epoch + 1]]).mean(0)
        torch.testing.assert_close(evaluated["net.4.weight"], mean)


def test_before_it_starts_the_net_itself_is_evaluated(tmp_path: Path) -> None:
    average = AveragedWeights(decay=0.9, start_epoch=1)
    notes, _, trainer = fitted(average, max_epochs=1)
    same(notes.evaluated[0], notes.nets[-1])
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert "current_model_state" not in torch.load(tmp_path / "last.ckpt", weights_only=True)


def test_until_its_first_update_the_net_itself_is_evaluated(tmp_path: Path) -> None:
    """An average by epochs has its first update at the end of one; the net it begins with is never evaluated."""
    notes, *_ = fitted(AveragedWeights(decay=0.9, every="epoch"), val_check_interval=1, max_epochs=1)
    for evaluated, net in zip(notes.evaluated[:-1], notes.nets[1:-1], strict=True):
        same(evaluated, net)
    notes, module, _ = fitted(AveragedWeights(decay=0.9, every="epoch"), max_steps=2, max_epochs=-1)
    same(state(module), notes.nets[-1])
    whole, again = (AveragedWeights(decay=0.9, every="epoch") for _ in range(2))
    save = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    notes, *_ = fitted(whole, max_epochs=1, callbacks=[save], enable_checkpointing=True)
    path = tmp_path / "step=2.ckpt"
    same(torch.load(path, weights_only=True)["state_dict"], notes.nets[2])
    rest = quiet_trainer(max_epochs=1, callbacks=[again], num_sanity_val_steps=0)
    rest.fit(at(), Few(n=16, batch_size=4, val_size=4, seed=3), ckpt_path=path, weights_only=True)
    same(averaged(again), averaged(whole))


def test_a_step_is_one_of_the_optimizer() -> None:
    average = AveragedWeights(decay=0.7)
    notes, _, _ = fitted(average, accumulate_grad_batches=2)
    assert len(notes.nets) == LAST // 2 + 1
    expected = by_torch(notes.nets, 1, [0.7] * (LAST // 2))
    torch.testing.assert_close(averaged(average), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("restore", ["before_step", "after_step"])
def test_perturbed_weights_are_never_averaged(restore: Any) -> None:
    """With a decay of 0 the average is the net after each step, to the bit."""
    average = AveragedWeights(decay=0.0)
    notes, _, _ = fitted(average, at(plain_net(), weight_perturbation=AWP(0.1, restore=restore)))
    same(averaged(average), notes.nets[-1])
    assert not torch.equal(notes.nets[-1]["net.3.weight"], notes.nets[0]["net.3.weight"])


# ----------------------------------------------------------------------------------------------- buffers and parameters


class Remembering(ForeignModule):
    """With tensors that must not be averaged, and weights that are tied, frozen at first and in half precision."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("memory", torch.zeros(3))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.tied = self.head
        self.body[0].requires_grad_(False)
        self.small = nn.Parameter(torch.ones(2, dtype=torch.bfloat16))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.memory += 1
        self.count += 1
        return super().training_step(batch, batch_idx) - 0.01 * self.small.float().sum()

    def on_train_epoch_start(self) -> None:
        self.body[0].requires_grad_(self.current_epoch > 0)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("batch_norm", ["average", "alias"])
def test_other_tensors_are_those_of_the_net(batch_norm: Any, tmp_path: Path) -> None:
    average = AveragedWeights(decay=0.9, batch_norm=batch_norm)
    notes, module, trainer = fitted(average, Remembering(), loader(16))
    assert isinstance(module, Remembering)
    assert (int(module.count), float(module.memory[0])) == (12, 12.0)
    assert int(module.body[1].num_batches_tracked) == 12
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    same({name: value.to(module.state_dict()[name]) for name, value in saved["state_dict"].items()}, state(module))
    same(saved["current_model_state"], notes.nets[-1])
    assert saved["state_dict"]["small"].dtype == torch.float32  # so that a resumed run goes on exactly
    assert torch.equal(saved["state_dict"]["tied.weight"], saved["state_dict"]["head.weight"])
    conv = [net["body.0.weight"].double() for net in notes.nets]
    expected = conv[0]
    for net in conv[1:]:
        expected = 0.9 * expected + 0.1 * net
    torch.testing.assert_close(saved["state_dict"]["body.0.weight"].double(), expected, rtol=1e-6, atol=1e-7)
    assert not torch.equal(conv[0], expected)  # it was frozen in the first epoch alone
    assert averaged(average)["small"].dtype == torch.float32
    running = "body.1.running_mean"
    assert torch.equal(saved["state_dict"][running], notes.nets[-1][running]) == (batch_norm == "alias")


def test_statistics_are_measured_on_the_training_images() -> None:
    """As torch's `update_bn` does; the random numbers of the training and its weights are those of any other run."""
    data = [(loader(16), None), (loader(16), AveragedWeights(decay=0.9, batch_norm="recompute"))]
    runs = [fitted(own or AveragedWeights(decay=0.9), ForeignModule(), (train)) for train, own in data]
    plain, measuring = (notes.nets for notes, *_ in runs)
    same(plain, measuring)
    average = data[1][1]
    assert average is not None
    module = copy.deepcopy(runs[1][1])
    torch.manual_seed(0)
    # dropout stands behind the batch norm
    update_bn([x for x, _ in loader(16)], module)  # type: ignore[no-untyped-call]
    for name in ("body.1.running_mean", "body.1.running_var"):
        torch.testing.assert_close(averaged(average)[name], module.state_dict()[name])
        assert not torch.allclose(averaged(average)[name], measuring[-1][name], rtol=1e-3)


def test_measuring_leaves_random_numbers_and_the_data_module_alone() -> None:
    nets = []
    for batch_norm in ("average", "recompute"):
        given = {"n": 18, "batch_size": 4, "val_size": 4, "seed": 3, "on_device": True}
        notes, *_ = fitted(
            AveragedWeights(decay=0.9, batch_norm=batch_norm),  # type: ignore[arg-type]
            at(nn.Sequential(nn.Dropout(0.2), norm_net())),
            Few(**given),
            val_check_interval=2,
        )
        nets.append(notes.nets)
    same(nets[0], nets[1])


def test_measuring_leaves_a_loaders_own_generator_alone() -> None:
    nets = []
    for batch_norm in ("average", "recompute"):
        own = torch.Generator().manual_seed(5)
        data = DataLoader(loader(16).dataset, batch_size=4, shuffle=True, generator=own)
        average = AveragedWeights(decay=0.9, batch_norm=batch_norm)  # type: ignore[arg-type]
        nets.append(fitted(average, ForeignModule(), data)[0].nets)
    same(nets[0], nets[1])


def test_checkpoints_within_an_epoch_have_no_statistics_of_an_earlier_average(tmp_path: Path) -> None:
    save = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    given = {"callbacks": [save], "enable_checkpointing": True, "max_epochs": 2}
    average = AveragedWeights(decay=0.9, batch_norm="recompute")
    _, module, trainer = fitted(average, **given)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    for step in range(1, 9):
        saved = torch.load(tmp_path / f"step={step}.ckpt", weights_only=True)
        running = {name: value for name, value in saved["current_model_state"].items() if "running" in name}
        same({name: saved["state_dict"][name] for name in running}, running)
    last = torch.load(tmp_path / "last.ckpt", weights_only=True)
    same(last["state_dict"], state(module))
    assert not torch.equal(last["state_dict"]["net.0.running_mean"], last["current_model_state"]["net.0.running_mean"])
    # a run that is over is loaded and saved as it was
    over = quiet_trainer(max_epochs=2, callbacks=[AveragedWeights(decay=0.9, batch_norm="recompute")])
    over.fit(at(), Few(n=16, batch_size=4, seed=3), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    over.save_checkpoint(tmp_path / "again.ckpt")
    same(torch.load(tmp_path / "again.ckpt", weights_only=True)["state_dict"], last["state_dict"])


class Watched(AT):
    """Keeps the images that it trains on."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.images = [*getattr(self, "images", []), batch.x]
        return super().training_step(batch, batch_idx)


def test_statistics_are_measured_on_images_mixed_as_in_training() -> None:
    average = AveragedWeights(decay=0.9, batch_norm="recompute")
    module = Watched(norm_net(), attack=ATTACK)
    quiet_trainer(max_epochs=1, callbacks=[average]).fit(module, Few(n=16, batch_size=4, mixing=BatchMixing()))
    own = copy.deepcopy(module.net)
    update_bn(module.images, own)  # type: ignore[no-untyped-call]
    for name in ("0.running_mean", "0.running_var"):
        torch.testing.assert_close(averaged(average)[f"net.{name}"], own.state_dict()[name])


def test_loaders_that_cannot_be_iterated_again_are_refused() -> None:
    average = AveragedWeights(batch_norm="recompute")
    with pytest.raises(ValueError, match="needs one DataLoader over a dataset of known length, but got list"):
        fitted(average, ForeignModule(), [[(torch.rand(2, 1, 4, 4), torch.tensor([0, 1]))]])


# ------------------------------------------------------------------------------------------------------- in the trainer


class Own(AT):
    """Notes what its own hook at the end of a validation sees."""

    def on_validation_epoch_end(self) -> None:
        self.seen = state(self)


def test_the_averaged_net_is_evaluated_and_the_other_trains_on() -> None:
    seen: list[Tensor] = []

    class Spy(PGD):
        def __call__(self, net: Any, *args: Any, **kwargs: Any) -> Tensor:
            seen.append(next(p for name, p in net.named_parameters() if name.endswith("4.weight")).detach().clone())
            return super().__call__(net, *args, **kwargs)

    robust = RobustEvaluation({"pgd": Spy(Threat(eps=0.1), steps=1)}, figure_samples=0)
    average = AveragedWeights(decay=0.9)
    notes, module, _ = fitted(average, at(method=Own), callbacks=[robust])
    plain, _, _ = fitted(AveragedWeights(decay=0.9, evaluate="raw"), at(method=Own))
    same(notes.nets, plain.nets)
    for epoch in range(EPOCHS):
        expected = by_torch(notes.nets, 1, [0.9] * STEPS_AN_EPOCH * (epoch + 1))
        torch.testing.assert_close(notes.evaluated[epoch]["net.4.weight"], expected["net.4.weight"])
        same(plain.evaluated[epoch], plain.nets[STEPS_AN_EPOCH * (epoch + 1)])
    assert all(any(torch.equal(weight, state["net.4.weight"]) for state in notes.evaluated) for weight in seen)
    same(module.seen, notes.evaluated[-1])  # type: ignore[arg-type]


class Failing(AT):
    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        if self.current_epoch == 1:
            raise RuntimeError("mid-validation")


def test_a_validation_that_fails_leaves_the_net_that_trains(tmp_path: Path) -> None:
    average, notes, module = AveragedWeights(decay=0.9), Notes(), at(method=Failing)
    save = ModelCheckpoint(tmp_path, "failed", save_on_exception=True)
    trainer = quiet_trainer(
        max_epochs=3, callbacks=[save, notes, average], enable_checkpointing=True, num_sanity_val_steps=0
    )
    with pytest.raises(RuntimeError, match="mid-validation"):
        trainer.fit(module, Few(n=16, batch_size=4, seed=3))
    same(state(module), notes.nets[-1])
    saved = torch.load(next(tmp_path.glob("*.ckpt")), weights_only=True)
    assert torch.equal(saved["current_model_state"]["net.4.weight"], notes.nets[4]["net.4.weight"]) or torch.equal(
        saved["current_model_state"]["net.4.weight"], notes.nets[-1]["net.4.weight"]
    )


@pytest.mark.parametrize("evaluate", ["averaged", "raw"])
def test_checkpoints_are_tested_and_exported_as_chosen(evaluate: Any, tmp_path: Path) -> None:
    average = AveragedWeights(decay=0.9, evaluate=evaluate)
    save = ModelCheckpoint(tmp_path, "best")
    notes, module, trainer = fitted(average, callbacks=[save], enable_checkpointing=True)
    chosen = notes.evaluated[-1]
    saved = torch.load(tmp_path / "best.ckpt", weights_only=True)
    same(saved["state_dict"], chosen)
    same({f"net.{k}": v for k, v in extract_weights(saved, "best.ckpt").items()}, chosen)
    assert ("current_model_state" in saved) == (evaluate == "averaged")
    same(saved.get("current_model_state", saved["state_dict"]), notes.nets[-1])
    same(state(module), chosen)
    for own in (trainer, quiet_trainer(callbacks=[AveragedWeights()])):  # in the same process, and in a later one
        tested = at()
        own.test(tested, Few(n=16, seed=3), ckpt_path=str(tmp_path / "best.ckpt"), verbose=False)
        same(state(tested), chosen)
    loaded = AT.load_from_checkpoint(tmp_path / "best.ckpt", net=norm_net(), weights_only=True)
    same(state(loaded), chosen)


def test_a_checkpoint_saved_after_fit_has_both(tmp_path: Path) -> None:
    """So that a longer run goes on as one that never ended."""
    long = AveragedWeights(decay=0.9)
    notes, _, _ = fitted(long)
    _, _, trainer = fitted(AveragedWeights(decay=0.9), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    more, rest = AveragedWeights(decay=0.9), Notes()
    longer = quiet_trainer(max_epochs=EPOCHS, callbacks=[rest, more], num_sanity_val_steps=0)
    longer.fit(at(), Few(n=16, batch_size=4, val_size=4, seed=3), ckpt_path=str(tmp_path / "one.ckpt"))
    same(averaged(more), averaged(long))
    same(rest.evaluated[-1], notes.evaluated[-1])


def test_a_callback_that_is_used_again_starts_anew() -> None:
    average = AveragedWeights(decay=0.9)
    first = averaged_copy(average)
    same(averaged_copy(average), first)


def averaged_copy(average: AveragedWeights) -> dict[str, Tensor]:
    fitted(average)
    return {name: value.clone() for name, value in averaged(average).items()}


def test_a_checkpoint_of_lightnings_own_averaging_goes_on(tmp_path: Path) -> None:
    trainer = quiet_trainer(max_epochs=1, callbacks=[EMAWeightAveraging(decay=0.9)], num_sanity_val_steps=0)
    with pytest.warns(UserWarning, match="overrides the configure_model"):
        trainer.fit(at(), Few(n=16, batch_size=4, val_size=4, seed=3))
    trainer.save_checkpoint(tmp_path / "theirs.ckpt")
    theirs = torch.load(tmp_path / "theirs.ckpt", weights_only=True)
    average = AveragedWeights(decay=1.0)
    again = quiet_trainer(max_epochs=2, callbacks=[average], num_sanity_val_steps=0)
    again.fit(at(), Few(n=16, batch_size=4, val_size=4, seed=3), ckpt_path=str(tmp_path / "theirs.ckpt"))
    for name, value in averaged(average).items():
        assert torch.equal(value, theirs["state_dict"][name])


class Killed(Callback):
    def __init__(self, step: int | None) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise InterruptedError


class Ends(Callback):
    """Keeps both nets, and the radii, at the end."""

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        average = next(each for each in trainer.callbacks if isinstance(each, AveragedWeights))  # type: ignore[attr-defined]
        self.end = (
            state(pl_module),
            {k: v.clone() for k, v in averaged(average).items()},
            pl_module.radii.values.clone(),
        )


def trained(
    folder: Path, ranks: int, batch_norm: Any, killed: int | None = None, resumed: Path | None = None
) -> list[Any]:
    """The nets and radii at the end, on every rank, of a run that saves after each step."""

    def on(rank: int) -> Any:
        seed_everything(5)
        end = Ends()
        net = (norm_net() if batch_norm else plain_net()).double()
        module = at(net, IAAT, gamma=0.05, beta=0.5, warmup=1, weight_perturbation=AWP(0.05))
        average = AveragedWeights(0.7, ramp=True, start=0.1, batch_norm=batch_norm or "average")
        save = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
        own: dict[str, Any] = {"max_epochs": 3, "precision": "64-true", "default_root_dir": folder}
        own |= {"enable_checkpointing": True, "callbacks": [average, end, save, Killed(killed)]}
        trainer = ddp_trainer(ranks, **own) if ranks > 1 else quiet_trainer(**own)
        data = Few(n=16, batch_size=4 // ranks, seed=3)
        if killed:
            with pytest.raises(InterruptedError):
                trainer.fit(module, data)
        else:
            given = {"ckpt_path": str(resumed), "weights_only": True} if resumed else {}
            trainer.fit(module, data, **given)
        return None if killed else end.end

    return run_ddp(on, ranks)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("batch_norm", ["average", "recompute"])
def test_a_resumed_run_ends_with_both_nets_of_one_that_never_stopped(
    ranks: int, batch_norm: str, tmp_path: Path
) -> None:
    trained(tmp_path / "killed", ranks, batch_norm, killed=7)
    resumed = trained(tmp_path / "rest", ranks, batch_norm, resumed=tmp_path / "killed" / "step=6.ckpt")
    same(resumed, trained(tmp_path / "whole", ranks, batch_norm))


def test_two_ranks_are_one(tmp_path: Path) -> None:
    (alone,) = trained(tmp_path / "1", 1, "")
    for end in trained(tmp_path / "2", 2, ""):
        same(end, alone, exactly=False)
    assert not torch.allclose(alone[0]["net.3.weight"], alone[1]["net.3.weight"])


# ------------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"decay": 1.5}, "decay must be in"),
        ({"decay": None, "ramp": True}, "equal weights do not have"),
        ({"start": 1.5}, "a share of them below 1, got 1.5"),
        ({"start": -1}, "got -1"),
        ({"start_epoch": -1}, "start_epoch must be at least 0"),
        ({"every": "batch"}, "Unknown every 'batch': choose from step, epoch"),
        ({"batch_norm": "copy"}, "Unknown batch_norm 'copy'"),
        ({"evaluate": "both"}, "Unknown evaluate 'both'"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        AveragedWeights(**settings)


class Sharding(SingleDeviceStrategy):
    """Says of itself what strategies that shard weights say."""

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        return True


def test_sharded_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="whole weights on each device, which Sharding shards: use ddp"):
        fitted(AveragedWeights(), ForeignModule(), loader(8), strategy=Sharding(device="cpu"))


@pytest.mark.parametrize("other", [EMAWeightAveraging(decay=0.9), StochasticWeightAveraging(swa_lrs=0.1)])
def test_another_average_is_refused(other: Callback) -> None:
    with pytest.raises(ValueError, match=f"AveragedWeights and {type(other).__name__} would each put their average"):
        quiet_trainer(max_epochs=1, callbacks=[AveragedWeights(), other]).fit(at(), Few())


def test_checkpoints_without_the_averages_are_refused(tmp_path: Path) -> None:
    save = ModelCheckpoint(tmp_path, save_weights_only=True)
    with pytest.raises(ValueError, match="leave save_weights_only out, or set evaluate to raw"):
        fitted(AveragedWeights(), callbacks=[save], enable_checkpointing=True)
    fitted(AveragedWeights(evaluate="raw"), callbacks=[save], enable_checkpointing=True)


def test_a_run_does_not_go_on_from_averages_by_mistake(tmp_path: Path) -> None:
    _, _, trainer = fitted(AveragedWeights(decay=0.9), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    with pytest.raises(ValueError, match="holds averaged weights beside those that were trained"):
        quiet_trainer(max_epochs=2).fit(at(), Few(n=16, seed=3), ckpt_path=str(tmp_path / "one.ckpt"))
    quiet_trainer().test(at(), Few(n=16, seed=3), ckpt_path=str(tmp_path / "one.ckpt"), verbose=False)


class Stream(IterableDataset):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        return iter([(torch.rand(1, 4, 4), torch.tensor(0))] * 8)


def test_a_share_of_an_unknown_number_of_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="start is a share of the steps, whose number is not known"):
        fitted(AveragedWeights(start=0.1), ForeignModule(), DataLoader(Stream(), 4))
    with pytest.raises(ValueError, match="needs one DataLoader over a dataset of known length"):
        fitted(AveragedWeights(batch_norm="recompute"), ForeignModule(), DataLoader(Stream(), 4))
    average = AveragedWeights(decay=None, every="epoch")
    notes, _, _ = fitted(average, ForeignModule(), DataLoader(Stream(), 4), max_epochs=2)
    mean = (notes.nets[2]["head.weight"] + notes.nets[4]["head.weight"]) / 2
    torch.testing.assert_close(averaged(average)["head.weight"], mean)


def test_the_finder_of_learning_rates_leaves_no_trace() -> None:
    average = AveragedWeights(decay=0.5)
    module = at()
    module.lr = 0.05
    notes, _, _ = fitted(average, module, callbacks=[LearningRateFinder(num_training_steps=5, max_lr=0.1)])
    torch.testing.assert_close(averaged(average), by_torch(notes.nets, 1, [0.5] * LAST), rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_channels_last_and_compiled_nets_are_averaged() -> None:
    def on(rank: int, **settings: Any) -> dict[str, Tensor]:
        average = AveragedWeights(decay=0.9)
        fitted(average, at(**settings), max_epochs=1)
        return averaged(average)

    # in a process of its own: the compiler starts threads of autograd, after which no other test could fork
    (compiled,) = run_ddp(lambda rank: on(rank, channels_last=True, compile=True), ranks=1, timeout=300)
    torch.testing.assert_close(compiled, on(0), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_recipe_has_them_as_a_callback(tmp_path: Path) -> None:
    config = tmp_path / "ema.yaml"
    given = "{decay: 0.9, ramp: true, start: 0.1, batch_norm: recompute}"
    config.write_text(f"trainer:\n  callbacks:\n  - {{class_path: AveragedWeights, init_args: {given}}}\n")
    few = ["--trainer.accelerator=cpu", f"--trainer.default_root_dir={tmp_path}", "--data.batch_size=32"]
    few += ["--trainer.enable_progress_bar=false", "--trainer.limit_train_batches=4", "--trainer.limit_val_batches=1"]
    few += ["--evaluation.figure_samples=0", "--evaluation.check_samples=0"]
    main(["fit", "--config", "digits/at", "--config", str(config), "--trainer.max_epochs=1", *few])
    (saved,), (last,) = tmp_path.rglob("config.yaml"), tmp_path.rglob("last.ckpt")
    stored = torch.load(last, weights_only=True)
    assert any(not torch.equal(value, stored["state_dict"][k]) for k, value in stored["current_model_state"].items())
    main(["fit", "--config", str(saved), "--ckpt_path", str(last), "--trainer.max_epochs=2", *few])
    results = main(["test", "--config", str(saved), "--ckpt_path", str(last), *few, "--trainer.limit_test_batches=1"])
    assert "test/clean_acc" in results
    main(["export", "--ckpt_path", str(last), "--folder", str(tmp_path / "out")])
    assert json.loads((tmp_path / "out" / "config.json").read_text())["averaged"]
