"""`lightning-robust export|push|leaderboard`: the commands that publish results."""

from collections.abc import Callable, Sequence
from typing import Any

from jsonargparse import auto_parser

from lightning_robust.cli.parser import Parser
from lightning_robust.publish.export import export_weights, push_weights
from lightning_robust.publish.leaderboard import export

PUBLISHING: dict[str, Callable[..., str]] = {"export": export_weights, "push": push_weights, "leaderboard": export}
"""The functions behind the commands; each gives what is to be printed."""


def publish(command: str, args: Sequence[str]) -> None:
    """Call the function behind `command` with the options in `args`, and print what it gives."""
    asked = publishing_parser(command).parse_args(list(args))
    settings = {name: value for name, value in vars(asked).items() if name != "config"}
    print(PUBLISHING[command](**settings))


def publishing_parser(command: str) -> Any:
    """Build the parser of a command from its function."""
    parser = auto_parser(
        PUBLISHING[command], as_positional=False, prog=f"lightning-robust {command}", parser_class=Parser
    )
    parser.description = None  # that of the function, whose page of help has a sentence of its own
    return parser
