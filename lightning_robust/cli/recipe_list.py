"""`lightning-robust recipes`: a table of the recipes, or one of them as it stands."""

import re
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_robust.cli.recipes import Recipe, find_config, search
from lightning_robust.cli.short_parsers import recipes_parser


def recipe_list(args: Sequence[str]) -> None:
    """Run `lightning-robust recipes [WORD ...] [--show]`.

    Raises:
        ValueError: if there is no such recipe.
    """
    asked = recipes_parser().parse_args(args)
    words = " ".join(asked.words)
    if not asked.show:
        Console().print(table(search(words)))
        return
    if not words:
        raise ValueError("`--show` needs the name of a recipe, such as digits/at.")
    with open(find_config(words)) as file:
        sys.stdout.write(file.read())


def table(found: Sequence[Recipe]) -> Table:
    """Lay out recipes for a screen of 80 columns, in which papers, data and nets have their short names."""
    shown = Table(*Recipe._fields, box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in shown.columns[:-1]:
        column.no_wrap = True
    shown.columns[-1].overflow = "fold"
    for name, paper, data, net in found:
        author = re.sub(r"(,| &| et al).* (\d+)$", r" \2", paper)
        author = re.sub(r"^(\w{10})\w{2,}", r"\1.", author)  # Andriushchenko, so that the net has room
        row = name, author, data.removesuffix(" + more"), re.sub(r"_p(atch)?\d.*", "", net)
        shown.add_row(*(Text(cell) for cell in row))
    return shown
