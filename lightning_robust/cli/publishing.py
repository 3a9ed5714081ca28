"""`lightning-robust export|push|leaderboard`: the commands that publish results."""

from collections.abc import Callable, Sequence
from typing import Any

from jsonargparse import auto_cli

from lightning_robust.cli.parser import Parser
from lightning_robust.publish.export import export_weights, push_weights
from lightning_robust.publish.leaderboard import export

PUBLISHING: dict[str, Callable[..., str]] = {"export": export_weights, "push": push_weights, "leaderboard": export}
"""The functions behind the commands; each gives what is to be printed."""


def publish(command: str, args: Sequence[str]) -> None:
    """Call the function behind `command` with the options in `args`, and print what it gives."""
    made: Any = auto_cli(
        PUBLISHING[command],
        args=list(args),
        as_positional=False,
        prog=f"lightning-robust {command}",
        parser_class=Parser,
    )
    print(made)
