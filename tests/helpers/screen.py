"""A terminal of 80 x 24 in which a command runs: what it showed, moment by moment."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyte
import pytest


class _Screen(pyte.HistoryScreen):
    """A terminal's screen that notes which lines ran over its right edge."""

    def __init__(self, columns: int, lines: int) -> None:
        super().__init__(columns, lines, history=1000)
        self.wrapped: list[str] = []

    def draw(self, data: str) -> None:
        for character in data:
            if self.cursor.x == self.columns:
                self.wrapped.append(self.display[self.cursor.y])
            super().draw(character)


@dataclass
class Shown:
    """What a terminal showed.

    Args:
        frames: the screens that differ from those before them, each as its lines.
        wrapped: lines that ran over the right edge.
        whole: what stands there at the end, with what has scrolled away.
    """

    frames: list[list[str]] = field(default_factory=list)
    wrapped: list[str] = field(default_factory=list)
    whole: list[str] = field(default_factory=list)

    def with_line(self, words: str) -> list[str]:
        """The line with these words from each frame that has one."""
        return [line for frame in self.frames for line in frame if words in line]


def screen(command: Sequence[str], folder: Path, columns: int = 80, timeout: float = 300.0) -> Shown:
    """Run the command in a terminal, and fail the test if the command does."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    inherited = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")}
    environment = {**inherited, "TERM": "xterm-256color", "CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"}
    stdio: Any = {"stdin": follower, "stdout": follower, "stderr": follower}
    process = subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True, **stdio)
    os.close(follower)
    terminal, shown, end = _Screen(columns, 24), Shown(), time.monotonic() + timeout
    stream = pyte.ByteStream(terminal)
    try:
        while True:
            if time.monotonic() > end:
                pytest.fail(f"not over after {timeout:g} s")
            if not select.select([leader], [], [], 0.1)[0]:
                continue
            try:
                stream.feed(os.read(leader, 65536))
            except OSError:  # the command has closed its end
                break
            frame = [line.rstrip() for line in terminal.display]
            if not shown.frames or frame != shown.frames[-1]:
                shown.frames.append(frame)
    finally:
        process.kill() if time.monotonic() > end else process.wait()
        os.close(leader)
    shown.wrapped = terminal.wrapped
    past = ["".join(line[x].data for x in range(columns)).rstrip() for line in terminal.history.top]
    shown.whole = [*past, *(line.rstrip() for line in terminal.display)]
    assert process.returncode == 0, "\n".join(shown.whole)
    return shown
