"""The floor under the prose, read from the source: what every public docstring holds."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lightning_robust"
# rooms in which everything public that a package exports has an example, and what has none: it needs files or downloads
HARD_TO_SHOW = ("Schedule", "disable_inference_mode", "global_seed")
EXAMPLES = ("attacks", "data", "defenses", "metrics", "models", "parts")
NO_EXAMPLE = {
    *("CIFAR10", "CIFAR10C", "CIFAR100", "CIFAR100C", "CommonCorruptions", "CorruptionDataModule", "ImageNet"),
    *("FashionMNIST", "HFDataset", "ImageNetC", "MNIST", "RobustBenchModel", "SVHN", "TinyImageNet"),
    *(
        "Attack",
        "MinimumNorm",
        "Regularizer",
        "Reweighting",
        "WeightPerturbation",
    ),  # abstract: their subclasses have one
}
FILES = sorted(PACKAGE.rglob("*.py"))
Documented = ast.Module | ast.ClassDef | ast.FunctionDef


def public(tree: ast.Module) -> Iterator[tuple[str, Documented]]:
    """A module, its public classes and functions, and the public methods of these classes, each with its name."""
    yield "module", tree
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name, node
            for inner in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                    yield f"{node.name}.{inner.name}", inner


def documented_arguments(docstring: str) -> set[str]:
    """The names listed under `Args:`, each at the start of a line one level deeper."""
    section = re.search(r"^Args:\n((?:(?: {4}.*)?\n)+)", f"{docstring}\n", re.MULTILINE)
    return set(re.findall(r"^ {4}(\w+):", section[1], re.MULTILINE)) if section else set()


def parameters(node: ast.ClassDef) -> set[str]:
    """What the class's own constructor takes; the fields of a NamedTuple."""
    if any(ast.unparse(base) == "NamedTuple" for base in node.bases):
        return {ast.unparse(field.target) for field in node.body if isinstance(field, ast.AnnAssign)}
    for inner in node.body:
        if isinstance(inner, ast.FunctionDef) and inner.name == "__init__":
            every = inner.args
            several = [argument for argument in (every.vararg, every.kwarg) if argument]
            return {a.arg for a in (*every.posonlyargs, *every.args[1:], *every.kwonlyargs, *several)}
    return set()


def faults(source: str) -> list[str]:
    """What the public docstrings of a module lack."""
    found = []
    for name, node in public(ast.parse(source)):
        docstring = ast.get_docstring(node) or ""
        first = docstring.partition("\n")[0]
        if len(first.split()) < 5:
            found.append(f"{name}: the first line has fewer than five words: {first!r}")
        elif first[-1] not in ".?!":
            found.append(f"{name}: the first line is not a whole sentence: {first!r}")
        if isinstance(node, ast.ClassDef):
            missing = parameters(node) - documented_arguments(docstring)
            if missing:
                found.append(f"{name}: Args lacks {', '.join(sorted(missing))}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_public_docstrings_say_what_a_thing_does(path: Path) -> None:
    assert not faults(path.read_text())


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_users_call_has_an_example(name: str) -> None:
    module = importlib.import_module(f"lightning_robust.{name}")
    objects = [getattr(module, name) for name in module.__all__ if name not in NO_EXAMPLE]
    lacking = [thing.__name__ for thing in objects if callable(thing) and ">>>" not in (thing.__doc__ or "")]
    assert not lacking


@pytest.mark.parametrize("name", ["losses", "schedules", "runtime.gradients", "runtime.modes", "runtime.rng"])
def test_public_functions_of_a_module_have_an_example(name: str) -> None:
    tree = ast.parse((PACKAGE / f"{name.replace('.', '/')}.py").read_text())
    nodes = {n: node for n, node in public(tree) if "." not in n and n not in ("module", *HARD_TO_SHOW)}
    assert not [n for n, node in nodes.items() if ">>>" not in (ast.get_docstring(node) or "")]


GOOD = '''"""A module that holds one class."""
class Net:
    """Build a net of two layers.

    Args:
        width: channels, as many as
            there are.
        kwargs: further ones.
    """
    def __init__(self, width, **kwargs): ...
    def _hidden(self): ...
'''


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("", "", None),
        ("A module that holds one class.", "One class.", "module: the first line has fewer than five words"),
        ("of two layers.", "of two layers", "Net: the first line is not a whole sentence"),
        ("        kwargs: further ones.\n", "", "Net: Args lacks kwargs"),
        ("_hidden", "shown", "Net.shown: the first line has fewer than five words"),
        ("(self, width, ", "(self, width, *, depth=1, ", "Net: Args lacks depth"),
    ],
)
def test_the_floor_catches_what_it_should(old: str, new: str, fault: str | None) -> None:
    found = faults(GOOD.replace(old, new) if old else GOOD)
    assert found[0].startswith(fault) if fault else not found
