"""The house rules, read from the source: imports only point down, and one module alone switches modes and gradients."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lightning_robust"
FLOORS = {
    0: {
        "types",
        "threat",
        "modes",
        "batch_norms",
        "schedules",
        "draws",
        "checks",
        "per_sample",
        "ranks",
        "errors",
        "files",
    },
    1: {"losses"},
    2: {"attacks", "metrics"},
    3: {"regularizers", "reweighting", "weight_perturbation", "models", "data", "evaluation", "strategies"},
    4: {"defenses", "callbacks"},
    5: {"cli", "parser", "robustbench", "weights", "model_card", "plan", "stopwatch", "checkpoints", "__main__"},
}
FLOOR = {name: floor for floor, names in FLOORS.items() for name in names}
TOGETHER = {0, 5}  # floors whose modules may import each other; elsewhere siblings do not
SWITCHES = {"eval", "train", "requires_grad_", "backward", "cuda"}
FILES = sorted(PACKAGE.rglob("*.py"))


def part(path: Path) -> str:
    """The package's part that a file belongs to: its first folder, or its own name."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(tree: ast.AST) -> Iterator[str]:
    """The full names of all that is imported, inside functions too; a relative import starts with a dot."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ("." * node.level + f"{node.module or ''}.{alias.name}" for alias in node.names)


def faults(name: str, source: str) -> list[str]:
    """What a module of part `name` imports though it may not."""
    floor, found = FLOOR[name], []
    for target in imports(ast.parse(source)):
        first, _, rest = target.partition(".")
        inner = rest.split(".")[0]
        if first == "":
            found.append(f"{target}: write imports in full")
        elif first in ("lightning", "pytorch_lightning", "lightning_fabric") and floor <= 2:
            found.append(f"{target}: floors 0-2 know no lightning")
        elif first == "lightning_robust" and inner in FLOOR and inner != name:
            below = FLOOR[inner] < floor or (FLOOR[inner] == floor and floor in TOGETHER)
            if not below:
                found.append(f"{target}: floor {FLOOR[inner]} is not below floor {floor}")
    return found


def switches(source: str) -> list[str]:
    """Calls that change a net's mode, freeze or differentiate it, or move it."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [ast.unparse(c) for c in calls if isinstance(c.func, ast.Attribute) and c.func.attr in SWITCHES]


def test_every_module_has_a_floor():
    assert {part(path) for path in FILES} - {"__init__"} <= set(FLOOR)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_only_point_down(path):
    if part(path) != "__init__":
        assert not faults(part(path), path.read_text())


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_modes_switches_modes_and_gradients(path):
    where = str(path.relative_to(PACKAGE))
    allowed = {"defenses/base.py": "super().backward("}.get(where, "\0")
    if where != "modes.py":
        assert not [call for call in switches(path.read_text()) if not call.startswith(allowed)]


@pytest.mark.parametrize(
    ("name", "source", "fault"),
    [
        ("threat", "from lightning_robust.losses import cross_entropy", "floor 1 is not below floor 0"),
        ("threat", "def f():\n    from lightning_robust import attacks", "floor 2 is not below floor 0"),
        ("models", "import lightning_robust.data.base", "floor 3 is not below floor 3"),
        ("defenses", "from lightning_robust.callbacks import report", "floor 4 is not below floor 4"),
        ("metrics", "from lightning.pytorch import Trainer", "know no lightning"),
        ("attacks", "from .base import Attack", "write imports in full"),
        ("draws", "from lightning_robust.types import Batch", None),
        (
            "defenses",
            "from lightning import LightningModule\nfrom lightning_robust.models.small import SmallConvNet",
            None,
        ),
        ("attacks", "from lightning_robust.attacks.base import Attack", None),
    ],
)
def test_the_rules_catch_what_they_should(name, source, fault):
    found = faults(name, source)
    assert (fault in found[0]) if fault else not found


def test_the_switches_are_seen():
    assert len(switches("net.eval(); net.train(False); p.requires_grad_(True); loss.sum().backward(); x.cuda(0)")) == 5
    assert not switches("'''net.eval()'''  # loss.backward()")


@pytest.mark.slow
def test_attacks_and_metrics_work_without_lightning():
    """Not only their own imports: nothing that they import brings it in."""
    code = "import sys, lightning_robust.attacks, lightning_robust.metrics; sys.exit('lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, check=False).returncode == 0
