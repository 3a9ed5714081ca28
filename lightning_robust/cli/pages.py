"""`lightning-robust report` and `lightning-robust compare`: pages and tables about runs that are done."""

import argparse
from collections.abc import Sequence

from rich.console import Console

from lightning_robust.publish.comparison import compare
from lightning_robust.publish.comparison_formats import FORMATS, as_tables, sentences, write_comparison
from lightning_robust.publish.run_report import write_report


def report(args: Sequence[str]) -> None:
    """Run `lightning-robust report RUN [--out FILE] [--figures FOLDER]`, and print the paths."""
    parser = argparse.ArgumentParser(
        "lightning-robust report",
        description="Write one HTML page about a run: its accuracies, checks, figures, training and recipe.",
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN", help="folder of a fit, test or evaluate, or a robustness.json")
    parser.add_argument("--out", metavar="FILE", help="where to write; by default report.html in the run's folder")
    parser.add_argument(
        "--figures",
        metavar="FOLDER",
        help="also write the charts there, as PDF and SVG",
    )
    asked = parser.parse_args(args)
    print(*write_report(asked.run, asked.out, asked.figures), sep="\n")


def comparison(args: Sequence[str]) -> None:
    """Run `lightning-robust compare RUN ... [--out FILE ...]`: print the tables, and write them where asked."""
    parser = argparse.ArgumentParser(
        "lightning-robust compare",
        description="Put runs side by side, those at the same threat in one table, with paired tests.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", help="folder of a fit, test or evaluate, or a robustness.json"
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        action="append",
        default=[],
        help=f"also write the comparison to a file that ends in {', '.join(FORMATS)}; may be given several times",
    )
    asked = parser.parse_args(args)
    groups = compare(asked.runs)
    console = Console()
    for group, table in zip(groups, as_tables(groups), strict=True):
        console.print(table)
        for sentence in [*group.doubts, *sentences(group)]:
            console.print(sentence, highlight=False, markup=False)
    for out in asked.out:
        print(write_comparison(groups, out))
