"""The benchmark scripts start, are described, and share what they should; their numbers are measured by hand."""

import re
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import overfitting
from benchmarks.common import fashion, workloads
from benchmarks.common.claims import ON_DIGITS, ON_FASHION, Claim, claims
from benchmarks.common.clones import from_clone
from benchmarks.common.recipes import adapted
from benchmarks.common.runs import append
from benchmarks.common.timing import Spread, interleave, ratio
from benchmarks.methods import passes
from tests.helpers.files import write_mnist

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(path.stem for path in (ROOT / "benchmarks").glob("[!_]*.py"))


def commands(file: str) -> set[str]:
    return set(re.findall(r"python -m benchmarks\.(\w+)", (ROOT / file).read_text()))


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_starts(script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    monkeypatch.delitem(sys.modules, f"benchmarks.{script}", raising=False)  # others may have imported it
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


def test_claims_are_differences_paired_by_seed() -> None:
    first = [("a", 0.1, 0, 1.0), ("a", 0.1, 1, 3.0), ("a", 0.1, 2, 9.0), ("a", 0.2, 0, 9.0)]
    second = [("b", 0.1, 1, 2.0), ("b", 0.1, 0, 3.0)]  # seed 2, and radius 0.2, have no partner
    runs = [
        SimpleNamespace(recipe=recipe, eps=eps, seed=seed, margin=value)
        for recipe, eps, seed, value in (*first, *second)
    ]
    (row,) = claims(runs, [Claim("c", "margin", "a", "b", lambda run: run.margin)])
    assert row["of"] == "a - b"
    assert (row["linf eps"], row["seeds"]) == (0.1, 2)
    assert row["difference"] == pytest.approx((1 - 3 + 3 - 2) / 2)
    assert row["standard error"] == pytest.approx(1.5)  # of -2 and 1


def test_claims_compare_what_is_measured() -> None:
    for of, folder in ((ON_DIGITS, "digits"), (ON_FASHION, "fashion_mnist")):
        there = {path.stem for path in (ROOT / "configs" / folder).glob("*.yaml")} | {*fashion.SELF_TRAINED}
        assert {name for claim in of for name in (claim.first, claim.second)} <= there


@pytest.mark.parametrize("path", sorted((ROOT / "configs/fashion_mnist").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_at_another_radius_keeps_what_trains_and_leaves_out_what_watches(path: Path) -> None:
    config, doubled = (adapted(path.stem, eps, configs=path.parent) for eps in (0.1, 0.2))
    model, other = config["model"]["init_args"], doubled["model"]["init_args"]
    assert other["attack"]["init_args"].pop("threat")["eps"] == 0.2
    assert model["attack"]["init_args"].pop("threat")["eps"] == 0.1
    if path.stem == "iaat":
        assert other.pop("gamma") == pytest.approx(2 * model.pop("gamma"))
    assert model == other
    kept = [callback["class_path"] for callback in config["trainer"]["callbacks"] or ()]
    assert kept == ([] if path.stem in ("standard", "emr_standard", "iaat") else ["AttackStrength"])
    assert config["trainer"] == doubled["trainer"]


@pytest.mark.slow
def test_self_training_takes_its_labels_from_a_net_that_saw_the_labelled_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fashion, "LABELLED", 40)
    monkeypatch.setattr(fashion, "HELD_OUT", 10)
    monkeypatch.setattr(sys, "argv", sys.argv[:1])
    images, labels = write_mnist(tmp_path / "data", 120, 12, where="FashionMNIST/raw")["train"]
    key = fashion.Key("StridedConvNet", "st_rst", 0.1, 0, 1, str(tmp_path / "data"))
    settings = fashion.self_training(key, tmp_path)
    labelled, pseudo = np.load(settings["labelled"]["init_args"]["root"]), np.load(settings["images"])
    assert (labelled["x_train"] == images[:40]).all()
    assert (labelled["y_train"] == labels[:40]).all()
    assert (pseudo["image"] == images[40:]).all()
    assert pseudo["label"].shape == (80,)
    assert settings["epoch_size"] == 120
    assert fashion.configuration(key)["model"]["class_path"] == "ST"


@pytest.mark.slow
def test_overfitting_is_measured_after_each_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"EPOCHS": 2, "TRAINED": 128}.items():
        monkeypatch.setattr(overfitting, name, value)
    monkeypatch.setattr(sys, "argv", sys.argv[:1])
    write_mnist(tmp_path / "data", 128, 12, where="FashionMNIST/raw")
    for arm in overfitting.ARMS:
        run = overfitting.measure(overfitting.Key(arm, 0, str(tmp_path / "data")))
        assert [len(curve) for curve in run.curves] == [2, 2]
        assert run.curves[1][-1] == pytest.approx(run.final_pgd, abs=1e-3)
        append(tmp_path / "overfitting_runs.csv", run)
    overfitting.main(str(tmp_path / "data"), seeds=1, jobs=0, results=tmp_path)
    assert capsys.readouterr().out.count("\n| ") == 2 + len(overfitting.ARMS)
    assert (tmp_path / "overfitting.png").exists()


def test_a_gap_is_where_one_step_is_withstood_and_several_are_not() -> None:
    run = overfitting.Run("FGSM", 0, fgsm="0.300 0.900 0.500", pgd="0.250 0.100 0.450", final_clean=1, final_pgd=0.45)
    assert overfitting.gap(run) == pytest.approx(0.8)


def test_several_norms_are_scaled_alike() -> None:
    attacks = adapted("max", 0.3)["model"]["init_args"]["attack"]["init_args"]["attacks"]
    radii = {name: attack["init_args"]["threat"]["eps"] for name, attack in attacks.items()}
    assert radii == pytest.approx({"linf": 0.3, "l2": 1.5, "l1": 6.0})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "counted"), [("standard", "1 / 1"), ("at", "11 / 11"), ("trades", "13 / 12"), ("emr_at", "12 / 12")]
)
def test_passes_are_those_of_the_definition(recipe: str, counted: str) -> None:
    """TRADES: the attack's reference, ten steps, clean and adversarial images. EMR: the penalty's own."""
    assert passes(recipe, batches=2) == counted
