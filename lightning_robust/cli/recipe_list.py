"""`lightning-robust recipes`: a table of the recipes, or one of them as it stands."""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_robust.cli.recipes import Recipe, find_config, search


def recipe_list(args: Sequence[str]) -> None:
    """Run `lightning-robust recipes [WORD ...] [--show]`.

    Raises:
        ValueError: if there is no such recipe.
    """
    parser = argparse.ArgumentParser(
        "lightning-robust recipes", description="List the recipes that come with the package.", allow_abbrev=False
    )
    parser.add_argument(
        "words", nargs="*", metavar="WORD", help="list those with these words in name, paper, data or net"
    )
    parser.add_argument("--show", action="store_true", help="print the recipe of this name instead")
    asked = parser.parse_args(args)
    words = " ".join(asked.words)
    if not asked.show:
        Console().print(table(search(words)))
        return
    if not words:
        raise ValueError("`--show` needs the name of a recipe, such as digits/at.")
    with open(find_config(words)) as file:
        sys.stdout.write(file.read())


def table(found: Sequence[Recipe]) -> Table:
    """Lay out recipes for a screen of 80 columns."""
    shown = Table(*Recipe._fields, box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in shown.columns[:-1]:
        column.no_wrap = True
    shown.columns[-1].overflow = "fold"
    for recipe in found:
        shown.add_row(*(Text(cell) for cell in recipe))
    return shown
