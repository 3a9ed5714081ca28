"""The files that a command line names, and those that they name: which of them a text was read from.

jsonargparse reads a file for one setting (`--model.net net.yaml`, or `net: net.yaml` in a config) and hands on its text
alone. After an error its name is found again by that text.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

import yaml

from lightning_robust.cli.recipes import find_config

LARGEST = 1_000_000
"""Bytes of the largest file that is looked into: weights and archives are no configs."""

_GIVEN: ContextVar[tuple[Sequence[str], Path]] = ContextVar("_GIVEN", default=((), Path()))
"""The words of the command line, and the folder in which it was typed: jsonargparse reads a file in the file's own."""


@contextmanager
def command_line(words: Sequence[str]) -> Iterator[None]:
    """Let `file_of` look through the files that these words name.

    Args:
        words: the command line, as a shell splits it.
    """
    token = _GIVEN.set((words, Path.cwd()))
    try:
        yield
    finally:
        _GIVEN.reset(token)


def file_of(content: str | bytes) -> str | None:
    """Return the name of the file, of those that the command line leads to, that holds exactly this.

    Args:
        content: the whole of a file: its text, or its bytes if they are none.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "net.yaml")
        >>> size = path.write_text("class_path: [")
        >>> with command_line([f"--model.net={path}"]):
        ...     file_of("class_path: [") == str(path), file_of("class_path: ]")
        (True, None)
    """
    words, here = _GIVEN.get()
    paths = [Path(name) for word in words for name in _names_in_word(word)]
    looked_into: set[Path] = set()
    while paths:
        path = paths.pop(0)
        held = None if path in looked_into else _read(here / path)
        looked_into.add(path)
        if held is None:
            continue
        text = _decoded(held)
        if content in (held, text):
            return str(path)
        if text is not None:
            paths += [path.parent / inner for inner in _scalars(text)]  # it names others from where it lies
    return None


def _names_in_word(word: str) -> Iterator[str]:
    """What may name a file in `name`, `--key=name` and `--config=recipe`, and all of that in YAML."""
    value = word.partition("=")[2] if word.startswith("-") else word
    yield value
    yield from _scalars(value)
    with suppress(ValueError):
        yield find_config(value)


def _scalars(text: str) -> Iterator[str]:
    """Yield the single values of a YAML text up to its first error, however deep they stand."""
    with suppress(yaml.YAMLError):
        yield from (token.value for token in yaml.scan(text) if isinstance(token, yaml.ScalarToken))


def _read(path: Path) -> bytes | None:
    with suppress(OSError, ValueError):  # no name of a file, or of one that cannot be read
        if path.is_file() and os.path.getsize(path) <= LARGEST:
            return path.read_bytes()
    return None


def _decoded(content: bytes) -> str | None:
    """The text of a file as Python reads it, with its line ends turned into one character; None if it is no text."""
    try:
        return content.decode().replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError:
        return None
