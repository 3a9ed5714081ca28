"""Files that are written whole or not at all, and by nobody else's links."""

import errno
import os
import re
import secrets
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch.distributed

_STALE = 900.0
"""Seconds after which a temporary file that nobody wrote to is one that a killed process has left."""


@contextmanager
def atomic_write(path: Path, mode: int = 0o666) -> Iterator[Path]:
    """Yield a temporary path to write to, and move it to `path` once the block has ended without an error.

    After an exception the temporary file is removed, and what was at `path` before is still there, unchanged. The file
    is created exclusively, under a name that no other process uses; a link at `path` is replaced and not followed.
    Temporary files that killed processes have left are removed a quarter of an hour later.

    Args:
        path: where the file is to be; missing parent folders are created.
        mode: the file's permissions, less those that the umask takes away.

    Yields:
        The temporary path, in the same folder as `path`.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "report.txt")
        >>> with atomic_write(path) as temporary:
        ...     size = temporary.write_text("done")
        ...     path.exists()
        False
        >>> path.read_text()
        'done'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{unique_name()}.tmp")
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0), mode))
    try:
        _remove_stale(path, temporary.stat().st_mtime)
        yield temporary
        with temporary.open("r+b") as file:  # Windows flushes only what is open for writing
            _flush_to_disk(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def unique_name() -> str:
    """Return a part of a file's name that no other process uses: host, rank and a random number.

    Containers may share process numbers, so those tell nobody apart.

    Example:
        >>> unique_name() == unique_name()
        False
    """
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    rank = torch.distributed.get_rank() if distributed else 0
    host = re.sub(r"[^\w-]", "-", socket.gethostname())[:40]
    return f"{host}-{rank}-{secrets.token_hex(8)}"


def _remove_stale(path: Path, now: float) -> None:
    """Remove temporary files of `path` that were written to long before `now`, by the clock of their file system."""
    for left in path.parent.glob(f".{_escape(path.name)}.*.tmp"):
        with suppress(OSError):  # another process may have moved or removed it
            if left.lstat().st_mtime < now - _STALE:
                left.unlink()


def _escape(name: str) -> str:
    """Write a name so that a pattern takes it as it is."""
    return re.sub(r"([*?[])", r"[\1]", name)


def _flush_to_disk(file: int) -> None:
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems do not support it
            raise


def inner_folder(folder: Path, name: str) -> Path:
    """Return the path of a folder that is written within another, whose own path may lead over links.

    Raises:
        ValueError: if it is a link, through which whoever left it there would have files written elsewhere.

    Example:
        >>> inner_folder(Path("runs"), "unfinished").as_posix()
        'runs/unfinished'
    """
    inner = folder / name
    if inner.is_symlink():
        raise ValueError(f"{inner} is a link, and nothing is written through it: remove it, or work in another folder.")
    return inner


def set_aside(place: Path) -> None:
    """Make room for a file: rename what is there, if anything, to `<name>-before-<4 hexadecimal digits>`."""
    if os.path.lexists(place):  # a link that leads nowhere, too: it would be written through
        place.rename(place.with_name(f"{place.stem}-before-{uuid.uuid4().hex[:4]}{place.suffix}"))
