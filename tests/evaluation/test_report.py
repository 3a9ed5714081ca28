"""What robustness.json says of an attack."""

import json
from pathlib import Path

import pytest

from lightning_robust.attacks import PGD
from lightning_robust.evaluation.report import checkpoint_identity, describe, write_json
from lightning_robust.losses import margin
from lightning_robust.threat import Threat


class Ensemble(PGD):
    def __init__(self) -> None:
        super().__init__(Threat("l2", 0.5), steps=1)
        self.parts = {"first": PGD(steps=2), "others": [PGD(steps=3)]}
        self.loss = margin
        self._cache = object()


def test_attacks_within_attacks_and_functions_are_told_by_settings_and_name() -> None:
    told = json.loads(json.dumps(describe(Ensemble())))
    assert told["class"] == "Ensemble"
    assert told["threat"] == {"norm": "l2", "eps": 0.5, "lower": 0.0, "upper": 1.0, "box_first": False}
    assert told["loss"] == "margin"
    assert (told["parts"]["first"]["steps"], told["parts"]["others"][0]["steps"]) == (2, 3)
    assert "_cache" not in told


def test_a_report_that_cannot_be_written_leaves_the_earlier_one(tmp_path: Path) -> None:
    write_json({"n": 1}, tmp_path / "robustness.json")
    with pytest.raises(TypeError):
        write_json({"n": object()}, tmp_path / "robustness.json")
    assert json.loads((tmp_path / "robustness.json").read_text()) == {"n": 1}


def test_a_checkpoint_that_is_no_local_file_is_told_by_its_path() -> None:
    assert checkpoint_identity(None) is None
    assert checkpoint_identity("s3://somewhere/model.ckpt") == {"path": "s3://somewhere/model.ckpt"}
