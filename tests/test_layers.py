"""The house rules, read from the source: imports only point down, and one room alone switches modes and gradients."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lightning_robust"
FLOORS = (
    ("types", "utils"),
    ("runtime", "losses", "schedules", "threat"),
    ("attacks", "metrics"),
    ("parts", "models", "data", "evaluation"),
    ("defenses", "callbacks"),
    ("publish",),
    ("cli", "__main__"),
)
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
ORDERED = (0, 1, 6)  # floors in which a part may import those that stand before it; elsewhere siblings do not
ROOT_MODULES = {"__init__", "__main__", "types", "threat", "losses", "schedules"}
OUTSIDE_ROOMS = {"lightning_robust.__version__"}  # all of the door that the package itself may use
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
        elif first == "lightning_robust" and inner not in FLOOR and target not in OUTSIDE_ROOMS:
            found.append(f"{target}: import it from its module, the door is for users")
        elif first == "lightning_robust" and inner in FLOOR and inner != name:
            siblings = FLOORS[floor]
            before = floor in ORDERED and inner in siblings and siblings.index(inner) < siblings.index(name)
            if not (FLOOR[inner] < floor or before):
                found.append(f"{target}: {inner} does not stand below {name}")
    return found


def switches(source: str) -> list[str]:
    """Calls that change a net's mode, freeze or differentiate it, or move it."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [ast.unparse(c) for c in calls if isinstance(c.func, ast.Attribute) and c.func.attr in SWITCHES]


def test_every_module_has_a_floor():
    assert {part(path) for path in FILES} - {"__init__"} <= set(FLOOR)


def test_the_root_holds_a_few_modules_and_rooms_are_flat():
    assert {path.stem for path in PACKAGE.glob("*.py")} <= ROOT_MODULES
    assert max(len(path.relative_to(PACKAGE).parts) for path in FILES) == 2


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*/__init__.py")), ids=lambda path: path.parent.name)
def test_no_module_is_shadowed_by_a_name_of_its_package(path):
    bound = {
        alias.asname or alias.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert not bound & {module.stem for module in path.parent.glob("*.py")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_only_point_down(path):
    if part(path) != "__init__":
        assert not faults(part(path), path.read_text())


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_runtime_switches_modes_and_gradients(path):
    where = str(path.relative_to(PACKAGE))
    allowed = {"defenses/base.py": "super().backward("}.get(where, "\0")
    if not where.startswith("runtime/"):
        assert not [call for call in switches(path.read_text()) if not call.startswith(allowed)]


@pytest.mark.parametrize(
    ("name", "source", "fault"),
    [
        ("losses", "from lightning_robust.threat import Threat", "threat does not stand below losses"),
        ("types", "from lightning_robust.utils.images import check_images", "utils does not stand below types"),
        ("threat", "def f():\n    from lightning_robust import attacks", "attacks does not stand below threat"),
        ("models", "import lightning_robust.data.data_module", "data does not stand below models"),
        ("attacks", "from lightning_robust.metrics import is_correct", "metrics does not stand below attacks"),
        ("defenses", "from lightning_robust.callbacks import report", "callbacks does not stand below defenses"),
        ("callbacks", "from lightning_robust.publish import report", "publish does not stand below callbacks"),
        ("metrics", "from lightning.pytorch import Trainer", "know no lightning"),
        ("attacks", "from .base import Attack", "write imports in full"),
        ("callbacks", "from lightning_robust import AT", "import it from its module"),
        ("attacks", "import lightning_robust as lr", "import it from its module"),
        ("cli", "from lightning_robust import __version__", None),
        ("runtime", "from lightning_robust.types import Batch", None),
        ("threat", "from lightning_robust.losses import cross_entropy", None),
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
