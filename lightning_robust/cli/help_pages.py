"""`lightning-robust COMMAND --help`: one sentence, an example, and the most used settings, or all."""

import sys
import textwrap
from collections.abc import Sequence

from lightning_robust.cli.settings import SETTINGS
from lightning_robust.cli.short_parsers import SHORT_PARSERS
from lightning_robust.cli.usage import COMMANDS, EXAMPLES, NOTES

WIDTH = 80
"""Width of a page, in columns."""

_PRINT = ("--print_config", "print the settings that it would run with, as YAML")
_FILE = ("--config FILE", "YAML file with any of these settings")
_OF_A_TRAINER = [
    ("lightning-robust {} --help-all", "all settings"),
    (
        "lightning-robust {} --model.help AT",
        "settings of a class; also --data.help, --model.net.help, --model.attack.help",
    ),
    _PRINT,
]
_MORE = {
    "evaluate": [
        _FILE,
        ("--net.help SmallConvNet", "settings of a class; also --data.help, --surrogate.help"),
        ("--help-all", "all settings, and the classes that may stand there"),
        _PRINT,
    ],
    **{command: [_FILE, _PRINT] for command in ("export", "push", "leaderboard")},
}
"""What else there is, of the commands whose settings are all listed."""


def asks_for_help(command: str, words: list[str]) -> bool:
    """Whether a command line asks for a command's page of help."""
    return command in COMMANDS and not {"-h", "--help"}.isdisjoint(words)


def show_help(command: str) -> None:
    """Print a command's page, without importing what the command does, and end with status 0."""
    print(heading(command))
    if command in SHORT_PARSERS:
        SHORT_PARSERS[command](True).print_help()
        sys.exit(0)
    if command in NOTES:
        print(f"{textwrap.fill(NOTES[command], WIDTH)}\n")
    which = "settings" if command in _MORE else "most used settings"
    examples = [(f"{each.option} {each.example}", each.meaning) for each in SETTINGS[command]]
    print(f"{which}, each with an example of its value:\n{_columns(examples)}\n")
    more = _MORE.get(command, _OF_A_TRAINER)
    print(f"everything else:\n{_columns([(what.format(command), does) for what, does in more])}")
    sys.exit(0)


def heading(command: str) -> str:
    """Say in one sentence what a command does, with an example.

    Example:
        >>> print(heading("compare"), end="")
        Put runs side by side, with paired tests.
        <BLANKLINE>
        example:
          lightning-robust compare runs/Digits/AT/<run> runs/Digits/TRADES/<run>
    """
    does = COMMANDS[command]
    return f"{does[0].upper()}{does[1:]}.\n\nexample:\n  lightning-robust {command} {EXAMPLES[command]}\n"


def _columns(rows: Sequence[tuple[str, str]]) -> str:
    """Put two columns side by side."""
    indent = max(len(left) for left, _ in rows) + 4
    lines = []
    for left, right in rows:
        first, *more = textwrap.wrap(right, WIDTH - indent)
        lines += [f"  {left:<{indent - 2}}{first}", *(f"{' ' * indent}{line}" for line in more)]
    return "\n".join(lines)
