from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, IterableDataset

from lightning_robust.defenses import Standard
from lightning_robust.parts import lr_schedules
from lightning_robust.parts.follows_run import length_of, run_length
from tests.helpers.ddp import quiet_trainer
from tests.helpers.few import Few, plain_net

LENGTH = 12
SCHEDULES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "CosineAnnealingLR": ({"eta_min": 0.01}, {"T_max": LENGTH}),
    "OneCycleLR": ({"max_lr": 0.3, "pct_start": 0.25}, {"total_steps": LENGTH}),
    "LinearLR": ({"start_factor": 1.0, "end_factor": 0.1}, {"total_iters": LENGTH}),
    "PolynomialLR": ({"power": 2.0}, {"total_iters": LENGTH}),
    "MultiStepLR": ({"milestones": [0.25, 0.5, 0.74], "gamma": 0.2}, {"milestones": [3, 6, 9]}),
}
"""Of each: settings, and those that say its length to torch."""


def sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2, momentum=0.9)


def rates(make: Callable[[torch.optim.Optimizer], Any], length: int | None = None, epochs: int = LENGTH) -> list[float]:
    optimizer, found = sgd(), []
    with run_length(lambda: length):
        schedule = make(optimizer)
    for _ in range(epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_left_out_length_is_the_runs(name: str) -> None:
    settings, explicit = SCHEDULES[name]
    theirs = rates(lambda o: getattr(lr_scheduler, name)(o, **{**settings, **explicit}))
    ours = getattr(lr_schedules, name)
    assert rates(lambda o: ours(o, **settings), LENGTH) == theirs
    assert rates(lambda o: ours(o, **{**settings, **explicit}), 2 * LENGTH) == theirs  # what is given wins
    assert rates(lambda o: ours(o, **settings), 2 * LENGTH)[::2] != theirs


def test_one_cycles_other_way_to_say_its_length() -> None:
    def cycle(optimizer: torch.optim.Optimizer, kind: Any = lr_schedules.OneCycleLR) -> Any:
        return kind(optimizer, 0.3, epochs=4, steps_per_epoch=3)

    assert rates(cycle) == rates(lambda o: cycle(o, lr_scheduler.OneCycleLR))


@pytest.mark.parametrize("name", SCHEDULES)
def test_an_unknown_length_is_refused_in_a_sentence(name: str) -> None:
    settings, explicit = SCHEDULES[name]
    (what,) = explicit
    with pytest.raises(ValueError, match=f"{name} takes {what} from the length of the run, which is not known: set tr"):
        rates(lambda o: getattr(lr_schedules, name)(o, **settings), None)
    with pytest.raises(ValueError, match=f"{name} needs {what} in whole numbers"):
        getattr(lr_schedules, name)(sgd(), **settings)


@pytest.mark.parametrize("share", [0.0, 1.0, 1.5, -0.5])
def test_a_share_lies_between_0_and_1(share: float) -> None:
    with pytest.raises(ValueError, match=f"a share of the run between 0 and 1, got {share}"):
        rates(lambda o: lr_schedules.MultiStepLR(o, [0.5, share]), LENGTH)


def test_the_first_epoch_of_a_short_run_has_the_full_rate() -> None:
    assert rates(lambda o: lr_schedules.MultiStepLR(o, [0.2, 0.4]), 1, epochs=2) == pytest.approx([0.2, 0.002])


# ------------------------------------------------------------------------------------------------------- in a fit


class Rates(Callback):
    """The rate of each step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


def fitted(interval: Any = "epoch", *callbacks: Callback, data: Any = None, ckpt: Any = None, **trainer: Any) -> Any:
    """The rates of a fit of six batches an epoch under a cosine without a length, and their number."""
    seen = Rates()
    defense = Standard(
        plain_net(),
        optimizer=lambda p: torch.optim.SGD(p, lr=0.2),
        scheduler=lr_schedules.CosineAnnealingLR,
        scheduler_interval=interval,
    )
    kept = {"enable_checkpointing": True} if callbacks else {}
    run = quiet_trainer(callbacks=[seen, *callbacks], num_sanity_val_steps=0, **kept, **trainer)
    run.fit(
        defense, Few(n=24, batch_size=4) if data is None else data, ckpt_path=ckpt, weights_only=True if ckpt else None
    )
    return seen.seen, run.lr_scheduler_configs[0].scheduler.T_max


@pytest.mark.parametrize(
    ("interval", "trainer", "length"),
    [
        ("epoch", {"max_epochs": 3}, 3),
        ("step", {"max_epochs": 2}, 12),
        ("step", {"max_epochs": 2, "accumulate_grad_batches": 4}, 4),
        ("step", {"max_epochs": -1, "max_steps": 8}, 8),
        ("step", {"max_epochs": 2, "max_steps": 8}, 8),
        ("epoch", {"max_epochs": -1, "max_steps": 8}, 2),
        ("epoch", {"max_epochs": 9, "max_steps": 8, "accumulate_grad_batches": 4}, 4),
        ("epoch", {"max_epochs": 5, "limit_train_batches": 2}, 5),
    ],
)
def test_the_length_of_a_fit(interval: Any, trainer: dict[str, Any], length: int) -> None:
    seen, found = fitted(interval, **trainer)
    assert found == length
    assert seen == sorted(seen, reverse=True)
    assert seen[0] == 0.2


@pytest.mark.parametrize("interval", ["epoch", "step"])
def test_a_fit_without_an_end_is_refused(interval: Any) -> None:
    with pytest.raises(ValueError, match="CosineAnnealingLR takes T_max from the length of the run, which is no"):
        fitted(interval, max_epochs=-1, max_steps=-1)


class Stream(IterableDataset):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        return iter([(torch.rand(1, 4, 4), torch.tensor(0))] * 8)


def test_a_stream_of_unknown_length_has_epochs_but_no_steps() -> None:
    assert fitted("epoch", data=DataLoader(Stream(), 4), max_epochs=2, limit_val_batches=0)[1] == 2
    assert fitted("step", data=DataLoader(Stream(), 4), max_epochs=2, max_steps=3, limit_val_batches=0)[1] == 3
    with pytest.raises(ValueError, match="takes T_max from the length of the run, which is not known"):
        fitted("step", data=DataLoader(Stream(), 4), max_epochs=2, limit_val_batches=0)


def test_no_epochs_at_all_are_taken_for_one() -> None:
    assert length_of(quiet_trainer(max_epochs=0), "epoch") == 1


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_that_goes_on_in_a_longer_run_follows_that_run(name: str) -> None:
    make, settings = getattr(lr_schedules, name), SCHEDULES[name][0]
    expected = rates(lambda o: make(o, **settings), 2 * LENGTH, 2 * LENGTH)
    for length, steps in ((LENGTH, 5), (LENGTH, LENGTH), (2 * LENGTH, 5)):
        first, second = sgd(), sgd()
        with run_length(lambda length=length: length):
            before = make(first, **settings)
        for _ in range(steps):
            first.step()
            before.step()
        with run_length(lambda: 2 * LENGTH):
            after = make(second, **settings)
        second.load_state_dict(first.state_dict())
        after.load_state_dict(before.state_dict())
        found = []
        for _ in range(steps, 2 * LENGTH):
            found.append(second.param_groups[0]["lr"])
            assert after.get_last_lr() == found[-1:]
            second.step()
            after.step()
        exactly = {"rel": 0, "abs": 0} if length == 2 * LENGTH else {"rel": 1e-6}
        assert found == pytest.approx(expected[steps:], **exactly)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")  # without the callback that wrote it
def test_a_resumed_fit_goes_on_along_the_runs_schedule(tmp_path: Any) -> None:
    whole, _ = fitted(max_epochs=4)
    keep = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    fitted("epoch", keep, max_epochs=2)
    seen, length = fitted(max_epochs=4, ckpt=tmp_path / "epoch=1.ckpt")
    assert length == 4
    assert seen == pytest.approx(whole[12:])
