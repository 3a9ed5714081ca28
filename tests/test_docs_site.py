"""The documentation site leads to every page, and its reference to every public name."""

import re
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name

import pytest

import lightning_robust as lr

DOCS = Path(__file__).parents[1] / "docs"
PACKAGES = ["attacks", "attacks.functional", "callbacks", "data", "defenses", "metrics", "models", "parts"]
ALL = {f"lightning_robust.{name}" for name in lr.__all__ if name != "__version__"} | {
    f"lightning_robust.{package}.{name}"
    for package in PACKAGES
    for name in import_module(f"lightning_robust.{package}").__all__
}


def reached(page: Path) -> set[Path]:
    """The page, and the pages to which its tables of contents lead."""
    trees = re.findall(r"^```\{toctree\}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    entries = [line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")]
    return {page}.union(*(reached(page.parent / f"{entry}.md") for entry in entries))


def test_every_page_is_in_the_navigation() -> None:
    assert reached(DOCS / "index.md") == set(DOCS.rglob("*.md"))


@pytest.fixture(scope="module")
def described() -> set[int]:
    """The identities of the objects that the pages of the reference name."""
    pages = "".join(page.read_text() for page in DOCS.glob("api/*.md"))
    names = re.findall(r"^(?:   ~|\.\. auto\w+:: )(lightning_robust\.[\w.]+)$", pages, re.MULTILINE)
    return {id(resolve_name(name)) for name in names}


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_public_name_is_in_the_reference(name: str, described: set[int]) -> None:
    module, _, attribute = name.rpartition(".")
    assert id(getattr(import_module(module), attribute)) in described, f"add {name} to docs/api/index.md"


def test_every_package_is_described() -> None:
    """To this the tables of the reference lead."""
    pages = "".join(page.read_text() for page in DOCS.glob("api/*.md"))
    assert set(re.findall(r"automodule:: lightning_robust\.(\S+)", pages)) >= {*PACKAGES}
