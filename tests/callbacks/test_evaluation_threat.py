"""The threat at which RobustEvaluation runs its attacks, on modules that were trained at different ones."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from lightning import LightningModule

from lightning_robust.attacks import FAB, PGD
from lightning_robust.callbacks import AdversarialInputs, AttackStrength, RobustEvaluation, evaluation_files, unfinished
from lightning_robust.callbacks.run_folder import run_folder
from lightning_robust.defenses import AT, Standard
from lightning_robust.schedules import Linear
from lightning_robust.threat import Threat
from tests.helpers.ddp import quiet_trainer
from tests.helpers.few import Few, plain_net
from tests.helpers.foreign import ForeignModule


def trained_at(threat: Threat, kind: type[AT | Standard] = AT) -> LightningModule:
    return kind(plain_net(), attack=PGD(threat, steps=1))


def evaluation(**settings: Any) -> RobustEvaluation:
    given = {"attacks": {"pgd": PGD(steps=2), "fab": FAB(steps=2)}, "fit_attacks": {"quick": PGD(steps=1)}}
    return RobustEvaluation(**{**given, "figure_samples": 0, "check_samples": 4, **settings})


def run(stage: str, module: LightningModule, evaluation: RobustEvaluation, folder: Path, *callbacks: Any) -> Any:
    """The report that a stage leaves."""
    settings: dict[str, Any] = {"max_epochs": 2, "num_sanity_val_steps": 1} if stage == "fit" else {}
    trainer = quiet_trainer(callbacks=[*callbacks, evaluation], default_root_dir=folder, **settings)
    getattr(trainer, stage)(module, Few(val_size=11), **({} if stage == "fit" else {"verbose": False}))
    return json.loads((run_folder(trainer) / "robustness.json").read_text())


def radii(value: Any) -> list[float]:
    """Every `eps` in a report."""
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    own = [value["eps"]] if isinstance(value, dict) and "eps" in value else []
    return own + [eps for child in children for eps in radii(child)]


@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
def test_attacks_without_a_threat_run_at_the_modules(stage: str, tmp_path: Path) -> None:
    given = evaluation()
    for eps in (0.11, 0.22):  # one after the other, with the same callback
        told = run(stage, trained_at(Threat(eps=eps)), given, tmp_path)
        assert len(radii(told)) == (2 if stage == "fit" else 3)
        assert set(radii(told)) == {eps}
        assert told["attacks"]["quick" if stage == "fit" else "pgd"]["perturbation"]["max"] <= eps + 1e-6
        assert "trained_at" not in told
    assert {attack.threat for attack in (*given.attacks.values(), *given.fit_attacks.values())} == {Threat()}


def test_an_attacks_own_threat_stands_unless_the_evaluation_has_one(tmp_path: Path) -> None:
    mixed = {"own": PGD(Threat(eps=0.05), steps=1), "none": PGD(steps=1)}
    told = run("test", trained_at(Threat(eps=0.11)), evaluation(attacks=mixed), tmp_path)
    assert {name: row["attack"]["threat"]["eps"] for name, row in told["attacks"].items()} == {
        "own": 0.05,
        "none": 0.11,
    }
    asked = evaluation(attacks=mixed, threat=Threat("l2", 0.5))
    told = run("test", trained_at(Threat(eps=0.11)), asked, tmp_path)
    assert set(radii(told)) == {0.5}
    assert told["threat"]["norm"] == "l2"


def test_a_foreign_module_is_attacked_at_the_default(tmp_path: Path) -> None:
    told = run("test", ForeignModule(), evaluation(), tmp_path)
    assert set(radii(told)) == {8 / 255}
    assert "trained_at" not in told


def test_a_training_attack_that_is_weaker_meanwhile_leaves_the_evaluation_as_it_is(tmp_path: Path) -> None:
    strength = AttackStrength(eps=Linear(0.0, 0.2, 10))
    told = run("fit", trained_at(Threat(eps=0.2)), evaluation(), tmp_path, strength)
    assert set(radii(told)) == {0.2}


def test_another_radius_than_the_trainings_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = evaluation(threat=Threat(eps=0.15))
    told = run("test", trained_at(Threat(eps="8/255")), asked, tmp_path)
    assert told["trained_at"] == "linf 8/255"
    out = capsys.readouterr().out
    assert "trained at linf 8/255, evaluated at linf 0.15\n" in out
    assert "pgd (linf 0.15)" in out
    mixed = {"one": PGD(Threat(eps=0.15), steps=1), "other": PGD(Threat("l2", 0.5), steps=1)}
    run("test", trained_at(Threat(eps=0.15)), evaluation(attacks=mixed), tmp_path)
    assert "trained at linf 0.15, evaluated at linf 0.15 and l2 0.5\n" in capsys.readouterr().out
    assert run("validate", trained_at(Threat(eps="8/255")), asked, tmp_path)["trained_at"] == "linf 8/255"
    capsys.readouterr()
    run("test", trained_at(Threat(eps="8/255")), evaluation(), tmp_path)
    assert "trained at" not in capsys.readouterr().out


def test_training_without_an_attack_has_a_radius_for_the_evaluation_alone(tmp_path: Path) -> None:
    assert set(radii(run("test", trained_at(Threat(eps=0.11), Standard), evaluation(), tmp_path))) == {0.11}
    told = run("test", trained_at(Threat(eps=0.11), Standard), evaluation(threat=Threat(eps=0.3)), tmp_path)
    assert set(radii(told)) == {0.3}
    assert "trained_at" not in told


def test_an_unfinished_evaluation_at_another_radius_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(
        unfinished, "fingerprint", lambda net, settings: seen.append(settings["attacks"]) or str(len(seen))
    )
    for eps in (0.11, 0.22):
        run("test", trained_at(Threat(eps=eps)), evaluation(), tmp_path)
    assert [set(radii(attacks)) for attacks in seen] == [{0.11}, {0.22}]


def test_the_figure_names_norm_and_radius(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    titles: list[str] = []
    grid = evaluation_files.adversarial_grid
    monkeypatch.setattr(
        evaluation_files, "adversarial_grid", lambda x, title, names: titles.append(title) or grid(x, title, names)
    )
    run("test", trained_at(Threat(eps="8/255")), evaluation(figure_samples=2), tmp_path)
    assert [title.partition(":")[0] for title in titles] == ["pgd (linf 8/255)", "fab (linf 8/255)"]


def test_an_attack_whose_steps_fall_short_of_the_radius_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "propagate", True)
    short = evaluation(attacks={"pgd": PGD(steps=3, step_size=0.05)})
    with caplog.at_level(logging.INFO):
        run("test", trained_at(Threat(eps=0.22)), short, tmp_path)
    assert "pgd takes 3 steps of 0.05 and cannot reach linf 0.22: leave step_size out" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        run("test", trained_at(Threat(eps=0.15)), short, tmp_path)
    assert "cannot reach" not in caplog.text


@pytest.mark.slow
def test_two_evaluations_share_a_trainer(tmp_path: Path) -> None:
    """Each writes what it would alone, under names of its own."""
    settings: dict[str, dict[str, Any]] = {"": {}, "far-": {"attacks": {"pgd": PGD(Threat(eps=0.3), steps=2)}}}
    alone = [run("test", trained_at(Threat(eps=0.1)), evaluation(**s), tmp_path / "alone") for s in settings.values()]
    both = [evaluation(**s, name=prefix[:-1] or None) for prefix, s in settings.items()]
    trainer = quiet_trainer(default_root_dir=tmp_path, callbacks=both)
    trainer.test(trained_at(Threat(eps=0.1)), Few(val_size=11), verbose=False)
    together = [json.loads((tmp_path / f"{prefix}robustness.json").read_text()) for prefix in settings]
    for one, same in zip(alone, together, strict=True):
        assert (one["attacks"].keys(), radii(one)) == (same["attacks"].keys(), radii(same))
        assert [row["correct"] for row in one["attacks"].values()] == [r["correct"] for r in same["attacks"].values()]
    assert {"test/fab_acc", "test/worst_acc", "test/far/pgd_acc", "test/far/worst_acc"} <= set(trainer.callback_metrics)


def test_states_are_told_apart_by_name_alone() -> None:
    """So that another choice of attacks may evaluate a checkpoint, and Lightning does not miss a callback."""
    one = evaluation()
    assert evaluation(attacks={"other": PGD(steps=1)}).state_key == one.state_key != evaluation(name="far").state_key
    with pytest.raises(RuntimeError, match="more than one stateful callback of type `RobustEvaluation`"):
        quiet_trainer(callbacks=[one, evaluation()])


class OfPairs(ForeignModule):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch[:2], batch_idx)


@pytest.mark.parametrize("stage", ["fit", "test"])
def test_inputs_made_adversarial_by_a_callback_have_a_threat_too(stage: str, tmp_path: Path) -> None:
    inputs = AdversarialInputs(PGD(Threat(eps=0.11), steps=1))
    told = run(stage, OfPairs(), evaluation(), tmp_path, inputs)
    assert set(radii(told)) == {0.11}
    assert "trained_at" not in told
    asked = run(stage, OfPairs(), evaluation(threat=Threat(eps=0.3)), tmp_path, inputs)
    assert (set(radii(asked)), asked["trained_at"]) == ({0.3}, "linf 0.11")
