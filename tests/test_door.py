"""`import lightning_robust as lr` gives every public name, and loads nothing heavy before it is needed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_robust as lr

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lightning_robust"
DOOR = ast.parse((PACKAGE / "__init__.py").read_text())


def loaded_after(code: str) -> set[str]:
    """Run code in a process of its own; returns the top-level packages that it imported."""
    report = "import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    run = [sys.executable, "-c", f"{code}\n{report}"]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_loads_neither_torch_nor_lightning():
    assert not loaded_after("import lightning_robust; dir(lightning_robust)") & {"torch", "lightning", "torchmetrics"}


@pytest.mark.slow
def test_attacks_metrics_and_threat_do_not_load_lightning():
    uses = (
        "import lightning_robust as lr\nlr.pgd, lr.PGD, lr.AutoAttack, lr.Threat, lr.RobustAccuracy, lr.CorruptionError"
    )
    loaded = loaded_after(uses)
    assert "torch" in loaded
    assert "lightning" not in loaded
    assert "lightning" in loaded_after("import lightning_robust as lr\nlr.AT")  # so the test can fail


@pytest.mark.parametrize("name", lr.__all__)
def test_every_public_name_is_there(name):
    assert name in dir(lr)
    assert getattr(lr, name) is getattr(lr, name)


def test_type_checkers_read_the_names_that_are_imported_lazily():
    (block,) = [node for node in DOOR.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    typed = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            assert alias.name == alias.asname, "`as` marks a name as public to mypy"
            typed[alias.name] = node.module
    assert typed == lr._MODULES
    assert set(lr.__all__) == {*typed, "__version__"}


def test_packages_and_door_agree():
    """A defense, attack, callback or plain function that its package lists is at the door, too."""
    for package in ("attacks", "attacks.functional", "callbacks", "defenses"):
        module = __import__(f"lightning_robust.{package}", fromlist=["__all__"])
        assert {name for name, path in lr._MODULES.items() if path == module.__name__} == set(module.__all__)


def test_no_public_name_hides_a_module():
    modules = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert not set(lr.__all__) & modules


def test_an_unknown_name_is_an_attribute_error_that_suggests_one():
    with pytest.raises(AttributeError, match=r"no attribute 'AutoAtack'; did you mean 'AutoAttack'\?"):
        lr.AutoAtack  # noqa: B018
    assert not hasattr(lr, "__wrapped__")


def test_the_version_is_that_of_the_installed_package():
    assert lr.__version__
    alone = (
        "import importlib.metadata as m\ndef missing(name): raise m.PackageNotFoundError(name)\nm.version = missing\n"
    )
    check = "import lightning_robust\nassert lightning_robust.__version__ == '0+unknown'"
    loaded_after(alone + check)


@pytest.mark.slow
def test_mypy_sees_the_types(tmp_path):
    (tmp_path / "user.py").write_text(
        "import lightning_robust as lr\n\nreveal_type(lr.AT)\nreveal_type(lr.pgd)\nlr.PDG\n"
    )
    check = [sys.executable, "-m", "mypy", "--strict", str(tmp_path / "user.py")]
    told = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    assert "-> lightning_robust.defenses.at.AT" in told
    assert "def (net: " in told
    assert 'Module has no attribute "PDG"' in told
