"""The parsers of the commands that take a few words and no settings; they need no import for it."""

import argparse
from collections.abc import Callable

SHELLS = ("bash", "zsh")
"""What `completion` knows."""


def report_parser(add_help: bool = True) -> argparse.ArgumentParser:
    """Build the parser of `report`."""
    parser = argparse.ArgumentParser("lightning-robust report", allow_abbrev=False, add_help=add_help)
    parser.add_argument("run", metavar="RUN", help="folder of a fit, test or evaluate, or a robustness.json")
    parser.add_argument("--out", metavar="FILE", help="where to write; by default report.html in the run's folder")
    parser.add_argument(
        "--figures",
        metavar="FOLDER",
        help="also write the charts there, as PDF and SVG",
    )
    return parser


def comparison_parser(add_help: bool = True) -> argparse.ArgumentParser:
    """Build the parser of `compare`."""
    parser = argparse.ArgumentParser("lightning-robust compare", allow_abbrev=False, add_help=add_help)
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", help="folder of a fit, test or evaluate, or a robustness.json"
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        action="append",
        default=[],
        help="also write the comparison to a file that ends in .html, .md, .tex, .csv; may be given several times",
    )
    return parser


def recipes_parser(add_help: bool = True) -> argparse.ArgumentParser:
    """Build the parser of `recipes`."""
    parser = argparse.ArgumentParser("lightning-robust recipes", allow_abbrev=False, add_help=add_help)
    parser.add_argument(
        "words", nargs="*", metavar="WORD", help="list those with these words in name, paper, data or net"
    )
    parser.add_argument("--show", action="store_true", help="print the recipe of this name instead")
    return parser


def completion_parser(add_help: bool = True) -> argparse.ArgumentParser:
    """Build the parser of `completion`."""
    parser = argparse.ArgumentParser("lightning-robust completion", allow_abbrev=False, add_help=add_help)
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=" or ".join(SHELLS))
    return parser


SHORT_PARSERS: dict[str, Callable[[bool], argparse.ArgumentParser]] = {
    "report": report_parser,
    "compare": comparison_parser,
    "recipes": recipes_parser,
    "completion": completion_parser,
}
"""By command."""
