"""The benchmark scripts start, are described, and share what they should; their numbers are measured by hand."""

import re
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.common import workloads
from benchmarks.common.clones import from_clone
from benchmarks.common.timing import Spread, interleave, ratio

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(path.stem for path in (ROOT / "benchmarks").glob("[!_]*.py"))


def commands(file: str) -> set[str]:
    return set(re.findall(r"python -m benchmarks\.(\w+)", (ROOT / file).read_text()))


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_starts(script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module(f"benchmarks.{script}", run_name="__main__")
    assert f"results/{script}" in " ".join(capsys.readouterr().out.split()) or script == "defenses"


def test_the_guide_names_every_script_and_no_other() -> None:
    assert commands("benchmarks/README.md") == {*SCRIPTS}
    assert commands("docs/speed.md") <= {*SCRIPTS}


def test_no_script_edits_the_path() -> None:
    files = [*(ROOT / "benchmarks").rglob("*.py")]
    assert len(files) > len(SCRIPTS)
    assert not [file for file in files if "sys.path" in file.read_text()]


def test_a_script_gets_its_workload_and_its_own_options(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def main(workload: workloads.Workload, rounds: int = 5) -> None:
        given.append((workload, rounds))

    monkeypatch.setattr(workloads, "prepare", lambda: None)  # it silences the whole process
    monkeypatch.setattr(sys, "argv", ["script", "--net", "small", "--rounds", "2"])
    workloads.on_workload(main, batch_size=32)
    workloads.on_workload(main, skip={"device"})
    assert given == [(workloads.Workload("small", 32), 2), (workloads.Workload("small", 16), 2)]
    net, batch = given[1][0].build()
    assert batch.x.shape == (16, 3, 8, 8)
    assert (net.eval()(batch.x).argmax(1) == batch.y).all()


def test_a_clones_module_comes_with_what_it_needs_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "utils.py").write_text("import colorsys\nsize = 3\n")
    (tmp_path / "losses.py").write_text("from utils import *\ntwice = 2 * size\n")
    mine = SimpleNamespace()
    monkeypatch.setitem(sys.modules, "utils", mine)
    path = [*sys.path]
    assert from_clone(tmp_path, "losses", "utils").twice == 6
    assert sys.modules["utils"] is mine
    assert sys.modules["colorsys"]  # others' modules stay, as they would
    assert "losses" not in sys.modules
    assert sys.path == path
    with pytest.raises(FileNotFoundError, match=r"absent\.py"):
        from_clone(tmp_path, "absent")
    assert "absent" not in sys.modules


def test_ratios_are_within_rounds(capsys: pytest.CaptureFixture[str]) -> None:
    order: list[str] = []

    def arm(name: str) -> float:
        order.append(name)
        return 1.0

    seconds = interleave({"a": lambda: arm("a"), "b": lambda: arm("b")}, 3)
    assert order == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert len(seconds["a"]) == len(seconds["b"]) == 3
    assert ratio([2.0, 4.0, 9.0], [1.0, 2.0, 3.0]) == Spread(2.0, 2.0, 2.5)
