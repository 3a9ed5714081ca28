"""Files that are written whole or not at all."""

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to, and move it to `path` once the block has ended without an error.

    After an exception the temporary file is removed, and what was at `path` before is still there, unchanged.

    Args:
        path: where the file is to be; missing parent folders are created.

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
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            _flush_to_disk(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _flush_to_disk(file: int) -> None:
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems do not support it
            raise


def set_aside(place: Path) -> None:
    """Make room for a file: rename what is there, if anything, to `<name>-before-<4 hexadecimal digits>`."""
    if place.exists():
        place.rename(place.with_name(f"{place.stem}-before-{uuid.uuid4().hex[:4]}{place.suffix}"))
