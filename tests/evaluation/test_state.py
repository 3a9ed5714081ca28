"""What is foreign in the folder of an unfinished evaluation is left alone; its name is made of what decides."""

import functools
import math
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightning_robust.attacks import PGD
from lightning_robust.evaluation import fingerprint as module
from lightning_robust.evaluation.fingerprint import fingerprint
from lightning_robust.evaluation.images import Images
from lightning_robust.evaluation.samples import Samples
from lightning_robust.evaluation.state import State
from lightning_robust.evaluation.verdicts import Verdicts
from lightning_robust.threat import Threat
from tests.cli.test_checkpoints import Payload

SECONDS = {"pgd": 2.5}
ATTACKS = {"pgd": PGD(Threat("linf", 0.1))}
CLASSES = 3


def samples(n: int = 4) -> Samples:
    index = torch.arange(n)
    found = Samples(index, index % 2, index % 2, index * 7, index, index < 1, Images.of(torch.rand(n, 1, 4, 4)))
    found.verdicts["pgd"] = Verdicts.initial(found.clean)
    found.examples["pgd"] = {0: torch.stack([found.x[0]] * 2)}
    return found


def saved(folder: Path, **changes: Any) -> Path:
    """A file as an evaluation leaves it, with some parts replaced."""
    whole = samples()
    whole.verdicts["pgd"].done[:] = 1
    State(folder).save(whole, SECONDS)
    (path,) = folder.glob("*.pt")
    content = torch.load(path, weights_only=True)
    for key, value in changes.items():
        *above, last = key.split("__")
        functools.reduce(dict.__getitem__, above, content)[last] = value
    torch.save(content, path)
    return path


def test_an_untouched_file_is_read(tmp_path: Path) -> None:
    path, fresh = saved(tmp_path / "a"), samples()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert State(path.parent).restore(fresh, ATTACKS, CLASSES) == SECONDS
    assert fresh.verdicts["pgd"].done.tolist() == [1] * 4


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 1},
        {"format": None},
        {"samples": []},
        {"samples__verdicts": {}},
        {"samples__verdicts": {"other": {}}},
        {"samples__verdicts__pgd": {"done": torch.zeros(4)}},
        {"samples__verdicts__pgd__done": torch.zeros(3, dtype=torch.int32)},
        {"samples__verdicts__pgd__done": torch.ones(4)},
        {"samples__verdicts__pgd__broken": torch.full((4,), 5, dtype=torch.int32)},
        {"samples__index": torch.arange(9)},
        {"samples__index": "many"},
        {"samples__clean": torch.zeros(4, 2, dtype=torch.int64)},
        {"samples__more": 3},
        {"samples__y": torch.tensor([0, 1, 0, -1])},
        {"samples__clean": torch.full((4,), CLASSES)},
        {"samples__verdicts__pgd__done": torch.full((4,), 2, dtype=torch.int32)},  # PGD has one stage
        {"samples__verdicts__pgd__done": torch.full((4,), -1, dtype=torch.int32)},
        {"samples__verdicts__pgd__broken": torch.full((4,), -2, dtype=torch.int32)},
        {"samples__verdicts__pgd__broken": torch.zeros(4, dtype=torch.int32)},  # though it predicts the label
        {"samples__verdicts__pgd__predicted": torch.full((4,), CLASSES)},
        {"samples__verdicts__pgd__predicted": torch.full((4,), -1)},
        pytest.param(
            {"samples__key": torch.arange(4).to_sparse()},
            marks=pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants"),
        ),
        {"samples__verdicts__pgd__size": torch.full((4,), 0.11, dtype=torch.float64)},  # of a radius of 0.1
        {"samples__verdicts__pgd__size": torch.full((4,), -0.01, dtype=torch.float64)},
        {"samples__verdicts__pgd__size": torch.full((4,), math.nan, dtype=torch.float64)},
        {"samples__verdicts__pgd__size": torch.zeros(4, dtype=torch.float64, requires_grad=True)},
        {"samples__verdicts__pgd__held": torch.full((4,), 1.5, dtype=torch.float64)},
        {"samples__verdicts__pgd__held": torch.full((4,), math.nan, dtype=torch.float64)},
        {"samples__verdicts__pgd__held": torch.ones(4, dtype=torch.float64)},  # without an accuracy
        {"samples__verdicts__pgd__accuracy": torch.ones(4, dtype=torch.float64)},  # without a choice
        {"samples__examples": {}},
        {"samples__examples": {"other": {}}},
        {"samples__examples__pgd": {0: torch.zeros(2, 3, 4, 4)}},
        {"samples__examples__pgd": {0: torch.zeros(1, 1, 4, 4)}},
        {"samples__examples__pgd": {0: torch.zeros(2, 1, 4, 4, dtype=torch.float64)}},
        {"samples__examples__pgd": {0: torch.full((2, 1, 4, 4), 1.1)}},
        {"samples__examples__pgd": {0: torch.full((2, 1, 4, 4), math.nan)}},
        {"samples__examples__pgd": {0: [[0.0]]}},
        {"samples__examples__pgd": {"a": torch.zeros(2, 1, 4, 4)}},
        {"samples__examples__pgd": {True: torch.zeros(2, 1, 4, 4)}},
        {"samples__examples__pgd": {9: torch.zeros(2, 1, 4, 4)}},
        {"seconds": None},
        {"seconds": [1]},
        {"seconds": {"pgd": "long"}},
        {"seconds": {"pgd": -1.0}},
        {"seconds": {"pgd": math.nan}},
        {"seconds": {"pgd": math.inf}},
        {"seconds": {"other": 1.0}},
    ],
)
def test_foreign_content_is_unreadable_and_stays(changes: dict[str, Any], tmp_path: Path) -> None:
    path, fresh = saved(tmp_path / "a", **changes), samples()
    before, state = path.read_bytes(), State(path.parent)
    with pytest.warns(
        UserWarning, match=r"Cannot read .*: results stored there are computed again\. The file is kept; "
    ):
        assert state.restore(fresh, ATTACKS, CLASSES) == {}
    assert not fresh.verdicts["pgd"].done.any()
    state.save(fresh, SECONDS)
    state.discard()
    assert path.read_bytes() == before


