"""The parser of the command line, which tells an error in one sentence."""

import sys
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from lightning_robust.cli.devices import rank
from lightning_robust.cli.explanation import explain
from lightning_robust.cli.refusals import wants_traceback
from lightning_robust.cli.strict_yaml import STRICT_YAML
from lightning_robust.utils.messages import one_line


class Parser(LightningArgumentParser):
    """A LightningArgumentParser that explains an error instead of printing every type it tried.

    Options must be spelt out: an abbreviation would change its meaning when a setting is added.

    Args:
        args: positional arguments of `LightningArgumentParser`.
        kwargs: further arguments of `LightningArgumentParser`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, "parser_mode": STRICT_YAML, **kwargs})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the explanation and exit with status 2; raise it where `exit_on_error` is off or a traceback is wanted.

        Of several ranks, which all parse the same, the first alone prints.
        """
        if not self.exit_on_error:
            super().error(explain(message, self), ex)
        if ex is not None and wants_traceback():
            raise ex
        if not rank():
            sys.stderr.write(f"error: {one_line(explain(message, self))}\n")
        self.exit(2)
