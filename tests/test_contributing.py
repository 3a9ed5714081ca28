"""What CONTRIBUTING.md tells a contributor to write works as it stands."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


BLOCKS = dict(
    re.findall(
        r"```\w+\n# (\S+)\n(.*?)```",
        (ROOT / "CONTRIBUTING.md").read_text().split("## Add a defense")[1].split("\n## ")[0],
        re.DOTALL,
    )
)


@pytest.mark.parametrize("name", ["lightning_robust/defenses/alp.py", "configs/digits/alp.yaml"])
def test_what_it_shows_is_what_stands_here(name: str) -> None:
    assert BLOCKS[name] == (ROOT / name).read_text()


@pytest.mark.slow
def test_add_a_defense(tmp_path: Path) -> None:
    for name in ("lightning_robust", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    assert len(BLOCKS) == 4
    for name, text in BLOCKS.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.name == "__init__.py":
            assert text in path.read_text()
        else:
            path.write_text(text)

    def python(*args: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run([sys.executable, *args], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    python("-m", "ruff", "check", "lightning_robust/defenses/alp.py")
    python("record.py")
    assert "1 passed" in python("-m", "pytest", "-q", "tests/defenses/test_golden.py", "-k", "added_record and alp")
    quick = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--trainer.enable_progress_bar=false"]
    python("-m", "lightning_robust", "fit", "--config", "configs/digits/alp.yaml", *quick)
    assert "train/pairing" in next(tmp_path.glob("runs/Digits/ALP/*/metrics.csv")).read_text()

    # the record is one that can fail
    alp = tmp_path / "lightning_robust/defenses/alp.py"
    alp.write_text(alp.read_text().replace("(natural + robust) / 2", "natural + robust"))
    with pytest.raises(AssertionError, match="1 failed"):
        python("-m", "pytest", "-q", "tests/defenses/test_golden.py", "-k", "test_added_record")