def test_what_a_killed_process_was_writing_goes_with_the_rest(tmp_path: Path) -> None:
    """Its temporary file, which is named after no file that is there, and a file of somebody else's."""
    folder = saved(tmp_path / "a").parent
    left, theirs = folder / ".host-0-abc.pt.host-0-def.tmp", folder / "notes.txt"
    left.write_bytes(b"half")
    state = State(folder)
    state.restore(samples(), ATTACKS)
    theirs.write_text("mine")
    later = folder / ".host-1-abc.pt.host-1-def.tmp"  # of a process that has begun since
    later.write_bytes(b"half")
    state.discard()
    assert sorted(path.name for path in folder.iterdir()) == [later.name, theirs.name]


def test_samples_to_draw_that_were_not_drawn_before_have_no_example(tmp_path: Path) -> None:
    """The clean image would pass for one."""
    path, fresh = saved(tmp_path / "a"), samples()
    fresh.shown[:2] = True
    fresh.examples["pgd"][1] = torch.stack([fresh.x[1]] * 2)
    State(path.parent).restore(fresh, ATTACKS)
    assert set(fresh.examples["pgd"]) == {0}


def test_code_and_links_are_not_followed(tmp_path: Path) -> None:
    theirs = saved(tmp_path / "theirs")
    folder = tmp_path / "mine"
    folder.mkdir()
    torch.save(Payload(tmp_path / "pwned"), folder / "a.pt")
    (folder / "b.pt").symlink_to(theirs)
    fresh, state = samples(), State(folder)
    with pytest.warns(UserWarning, match="Cannot read") as told:
        assert state.restore(fresh, ATTACKS, CLASSES) == {}
    assert len(told) == 2
    state.discard()
    assert theirs.exists()
    assert (folder / "b.pt").is_symlink()
    assert not (tmp_path / "pwned").exists()
    (tmp_path / "link").symlink_to(theirs.parent)
    with pytest.raises(ValueError, match="is a link, but an unfinished evaluation is kept in a folder of its own"):
        State(tmp_path / "link")


def test_containers_with_one_process_number_save_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 7)
    one, other = State(tmp_path), State(tmp_path)
    for state in (one, other):
        state.save(samples(), SECONDS)
    assert len(list(tmp_path.glob("*.pt"))) == 2
    one.discard()
    assert len(list(tmp_path.glob("*.pt"))) == 1


def scaled(factor: float) -> Any:
    return lambda x: x * factor


class Scaled(nn.Module):
    """Its settings are in no buffer, parameter or `repr`."""

    def __init__(self, factor: float = 1.0, function: Any = torch.relu) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        nn.init.ones_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)
        self.factor = factor
        self.function = function

    def extra_repr(self) -> str:
        return str(object())


class Drawn(PGD):
    def __init__(self, weight: torch.Tensor, objective: Any = None) -> None:
        super().__init__(Threat(eps=0.1))
        self.weight, self.objective = weight, objective


CASES: dict[str, Any] = {
    "net": lambda: (Scaled(), {}),
    "factor": lambda: (Scaled(2.0), {}),
    "lambda": lambda: (Scaled(function=scaled(1.0)), {}),
    "other closure": lambda: (Scaled(function=scaled(2.0)), {}),
    "partial": lambda: (Scaled(function=functools.partial(scaled, 2.0)), {}),
    "tensor": lambda: (Scaled(), {"attack": Drawn(torch.zeros(3))}),
    "other tensor": lambda: (Scaled(), {"attack": Drawn(torch.ones(3))}),
    "function": lambda: (Scaled(), {"attack": Drawn(torch.ones(3), scaled(1.0))}),
    "other function": lambda: (Scaled(), {"attack": Drawn(torch.ones(3), scaled(3.0))}),
    "set": lambda: (Scaled(), {"names": {"a", "b", "c"}}),
    "nothing in particular": lambda: (Scaled(), {"attack": object()}),
}


def fingerprints() -> dict[str, str]:
    return {name: fingerprint(*make()) for name, make in CASES.items()}


def test_tensors_and_functions_decide_by_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    found = fingerprints()
    assert len(set(found.values())) == len(CASES)
    assert fingerprints() == found  # of other objects, at other addresses
    for package in ("lightning-robust", "torch"):
        used = {"lightning-robust": "1", "torch": "1", package: "9.9"}
        monkeypatch.setattr(module, "versions", lambda used=used: used)
        assert not set(fingerprints().values()) & set(found.values())
    monkeypatch.undo()
    monkeypatch.setattr(module, "FORMAT", 99)
    assert not set(fingerprints().values()) & set(found.values())


@pytest.mark.slow
def test_another_process_finds_the_same() -> None:
    script = "from tests.evaluation.test_state import fingerprints; print(fingerprints())"
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(fingerprints())
