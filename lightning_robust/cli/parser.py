"""The parser of the command line, which tells an error in one sentence."""

import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from lightning_robust.cli.devices import launched_rank
from lightning_robust.cli.explanation import explain
from lightning_robust.cli.net_names import words_with_nets
from lightning_robust.cli.refusals import wants_traceback
from lightning_robust.cli.strict_yaml import STRICT_YAML
from lightning_robust.cli.sub_configs import command_line, file_of
from lightning_robust.utils.messages import describe_error, one_line


class Parser(LightningArgumentParser):
    """A LightningArgumentParser that explains an error instead of printing every type it tried.

    Options must be spelt out: an abbreviation would change its meaning when a setting is added.

    Args:
        args: positional arguments of `LightningArgumentParser`.
        kwargs: further arguments of `LightningArgumentParser`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, "parser_mode": STRICT_YAML, **kwargs})
        self.add_argument("--help-all", action="help", help="Show all settings and exit.")

    def parse_args(self, args: Sequence[str] | None = None, *others: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Parse the words of a command line, on which nets may stand by name; errors in a file name the file.

        Args:
            args: the words; by default the process's own.
            others: further arguments of `LightningArgumentParser.parse_args`.
            kwargs: further named arguments of it.
        """
        words = sys.argv[1:] if args is None else args
        try:
            expanded = words_with_nets(words)
        except ValueError as error:
            self.error(str(error), error)
        with command_line(words):
            try:
                return super().parse_args(expanded, *others, **kwargs)
            except UnicodeDecodeError as error:
                self.error(str(error), error)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the explanation and exit with status 2; raise it where `exit_on_error` is off or a traceback is wanted.

        Of several ranks, which all parse the same, the first alone prints.
        """
        message = _no_text(ex) or message
        if not self.exit_on_error:
            super().error(explain(message, self), ex)
        if ex is not None and wants_traceback():
            raise ex
        if not launched_rank():
            sys.stderr.write(f"error: {one_line(explain(message, self))}\n")
        self.exit(2)


def _no_text(error: BaseException | None) -> str | None:
    """Name the file whose bytes are no text, if that is where an error comes from."""
    while error is not None:
        if isinstance(error, UnicodeDecodeError):
            return f"{file_of(error.object) or 'A file'} cannot be read as a config ({describe_error(error)})"
        error = error.__cause__ or error.__context__
    return None
