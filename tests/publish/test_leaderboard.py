"""A result in RobustBench's form: the fields and the way of writing of its own files, and what it would not compare."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from lightning_robust.attacks import PGD
from lightning_robust.callbacks import RobustEvaluation
from lightning_robust.cli.main import main
from lightning_robust.publish.leaderboard import BENCHMARKS, evaluation_log, export, model_info
from lightning_robust.threat import Threat
from tests.helpers.command_line import refusal
from tests.helpers.ddp import quiet_trainer
from tests.helpers.foreign import ForeignModule, images

PAPER: dict[str, Any] = {
    "name": "Overfitting in adversarially robust deep learning",
    "link": "https://arxiv.org/abs/2002.11569",
    "authors": "Leslie Rice, Eric Wong, J. Zico Kolter",
    "venue": "ICML 2020",
    "architecture": "WideResNet-34-20",
    "additional_data": False,
}
# RobustBench/robustbench@78fcc9e: in each of the 188 files of model_info/*/{Linf,L2}, with these types
ALWAYS = {
    **dict.fromkeys(["link", "name", "authors", "dataset", "venue", "architecture"], str),
    **dict.fromkeys(["eps", "clean_acc", "reported", "autoattack_acc"], str),
    **{"additional_data": bool, "number_forward_passes": int},
}
SOMETIMES = {"external": str, "footnote": str, "unreliable": bool}


def row(correct: int, n: int, **more: Any) -> dict[str, Any]:
    return {"accuracy": correct / n, "correct": correct, "seconds": 12.34, **more}


def report(
    norm: str = "linf", eps: float = 8 / 255, n: int = 10_000, version: str = "standard", name: str = "AutoAttack"
) -> dict[str, Any]:
    attack = {"class": name, "threat": {"norm": norm, "eps": eps, "lower": 0.0, "upper": 1.0}, "version": version}
    stages = [row(55 * n // 100, n, name="apgd-ce"), row(n * 5342 // 10_000, n, name="square")]
    return {
        "checkpoint": {"path": "best.ckpt", "sha256": "ab12"},
        "seed": 3,
        "n": n,
        "threat": attack["threat"],
        "clean": row(n * 8534 // 10_000, n),
        "attacks": {"aa": row(n * 5342 // 10_000, n, attack=attack, stages=stages)},
        "worst": {"accuracy": n * 5342 // 10_000 / n, "correct": n * 5342 // 10_000},
        "versions": {"lightning-robust": "0.1.0", "torch": "2.15.0"},
    }


def test_it_is_the_file_of_the_zoo() -> None:
    """RobustBench/robustbench@78fcc9e, model_info/cifar10/Linf/Rice2020Overfitting.json, but for `unreliable`."""
    assert model_info(report(), dataset="cifar10", **PAPER, reported="58") == {
        **PAPER,
        "number_forward_passes": 1,
        "dataset": "cifar10",
        "eps": "8/255",
        "clean_acc": "85.34",
        "reported": "58",
        "autoattack_acc": "53.42",
        "unreliable": False,
    }


@pytest.mark.parametrize(
    ("dataset", "norm", "eps", "n", "written"),
    [
        ("cifar10", "linf", 8 / 255, 10_000, "8/255"),
        ("cifar10", "l2", 0.5, 10_000, "0.5"),
        ("cifar100", "linf", 0.03137254901960784, 10_000, "8/255"),
        ("imagenet", "linf", 4 / 255, 5_000, "4/255"),
    ],
)
def test_every_field_of_the_leaderboard_is_there_in_its_type(
    dataset: Any, norm: str, eps: float, n: int, written: str
) -> None:
    info = model_info(report(norm, eps, n), dataset=dataset, **PAPER, footnote="Trained for long.")
    assert {name: type(info[name]) for name in ALWAYS} == ALWAYS
    assert {name: SOMETIMES[name] for name in info if name not in ALWAYS} == {"footnote": str, "unreliable": bool}
    assert info["eps"] == written
    assert len(BENCHMARKS) == 4


def test_the_order_is_that_of_its_files() -> None:
    found = report()
    found["worst"] = row(5000, 10_000)
    info = model_info(found, dataset="cifar10", **PAPER)
    order = "link name authors additional_data number_forward_passes dataset venue architecture eps clean_acc reported"
    assert list(info) == [*order.split(), "autoattack_acc", "external", "footnote", "unreliable"]


def test_what_other_attacks_broke_is_external() -> None:
    found = report()
    pgd = {"class": "PGD", "threat": {"norm": "linf", "eps": 8 / 255}}
    found["attacks"]["pgd100"] = row(5400, 10_000, attack=pgd)
    found["worst"] = row(5330, 10_000)
    info = model_info(found, dataset="cifar10", **PAPER, footnote="Basic model.")
    assert (info["autoattack_acc"], info["external"], info["reported"]) == ("53.42", "53.30", "53.42")
    assert info["footnote"] == "Basic model. 53.30% robust accuracy is due to AutoAttack and pgd100 together."


def test_a_failed_check_makes_it_unreliable() -> None:
    found = report()
    found["checks"] = [{"name": "gradients", "status": "warn", "sentence": "Few vanish."}]
    assert model_info(found, dataset="cifar10", **PAPER)["unreliable"] is False
    found["checks"].append({"name": "black_box", "status": "fail", "sentence": "It breaks more."})
    assert model_info(found, dataset="cifar10", **PAPER)["unreliable"] is True
    assert "- fail: It breaks more." in evaluation_log(found)


@pytest.mark.parametrize(
    ("found", "dataset", "told"),
    [
        (report(eps=0.031), "cifar10", "eps is 0.031, not 8/255"),
        (report(), "imagenet", "eps is 8/255, not 4/255; 10000 test images, not 5000"),
        (report(n=1000), "cifar10", "1000 test images, not 10000"),
        (report("l2", 0.5), "cifar100", "it has no leaderboard for L2"),
        (report("l2", 1.0), "cifar10", "eps is 1, not 0.5"),
        (report(version="rapid"), "cifar10", "it needs one standard AutoAttack"),
        (report(name="PGD"), "cifar10", "it needs one standard AutoAttack"),
    ],
)
def test_another_setting_is_refused_and_may_be_allowed(found: dict[str, Any], dataset: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        model_info(found, dataset=dataset, **PAPER)
    info = model_info(found, dataset=dataset, **PAPER, any_setting=True)
    fault = "aa is not the standard AutoAttack" if "needs one" in told else told.split("; ")[0]
    assert info["footnote"].startswith(f"Deviates from the benchmark: {fault}.")


def test_the_attack_that_counts_is_named_where_there_are_two() -> None:
    found = report()
    found["attacks"]["again"] = copy.deepcopy(found["attacks"]["aa"])
    with pytest.raises(ValueError, match="The report has aa, again: it needs one standard AutoAttack, or `attack`"):
        model_info(found, dataset="cifar10", **PAPER)
    assert model_info(found, dataset="cifar10", **PAPER, attack="again")["autoattack_acc"] == "53.42"
    with pytest.raises(ValueError, match="The report has aa, again"):
        model_info(found, dataset="cifar10", **PAPER, attack="pgd")


def command(path: Path, **more: Any) -> list[str]:
    options = {**PAPER, "report": path, "model_id": "Rice2020Overfitting", "dataset": "cifar10", **more}
    return ["leaderboard", *(f"--{name}={value}" for name, value in options.items())]


def test_the_command_line_writes_the_file_and_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("robustness.json").write_text(json.dumps(report()))
    main(command(Path("robustness.json"), reported="58"))
    path = tmp_path / "model_info/cifar10/Linf/Rice2020Overfitting.json"
    assert json.loads(path.read_text()) == model_info(report(), dataset="cifar10", **PAPER, reported="58")
    log = path.with_suffix(".md").read_text()
    for line in (
        "- path: best.ckpt\n- sha256: ab12\n- lightning-robust: 0.1.0",
        "- seed: 3",
        "- clean: 85.34% (8534 of 10000, 12.3 s)",
        "- aa after apgd-ce: 55.00% (5500 of 10000, 12.3 s)",
        "- aa: 53.42% (5342 of 10000, 12.3 s)",
        "- worst case: 53.42% (5342 of 10000)",
        '"version": "standard"',
    ):
        assert line in log
    assert "clean 85.34%, AutoAttack 53.42%" in capsys.readouterr().out


def test_the_command_line_says_in_one_line_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "robustness.json"
    path.write_text(json.dumps(report(n=100)))
    for args, told in (
        (command(path), r"error: This is not what RobustBench compares .* 100 test images, not 10000\."),
        (command(tmp_path / "nowhere.json"), r"error: .*nowhere\.json' cannot be read as a robustness\.json: .*"),
        (command(path, model_id="../mine"), r"error: model_id names a file: .* got '\.\./mine'\."),
    ):
        assert re.fullmatch(told, refusal(capsys, *args))
    main(command(path, any_setting=True, folder=tmp_path))
    footnote = json.loads((tmp_path / "cifar10/Linf/Rice2020Overfitting.json").read_text())["footnote"]
    assert footnote == "Deviates from the benchmark: 100 test images, not 10000."


def test_a_report_of_our_own_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the evaluation writes today."""
    torch.manual_seed(0)
    evaluation = RobustEvaluation({"pgd": PGD(Threat("linf", "8/255"), steps=2)}, figure_samples=0)
    trainer = quiet_trainer(callbacks=[evaluation], default_root_dir=tmp_path)
    trainer.test(ForeignModule(), DataLoader(images(12), 4), verbose=False)
    export(
        str(tmp_path / "robustness.json"), "Mine2026Own", str(tmp_path), dataset="cifar10", **PAPER, any_setting=True
    )
    written = json.loads((tmp_path / "cifar10/Linf/Mine2026Own.json").read_text())
    found = json.loads((tmp_path / "robustness.json").read_text())
    assert written["clean_acc"] == f"{100 * found['clean']['accuracy']:.2f}"
    assert written["autoattack_acc"] == f"{100 * found['attacks']['pgd']['accuracy']:.2f}"
    assert "pgd is not the standard AutoAttack" in written["footnote"]
    assert "- pgd: " in (tmp_path / "cifar10/Linf/Mine2026Own.md").read_text()
