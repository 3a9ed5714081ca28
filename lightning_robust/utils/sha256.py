"""The SHA-256 of a file, which tells whether it is whole and the expected one."""

import hashlib
from pathlib import Path


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file in hexadecimal.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "empty")
        >>> path.touch()
        >>> file_sha256(path)[:16]
        'e3b0c44298fc1c14'
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def check_sha256(path: str | Path, expected: str) -> None:
    """Raise unless a file has the expected SHA-256.

    Args:
        path: the file.
        expected: its SHA-256 in hexadecimal, in upper or lower case.

    Raises:
        ValueError: for another file, or one that was changed or truncated.
    """
    found = file_sha256(path)
    if found != expected.lower():
        raise ValueError(
            f"{path} has the SHA-256 {found}, not {expected}: it is truncated, changed or another file. Fetch it again "
            "and do not use this one."
        )
