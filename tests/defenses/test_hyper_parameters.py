"""Loggers are told what a run is, in plain and flat values, also from Python."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from lightning_robust.attacks import PGD
from lightning_robust.defenses import AT, TRADES, Defense, Standard
from lightning_robust.parts.regularizers import EffectiveWeightNorm
from lightning_robust.threat import Threat
from tests.helpers.ddp import quiet_trainer
from tests.helpers.few import Few, plain_net
from tests.helpers.foreign import loader


class Spy(DummyLogger):
    def __init__(self) -> None:
        super().__init__()
        self.told: dict[str, Any] = {}

    def log_hyperparams(self, params: dict[str, Any]) -> None:  # type: ignore[override]
        self.told |= params


class Broken(DummyLogger):
    def log_hyperparams(self, params: dict[str, Any]) -> None:  # type: ignore[override]
        raise ConnectionError("no network")


def told(defense: Defense, *data: Any, stage: str = "fit", **settings: Any) -> dict[str, Any]:
    spy = Spy()
    trainer = quiet_trainer(max_epochs=1, logger=spy, **settings)
    getattr(trainer, stage)(defense, *(data or (Few(),)))
    return spy.told


def test_a_run_is_told_apart_by_what_it_was_given() -> None:
    defense = TRADES(
        plain_net(),
        beta=4.0,
        attack=PGD(Threat("l2", "1/2"), steps=3, step_size=0.25),
        regularizers=[EffectiveWeightNorm(0.5)],
        optimizer=lambda params: torch.optim.SGD(params, lr=0.3, momentum=0.5),
        scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.1),
    )
    found = told(defense)
    expected = {
        **{"method": "TRADES", "beta": 4.0, "attack": "PGD", "norm": "l2", "eps": 0.5, "steps": 3, "step_size": 0.25},
        **{
            "net": "Sequential",
            "parameters": 91,
            "regularizers": "EffectiveWeightNorm",
            "data": "Few",
            "batch_size": 4,
        },
        **{"optimizer": "SGD", "lr": 0.3, "momentum": 0.5, "weight_decay": 0, "scheduler": "StepLR"},
        **{"max_epochs": 1, "devices": 1, "precision": "32-true", "accumulate_grad_batches": 1, "attack_bn": "eval"},
    }
    assert {name: found.get(name) for name in expected} == expected
    assert all(isinstance(value, (bool, int, float, str)) for value in found.values())


def test_the_rate_is_the_one_that_steps_are_made_with() -> None:
    """With `base_batch_size` it is scaled."""
    assert told(AT(plain_net(), base_batch_size=8))["lr"] == pytest.approx(0.05)


def test_a_method_without_attack_has_no_radius() -> None:
    found = told(Standard(plain_net()))
    assert found["method"] == "Standard"
    assert not {"eps", "norm", "attack", "steps"} & set(found)


def test_plain_loaders_and_test_have_what_is_known() -> None:
    found = told(AT(plain_net()), loader(8, 2))
    assert (found["batch_size"], found["data"]) == (2, "TensorDataset")
    found = told(AT(plain_net()), loader(8, 2), stage="test")
    assert (found["method"], found["eps"]) == ("AT", pytest.approx(8 / 255))
    assert "lr" not in found


def test_a_logger_that_fails_is_warned_of() -> None:
    spy = Spy()
    with pytest.warns(UserWarning, match=r"Logging hyper-parameters to Broken failed \(ConnectionError: no network.\)"):
        quiet_trainer(max_epochs=1, logger=[Broken(), spy]).fit(AT(plain_net()), Few())
    assert spy.told["method"] == "AT"


def test_a_csv_logger_from_python_holds_them(tmp_path: Path) -> None:
    """Those of a method's own constructor, of its base's, and of the fit; an object is told by its name alone."""
    logger = CSVLogger(str(tmp_path), name="", version="")
    defense = TRADES(plain_net(), beta=3.0, attack=PGD(Threat("l2", 0.5), steps=1), attack_bn="batch")
    quiet_trainer(max_epochs=1, logger=logger, log_every_n_steps=1).fit(defense, Few())
    found = yaml.safe_load((tmp_path / "hparams.yaml").read_text())
    expected = {"method": "TRADES", "norm": "l2", "eps": 0.5, "steps": 1, "lr": 0.1, "beta": 3.0, "attack_bn": "batch"}
    assert {name: found[name] for name in expected} == expected
    assert found["clean_forwards"] == 1
    assert found["scheduler_interval"] == "epoch"
    assert found["attack"] == "PGD"


@pytest.mark.parametrize("own", [True, False])
def test_tensorboard_tabulates_runs(own: bool, tmp_path: Path) -> None:
    """Without Lightning's metric of -1, which would be a false number among the run's own."""
    logger = TensorBoardLogger(str(tmp_path), name="", version="", default_hp_metric=own)
    told_in = quiet_trainer(max_epochs=1, logger=logger, log_every_n_steps=1)
    told_in.fit(AT(plain_net()), Few())
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert ("hp_metric" in events.Tags()["scalars"]) == own
    content = events.summary_metadata[metadata.SESSION_START_INFO_TAG].plugin_data.content
    found = metadata.parse_session_start_info_plugin_data(content).hparams
    assert found["method"].string_value == "AT"
    assert found["eps"].number_value == pytest.approx(8 / 255)
    assert found["lr"].number_value == pytest.approx(0.1)
