"""What the command line says of itself."""

import os
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from lightning_robust.cli.main import main
from lightning_robust.cli.publishing import PUBLISHING
from lightning_robust.cli.robust_cli import RobustCLI
from lightning_robust.cli.usage import COMMANDS
from tests.helpers.command_line import refusal


def test_help_is_one_screen_that_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    assert set(COMMANDS) == {
        *RobustCLI.subcommands(),
        *PUBLISHING,
        "recipes",
        "report",
        "compare",
        "evaluate",
        "completion",
    }
    for name, does in COMMANDS.items():
        assert f"  {name:<12} {does}" in lines
    assert "  lightning-robust fit --config digits/at" in lines


def test_without_a_command_the_help_is_shown_and_the_status_says_that_nothing_was_done(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert "examples:" in capsys.readouterr().out


def test_a_misspelt_command_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(capsys, "fti") == "error: There is no command 'fti'; did you mean 'fit'?"


@pytest.mark.parametrize(
    "args",
    [["--version"], ["--help"], ["recipes", "digits"], ["nonsense"], *([command, "--help"] for command in COMMANDS)],
    ids=" ".join,
)
def test_what_needs_no_net_imports_neither_torch_nor_lightning(args: list[str], tmp_path: Path) -> None:
    code = (
        "import sys, lightning_robust.cli.main as door\n"
        "try:\n    door.main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "sys.exit(bool({'torch', 'lightning', 'numpy'} & set(sys.modules)))"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code, *args],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    if args == ["--version"]:
        assert done.stdout.startswith(f"lightning-robust {version('lightning-robust')}, lightning ")


@pytest.mark.parametrize("args", ["recipes", "evaluate --help", "completion bash"])
def test_a_reader_that_stops_reading_sees_no_traceback(args: str, tmp_path: Path) -> None:
    command = f"set -o pipefail; {shlex.quote(sys.executable)} -m lightning_robust {args} | true"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1)  # 0 where all was written before the reader ended
    assert done.stderr == ""
