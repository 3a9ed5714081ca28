"""On a busy machine threads wait asleep, unless the user has decided how they wait."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_robust.cli import busy_machine


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.setenv(name, "")  # so that whatever is set is taken back
        monkeypatch.delenv(name)
    return monkeypatch


def running(environment: pytest.MonkeyPatch, *looks: int) -> None:
    left = iter(looks)
    environment.setattr(busy_machine, "others_running", lambda: next(left))


@pytest.mark.parametrize(("looks", "policy"), [([0], None), ([3, 0], None), ([1, 1, 0], None), ([1, 2, 1], "passive")])
def test_threads_sleep_while_they_wait_if_others_go_on_working(
    looks: list[int], policy: str | None, environment: pytest.MonkeyPatch
) -> None:
    running(environment, *looks)
    busy_machine.share_cores()
    assert os.environ.get("OMP_WAIT_POLICY") == policy


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_what_the_user_has_set_is_left(name: str, environment: pytest.MonkeyPatch) -> None:
    environment.setenv(name, "active")
    before = dict(os.environ)
    running(environment, 1, 1, 1)
    busy_machine.share_cores()
    assert dict(os.environ) == before


@pytest.mark.skipif(not Path("/proc/loadavg").exists(), reason="the system does not tell")
def test_a_process_at_work_is_seen() -> None:
    code = "print(flush=True)\nwhile True:\n    pass"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        seen = [busy_machine.others_running() for _ in range(5)]
        other.kill()
    assert min(seen) >= 1


def test_a_system_that_does_not_tell_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr("builtins.open", refuse)
    assert busy_machine.others_running() == 0


def test_the_command_decides_before_torch_is_there(environment: pytest.MonkeyPatch) -> None:
    code = (
        "import os, sys\nfrom lightning_robust.cli import busy_machine, main\n"
        "def looked():\n    assert 'torch' not in sys.modules\n    return 1\n"
        "busy_machine.others_running, sys.argv = looked, ['lightning-robust', '--version']\n"
        "main.console()\nprint(os.environ['OMP_WAIT_POLICY'])"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "passive"
