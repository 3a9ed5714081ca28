"""Which strategies fit a defense."""

from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy, SingleDeviceStrategy

from lightning_robust.attacks import PGD
from lightning_robust.cli.devices import fitting_ddp, processes
from lightning_robust.defenses import AT, AWP, EMR
from lightning_robust.defenses.accumulation import most_batches
from lightning_robust.defenses.strategies import check_strategy
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp
from tests.helpers.few import Few, plain_net


@pytest.mark.parametrize(
    ("accelerator", "devices", "num_nodes", "n"),
    [
        ("auto", "auto", 1, 4),
        ("gpu", -1, 2, 8),
        ("cuda", "-1", 1, 4),
        ("cpu", "auto", 1, 1),
        ("cpu", 2, 1, 2),
        ("gpu", [0, 3], 1, 2),
        ("gpu", "0,1,3", 1, 3),
        ("gpu", "2", 3, 6),
        ("gpu", 1, 1, 1),
    ],
)
def test_processes_are_counted(
    monkeypatch: pytest.MonkeyPatch, accelerator: str, devices: Any, num_nodes: int, n: int
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert processes(accelerator, devices, num_nodes) == n


def test_a_machine_without_gpu_runs_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert processes("auto", "auto", 1) == 1


@pytest.mark.parametrize("strategy", [FSDPStrategy, ModelParallelStrategy])
@pytest.mark.parametrize(
    ("regularized", "perturbed", "why"),
    [
        (False, False, "attacks run the net several times"),
        (True, False, "have no second derivatives"),
        (False, True, "relative to the norms of whole weights"),
    ],
)
def test_sharded_weights_are_refused_with_the_methods_reason(
    strategy: Any, regularized: bool, perturbed: bool, why: str
) -> None:
    with pytest.raises(ValueError, match=f"{strategy.__name__} does not fit: .*{why}"):
        check_strategy(strategy(), 1, regularized, perturbed)


def test_a_static_graph_is_refused_where_gradients_accumulate() -> None:
    with pytest.raises(ValueError, match="static_graph DDP does not accumulate"):
        check_strategy(DDPStrategy(static_graph=True), 2, False, False)
    check_strategy(DDPStrategy(static_graph=True), 1, True, True)
    check_strategy(SingleDeviceStrategy("cpu"), 2, True, True)
    for n in (1, 2):
        check_strategy(fitting_ddp(n), n, True, True)


@pytest.mark.parametrize(
    ("method", "why"), [(AT, "several times"), (EMR, "second derivatives"), (AWP, "whole weights")]
)
def test_each_method_gives_its_own_reason(monkeypatch: pytest.MonkeyPatch, method: Any, why: str) -> None:
    defense = method(plain_net())

    class Trainer:
        precision, accumulate_grad_batches, strategy = "32-true", 1, FSDPStrategy()

    monkeypatch.setattr(type(defense), "trainer", Trainer())
    with pytest.raises(ValueError, match=why):
        defense.setup("fit")


def test_a_static_graph_that_accumulates_is_stopped_before_it_trains() -> None:
    def on(rank: int) -> str:
        trainer = ddp_trainer(max_epochs=1, accumulate_grad_batches=2, strategy={"static_graph": True})
        with pytest.raises(ValueError, match="leave static_graph out") as error:
            trainer.fit(AT(plain_net()), Few(n=16, batch_size=4))
        return str(error.value)

    assert len(run_ddp(on)) == 2


@pytest.mark.filterwarnings("ignore:When using `Trainer.accumulate_grad_batches != 1.` and overriding")
def test_a_schedule_of_accumulation_counts_as_accumulation() -> None:
    """Ranks that accumulate by schedule take the steps that one process with both shares takes."""
    schedule = {0: 1, 1: 2}

    def on(rank: int, **strategy: Any) -> Any:
        trainer = ddp_trainer(max_epochs=2, callbacks=[GradientAccumulationScheduler(schedule)], strategy=strategy)
        defense = AT(plain_net(), attack=PGD(steps=0, start="none"))
        if strategy.get("static_graph"):
            with pytest.raises(ValueError, match="leave static_graph out"):
                trainer.fit(defense, Few(n=16, batch_size=4))
            return None
        trainer.fit(defense, Few(n=16, batch_size=4))
        return [p.detach() for p in defense.parameters()]

    chosen = fitting_ddp(most_batches(1, [GradientAccumulationScheduler(schedule)]))
    assert run_ddp(lambda rank: on(rank, static_graph=True)) == [None, None]
    first, second = run_ddp(lambda rank: on(rank, **chosen._ddp_kwargs))
    alone = AT(plain_net(), attack=PGD(steps=0, start="none"))
    trainer = quiet_trainer(max_epochs=2, callbacks=[GradientAccumulationScheduler(schedule)])
    trainer.fit(alone, Few(n=16, batch_size=8))
    for one, two, joined in zip(first, second, alone.parameters(), strict=True):
        assert torch.equal(one, two)
        torch.testing.assert_close(one, joined.detach())
