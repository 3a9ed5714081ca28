"""`--config`: a YAML file, or the name of a recipe."""

import os
from argparse import ArgumentError
from pathlib import Path
from typing import Any

from jsonargparse import ActionConfigFile, Namespace  # type: ignore[attr-defined]

from lightning_robust.cli.recipes import find_config
from lightning_robust.cli.strict_yaml import load
from lightning_robust.utils.messages import describe_error, one_line


class ConfigFile(ActionConfigFile):
    """jsonargparse's `--config`, which also finds the recipes that come with the package.

    A config may be untrusted, so it cannot say `weights_only: false`, with which a checkpoint runs code.
    """

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Read the file, or the recipe of that name, into the settings."""
        before = _unpickling(cfg)
        try:
            found = find_config(values)
            if os.path.isfile(found):  # false for a text, however long
                load(Path(found).read_text(), found)  # jsonargparse names neither the file nor the line
            super().__call__(parser, cfg, found, option_string)  # type: ignore[no-untyped-call]
        except (ImportError, OSError, UnicodeDecodeError) as error:
            raise ArgumentError(None, f"{values} cannot be read as a config ({describe_error(error)})") from error
        except (TypeError, ValueError) as error:
            raise ArgumentError(None, str(error)) from error
        if _unpickling(cfg) and not before:
            raise ArgumentError(
                None,
                f"{one_line(values)} sets weights_only to false, with which a checkpoint can run any code: leave it "
                "out there, and give --weights_only false on the command line if you trust the checkpoint.",
            )


def _unpickling(cfg: Any) -> bool:
    """Whether a command's settings, or those of any command, let checkpoints run code."""
    commands = [cfg, *(value for value in vars(cfg).values() if isinstance(value, Namespace))]
    return any(settings.get("weights_only", True) is False for settings in commands)
