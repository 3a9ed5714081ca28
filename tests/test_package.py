"""The wheel, installed without the source tree, works in an empty folder."""

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]
RECIPES = {path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml")}


def python(folder: Path, *args: str, path: Path | None = None) -> str:
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "LIGHTNING_ROBUST_RUN")}
    environment |= {"PYTHONPATH": str(path)} if path else {}
    done = subprocess.run([sys.executable, *args], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    python(ROOT, "-m", "hatchling", "build", "--directory", str(folder))
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Runs the installed console script in a folder."""
    site = tmp_path_factory.mktemp("site")
    (wheel,) = built.glob("*.whl")
    python(site, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site), str(wheel))
    where = python(site.parent, "-c", "import lightning_robust as lr; print(lr.__file__)", path=site)
    assert Path(where.strip()).parent == site / "lightning_robust"
    return lambda folder, *args: python(folder, str(site / "bin/lightning-robust"), *args, path=site)


@pytest.mark.slow
def test_wheel_and_sdist_hold_recipes_types_and_the_page_of_the_index(built: Path) -> None:
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(name for name in names if name.endswith("METADATA"))).decode()
    assert {f"lightning_robust/{recipe}" for recipe in RECIPES} <= names
    assert "lightning_robust/py.typed" in names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "docs/"))]
    assert "Project-URL: Repository, https://github.com/" in metadata
    assert "Description-Content-Type: text/markdown" in metadata
    page = metadata.split("\n\n", 1)[1]
    assert "](docs/" not in page  # a relative link leads nowhere there
    assert 'src="docs/' not in page
    with tarfile.open(sdist) as source:
        inside = {name.split("/", 1)[1] for name in source.getnames() if "/" in name}
    assert {*RECIPES, "lightning_robust/py.typed", "README.md", "LICENSE", "tests/test_package.py"} <= inside


@pytest.mark.slow
def test_the_installed_command_works_in_an_empty_folder(installed: Callable[..., str], tmp_path: Path) -> None:
    assert installed(tmp_path, "--version").startswith(f"lightning-robust {version('lightning-robust')}, ")
    listed = {line.split()[0] for line in installed(tmp_path, "recipes").splitlines()[1:]}
    assert listed == {recipe.removeprefix("configs/").removesuffix(".yaml") for recipe in RECIPES}
    assert not list(tmp_path.iterdir())
    quick = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.accelerator=cpu"]
    told = installed(tmp_path, "fit", "--config", "digits/at", *quick)
    assert "lightning-robust test --config" in told
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    (report,) = tmp_path.glob("runs/Digits/AT/fit-*/robustness.json")
    assert json.loads(report.read_text())["n"] > 0
