"""The command line, called from a test."""

import pytest

from lightning_robust.cli.main import main


def refusal(capsys: pytest.CaptureFixture[str], *args: str, status: int = 2) -> str:
    """Run a command that must be refused, with this status and one sentence without a traceback; gives the sentence."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == status
    told = capsys.readouterr().err
    assert "Traceback" not in told
    (line,) = [line for line in told.splitlines() if line.startswith("error: ")]
    return line
