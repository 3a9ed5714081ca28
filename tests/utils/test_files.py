"""Files are written whole, under a name of one's own, and never through another's link."""

import os
import socket
import stat
import time
from pathlib import Path

import pytest

from lightning_robust.utils import files
from lightning_robust.utils.files import atomic_write, set_aside, unique_name
from lightning_robust.utils.writers import write_csv, write_json
from tests.helpers.ddp import process_group, run_ddp


def test_names_tell_host_rank_and_process_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two containers with one process number and one host name, the random part is left."""

    def on(rank: int) -> str:
        with process_group():
            return unique_name()

    monkeypatch.setattr(socket, "gethostname", lambda: "a/../b c")
    names = [name for _ in range(2) for name in run_ddp(on)]
    assert [name.rpartition("-")[0] for name in names] == ["a----b-c-0", "a----b-c-1"] * 2
    assert len(set(names)) == 4


def test_two_writers_of_one_file_never_share_a_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with atomic_write(path) as one, atomic_write(path) as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_permissions_are_what_the_umask_leaves(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        for mode in (0o666, 0o600):
            path = tmp_path / f"{mode:o}"
            with atomic_write(path, mode) as beside:
                beside.write_text("a")
            assert stat.S_IMODE(path.stat().st_mode) == mode & ~mask
    finally:
        os.umask(before)


@pytest.mark.parametrize("dangling", [True, False])
def test_a_link_is_replaced_and_not_written_through(dangling: bool, tmp_path: Path) -> None:
    victim, folder = tmp_path / "victim", tmp_path / "run"
    folder.mkdir()
    if not dangling:
        victim.write_text("mine")
    for name, write in {
        "a.json": lambda path: write_json({"a": 1}, path),
        "a.csv": lambda path: write_csv(["a"], [[1]], path),
    }.items():
        (folder / name).symlink_to(victim)
        write(folder / name)
        assert not (folder / name).is_symlink()
    (folder / "metrics.csv").symlink_to(victim)
    set_aside(folder / "metrics.csv")
    assert not os.path.lexists(folder / "metrics.csv")
    assert not victim.exists() if dangling else victim.read_text() == "mine"


def test_a_name_that_was_guessed_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    monkeypatch.setattr(files, "unique_name", lambda: "guessed")
    (tmp_path / ".a.guessed.tmp").symlink_to(victim)
    with pytest.raises(FileExistsError), atomic_write(tmp_path / "a") as beside:
        beside.write_text("theirs")
    assert victim.read_text() == "mine"


def test_what_killed_processes_left_goes_after_a_while(tmp_path: Path) -> None:
    path, now = tmp_path / "a[1].json", time.time()
    for name, age in {"old": 1000, "young": 100}.items():
        (tmp_path / f".a[1].json.{name}.tmp").touch()
        os.utime(tmp_path / f".a[1].json.{name}.tmp", (now - age,) * 2)
    (tmp_path / ".a1.json.other.tmp").touch()
    os.utime(tmp_path / ".a1.json.other.tmp", (0, 0))
    with atomic_write(path) as beside:
        beside.write_text("a")
    assert {p.name for p in tmp_path.iterdir()} == {"a[1].json", ".a[1].json.young.tmp", ".a1.json.other.tmp"}
