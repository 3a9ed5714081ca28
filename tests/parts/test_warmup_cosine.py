"""Warm-up and cosine against torch and the authors' record; the one cycle of today's CIFAR recipes."""

from typing import Any

import pytest
import torch
from torch.optim import Optimizer, lr_scheduler

from lightning_robust.defenses import Standard
from lightning_robust.parts.follows_run import run_length
from lightning_robust.parts.lr_schedules import OneCycleLR, WarmupCosineLR
from tests.defenses.test_golden_modern import MODERN
from tests.helpers.ddp import quiet_trainer
from tests.helpers.few import Few, plain_net
from tests.parts.test_lr_schedules import Rates, rates

SINGH, FACTS = MODERN["singh_lr"], MODERN["wang_facts"]


@pytest.mark.parametrize("case", [name for name in SINGH if name.startswith("epochs_")])
def test_singhs_rates(case: str) -> None:
    """Recorded at equal distances over the run, from the first epoch to beyond the last."""
    _, epochs, _, peak = case.split("_")
    theirs, length = SINGH[case], int(epochs)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e4 * theirs[0])
    with run_length(lambda: length):
        schedule = WarmupCosineLR(optimizer, int(peak), start_factor=1e-4, eta_min=theirs[-1])
    found = [optimizer.param_groups[0]["lr"]]
    for _ in range(length):
        optimizer.step()
        schedule.step()
        found.append(optimizer.param_groups[0]["lr"])
    assert found[:: length // (len(theirs) - 1)] == pytest.approx(theirs, rel=1e-10)


@pytest.mark.parametrize("case", [name for name in FACTS if name.startswith("onecycle_")])
def test_wangs_cycle_of_rates_and_momentum(case: str) -> None:
    record = FACTS[case]
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=record["max_lr"], momentum=0.9, nesterov=True)
    with run_length(lambda: record["epochs"]):
        schedule = OneCycleLR(optimizer, record["max_lr"], pct_start=record["pct_start"])
    found = []
    for _ in range(record["epochs"]):
        found.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
        optimizer.step()
        schedule.step() if len(found) < record["epochs"] else None
    assert [rate for rate, _ in found] == pytest.approx(record["lr"], rel=1e-10)
    assert [momentum for _, momentum in found] == pytest.approx(record["momentum"], rel=1e-10)


def torchs(optimizer: Optimizer) -> Any:
    warm = lr_scheduler.LinearLR(optimizer, 0.1, total_iters=3)
    return lr_scheduler.SequentialLR(optimizer, [warm, lr_scheduler.CosineAnnealingLR(optimizer, 9, 0.01)], [3])


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")
@pytest.mark.parametrize("warmup", [3, 0.25])
def test_it_is_torchs_warm_up_and_cosine(warmup: Any) -> None:
    ours = rates(lambda o: WarmupCosineLR(o, warmup, start_factor=0.1, eta_min=0.01), 12, epochs=15)
    assert ours[:12] == pytest.approx(rates(torchs, epochs=12))
    assert ours[12:] == [0.01] * 3  # it stays where it ends
    assert rates(lambda o: WarmupCosineLR(o, eta_min=0.01), 12) == pytest.approx(
        rates(lambda o: lr_scheduler.CosineAnnealingLR(o, 12, 0.01))
    )


def test_a_warm_up_may_end_within_a_step_or_outlast_the_run() -> None:
    found = rates(lambda o: WarmupCosineLR(o, 0.125, start_factor=0.0), 12, epochs=3)  # a step and a half
    assert found[:2] == pytest.approx([0, 0.2 / 1.5])
    assert found[2] == pytest.approx(0.1 * (1 + torch.tensor(torch.pi * 0.5 / 10.5).cos().item()))
    assert rates(lambda o: WarmupCosineLR(o, 4, start_factor=0.0), 2, epochs=3) == pytest.approx([0, 0.05, 0.1])
    assert rates(lambda o: WarmupCosineLR(o, 2, start_factor=0.0), 2, epochs=3) == pytest.approx([0, 0.1, 0.2])


@pytest.mark.parametrize("warmup", [3, 0.25])
def test_it_goes_on_in_a_longer_run(warmup: Any) -> None:
    expected = rates(lambda o: WarmupCosineLR(o, warmup), 24, 24)
    first, second = (torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2) for _ in range(2))
    with run_length(lambda: 12):
        before = WarmupCosineLR(first, warmup)
    for _ in range(5):
        first.step()
        before.step()
    with run_length(lambda: 24):
        after = WarmupCosineLR(second, warmup)
    second.load_state_dict(first.state_dict())
    after.load_state_dict(before.state_dict())
    for rate in expected[5:]:
        assert second.param_groups[0]["lr"] == pytest.approx(rate)
        second.step()
        after.step()


def test_a_fit_counts_its_steps() -> None:
    seen = Rates()
    module = Standard(
        plain_net(),
        optimizer=lambda p: torch.optim.SGD(p, lr=0.2),
        scheduler=lambda o: WarmupCosineLR(o, 0.25, start_factor=0.1, eta_min=0.01),
        scheduler_interval="step",
    )
    quiet_trainer(max_epochs=2, callbacks=[seen], limit_val_batches=0).fit(module, Few(n=24, batch_size=4))
    assert seen.seen == pytest.approx(rates(torchs))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"warmup": 1.5}, "a share of the run below 1, got 1.5"),
        ({"warmup": -1}, "got -1"),
        ({"start_factor": 2.0}, "start_factor must be in"),
        ({}, "WarmupCosineLR needs T_max in whole numbers"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        WarmupCosineLR(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2), **settings)
