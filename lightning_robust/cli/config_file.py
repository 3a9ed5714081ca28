"""`--config`: a YAML file, or the name of a recipe."""

from argparse import ArgumentError
from typing import Any

from jsonargparse import ActionConfigFile  # type: ignore[attr-defined]

from lightning_robust.cli.recipes import find_config


class ConfigFile(ActionConfigFile):
    """jsonargparse's `--config`, which also finds the recipes that come with the package."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Read the file, or the recipe of that name, into the settings."""
        try:
            found = find_config(values)
        except ValueError as error:
            raise ArgumentError(None, str(error)) from error
        super().__call__(parser, cfg, found, option_string)  # type: ignore[no-untyped-call]
