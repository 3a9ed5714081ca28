"""What robustness.json says of an attack."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_robust.attacks import FAB, PGD, AutoAttack
from lightning_robust.evaluation.check import Check
from lightning_robust.evaluation.description import describe
from lightning_robust.evaluation.provenance import checkpoint_identity
from lightning_robust.evaluation.report import robustness
from lightning_robust.evaluation.report_table import print_table
from lightning_robust.evaluation.sample_rows import sample_rows
from lightning_robust.losses import margin
from lightning_robust.threat import Threat
from lightning_robust.utils.writers import write_csv, write_json
from tests.helpers.evaluated import evaluated, verdicts


class Ensemble(PGD):
    def __init__(self) -> None:
        super().__init__(Threat("l2", 0.5), steps=1)
        self.members = {"first": PGD(steps=2), "others": [PGD(steps=3)]}
        self.loss = margin
        self._cache = object()


def test_attacks_within_attacks_and_functions_are_told_by_settings_and_name() -> None:
    told = json.loads(json.dumps(describe(Ensemble())))
    assert told["class"] == "Ensemble"
    assert told["threat"] == {"norm": "l2", "eps": 0.5, "lower": 0.0, "upper": 1.0, "box_first": False}
    assert told["loss"] == "margin"
    assert (told["members"]["first"]["steps"], told["members"]["others"][0]["steps"]) == (2, 3)
    assert "_cache" not in told


def test_a_report_that_cannot_be_written_leaves_the_earlier_one(tmp_path: Path) -> None:
    write_json({"n": 1}, tmp_path / "robustness.json")
    with pytest.raises(TypeError):
        write_json({"n": object()}, tmp_path / "robustness.json")
    assert json.loads((tmp_path / "robustness.json").read_text()) == {"n": 1}


def test_a_checkpoint_that_is_no_local_file_is_told_by_its_path() -> None:
    assert checkpoint_identity(None) is None
    assert checkpoint_identity("s3://somewhere/model.ckpt") == {"path": "s3://somewhere/model.ckpt"}


ATTACKS = {"aa": AutoAttack(Threat("l2", 0.5), "rapid"), "fab": FAB(Threat("l2", 0.5))}
VERDICTS = {
    "aa": verdicts(
        broken=torch.tensor([0, 1, -1, -1, -1]),
        predicted=torch.tensor([1, 0, 2, 1, 2]),
        size=torch.tensor([0.5, 0.25, 0.5, 0.5, 0.0], dtype=torch.float64),
    ),
    "fab": verdicts(
        broken=torch.tensor([-1, 0, 0, -1, -1]),
        predicted=torch.tensor([2, 0, 1, 1, 2]),
        size=torch.tensor([0.75, 0.2, 0.4, torch.inf, 0.0], dtype=torch.float64),
    ),
}
# the last is wrong without an attack
SAMPLES = evaluated(y=torch.tensor([0, 1, 2, 1, 0]), clean=torch.tensor([0, 1, 2, 1, 2]), found=VERDICTS)
SECONDS = {"clean": 0.5, "aa/apgd-ce": 1.0, "aa/apgd-t": 2.0, "fab": 4.0}


def report(*checks: Check) -> dict[str, Any]:
    return json.loads(json.dumps(robustness(SAMPLES, ATTACKS, SECONDS, checks, {"stage": "test"})))


def test_an_ensembles_stages_tell_the_accuracy_after_each() -> None:
    told = report(Check("logits", "pass", "All is well."))
    rows = told["attacks"]["aa"]["stages"]
    assert [(row["name"], row["correct"], row["accuracy"], row["seconds"]) for row in rows] == [
        ("aa/apgd-ce", 3, 0.6, 1.0),
        ("aa/apgd-t", 2, 0.4, 2.0),
    ]
    assert [told["attacks"]["aa"][key] for key in ("correct", "accuracy", "seconds")] == [2, 0.4, 3.0]
    assert "stages" not in told["attacks"]["fab"]
    assert told["attacks"]["fab"]["correct"] == 2
    # of what was right to begin with and found at all: 0.75, 0.2, 0.4
    assert told["attacks"]["fab"]["perturbation"] == pytest.approx({"mean": 0.45, "max": 0.75})
    assert (told["clean"]["correct"], told["worst"]["correct"], told["n"]) == (4, 1, 5)
    assert told["threat"]["norm"] == "l2"  # one for all
    assert told["checks"] == [{"name": "logits", "status": "pass", "sentence": "All is well."}]


def test_samples_tell_which_stage_broke_them(tmp_path: Path) -> None:
    write_csv(*sample_rows(SAMPLES, ATTACKS), tmp_path / "samples.csv")
    head, *lines = csv.reader((tmp_path / "samples.csv").read_text().splitlines())
    attacks = [f"{name}/{what}" for name in ("aa", "fab") for what in ("broken_by", "class", "size")]
    assert head == ["index", "label", "clean", *attacks, "robust"]
    assert lines == [
        ["0", "0", "0", "aa/apgd-ce", "1", "0.5", "", "2", "0.75", "0"],
        ["1", "1", "1", "aa/apgd-t", "0", "0.25", "fab", "0", "0.2", "0"],
        ["2", "2", "2", "", "2", "0.5", "fab", "1", "0.4", "0"],
        ["3", "1", "1", "", "1", "0.5", "", "1", "inf", "1"],
        ["4", "0", "2", "", "2", "0", "", "2", "0", "0"],
    ]


def test_the_table_has_a_row_a_stage_and_a_line_for_each_doubt(
    capsys: pytest.CaptureFixture[str],
) -> None:
    checks = [Check("a", "pass", "All is well."), Check("b", "warn", "[0, 1] is odd."), Check("c", "fail", "No good.")]
    print_table(report(*checks), "test: 5 samples")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == "test: 5 samples"
    cells = [re.split(r"  +", line.strip()) for line in lines[3:] if "%" in line]
    assert [(row[0], row[1], *row[3:]) for row in cells] == [
        ("clean", "80.00%", "4/5", "0.5"),
        ("after apgd-ce", "60.00%", "3/5", "1.0"),
        ("after apgd-t", "40.00%", "2/5", "2.0"),
        ("aa (l2 0.5)", "40.00%", "2/5", "3.0"),
        ("fab (l2 0.5)", "40.00%", "2/5", "4.0"),
        ("worst case", "20.00%", "1/5"),
    ]
    assert lines[-2:] == ["warn: [0, 1] is odd.", "fail: No good."]
    print_table(report(checks[0]), "test")
    assert "well" not in capsys.readouterr().out


def test_the_table_fits_into_80_columns_whatever_its_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"accuracy": 1.0, "confidence_interval": [1.0, 1.0], "correct": 50000, "seconds": 123456.7}
    attack = {**row, "attack": {"threat": {"norm": "linf", "eps": 8 / 255}}}
    long = "an_attack_with_a_long_name"
    stages = [{"name": f"{long}/{stage}", **row} for stage in ("apgd-ce", "a_stage_with_a_name_as_long")]
    attacks = {long: {**attack, "stages": stages}}
    print_table({"n": 50000, "clean": row, "attacks": attacks, "worst": row, "checks": []}, "test: 50000 samples")
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert max(len(line) for line in lines) <= 80
    assert sum("50000/50000" in line for line in lines) == 5  # a row stays a line
    assert any("after apgd-ce " in line for line in lines)
