"""`lightning-robust report` and `lightning-robust compare`: pages and tables about runs that are done."""

from collections.abc import Sequence

from rich.console import Console

from lightning_robust.cli.short_parsers import comparison_parser, report_parser
from lightning_robust.publish.comparison import compare
from lightning_robust.publish.comparison_formats import as_tables, sentences, write_comparison
from lightning_robust.publish.run_report import write_report


def report(args: Sequence[str]) -> None:
    """Run `lightning-robust report RUN [--out FILE] [--figures FOLDER]`, and print the paths."""
    asked = report_parser().parse_args(args)
    print(*write_report(asked.run, asked.out, asked.figures), sep="\n")


def comparison(args: Sequence[str]) -> None:
    """Run `lightning-robust compare RUN ... [--out FILE ...]`: print the tables, and write them where asked."""
    asked = comparison_parser().parse_args(args)
    groups = compare(asked.runs)
    console = Console()
    for group, table in zip(groups, as_tables(groups), strict=True):
        console.print(table)
        for sentence in [*group.doubts, *sentences(group)]:
            console.print(sentence, highlight=False, markup=False)
    for out in asked.out:
        print(write_comparison(groups, out))
