"""What the command line says of itself."""

import os
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
    assert set(COMMANDS) == {*RobustCLI.subcommands(), *PUBLISHING, "recipes", "report", "compare", "evaluate"}
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


def test_every_command_has_a_help_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    for command, option in {"fit": "--model", "export": "--ckpt_path", "recipes": "--show"}.items():
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0
        told = capsys.readouterr().out
        assert option in told
        assert f"usage: lightning-robust {'[options] ' if command == 'fit' else ''}{command}" in told


@pytest.mark.parametrize("args", [["--version"], ["--help"], ["recipes", "digits"], ["nonsense"]])
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
