"""The Dockerfile, as far as it can be followed without Docker."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from lightning_robust.cli.recipes import recipes

ROOT = Path(__file__).parents[1]
LINES = re.sub(r"\\\n", "", (ROOT / "Dockerfile").read_text()).splitlines()


def sources() -> list[str]:
    """What is copied into the image."""
    return [name for line in LINES if line.startswith("COPY ") for name in line.split()[1:-1]]


def test_what_is_copied_is_there_and_not_left_out() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(sources()) == let_in
    assert all((ROOT / name).exists() for name in let_in)


def test_the_image_runs_the_command_as_a_user_without_rights() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    scripts = text.partition("[project.scripts]")[2].partition("[")[0]
    (entry,) = [line for line in LINES if line.startswith("ENTRYPOINT ")]
    assert re.findall(r"^([\w-]+) =", scripts, re.MULTILINE) == re.findall(r'"(.+?)"', entry)
    assert [line for line in LINES if line.startswith("USER ")] == ["USER 1000"]
    (extras,) = [line.partition("=")[2].split(",") for line in LINES if line.startswith("ARG EXTRAS=")]
    assert set(extras) <= set(re.findall(r"^([\w-]+) = \[", text, re.MULTILINE))


@pytest.mark.slow
def test_the_package_builds_from_what_is_copied(tmp_path: Path) -> None:
    for name in sources():
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
    subprocess.run(build, cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("dist/*.whl")
    names = ZipFile(wheel).namelist()
    assert {f"lightning_robust/configs/{name}.yaml" for name in recipes()} <= set(names)
