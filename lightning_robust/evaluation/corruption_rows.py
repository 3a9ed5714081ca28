"""Accuracy without and under attack for each common corruption: the rows of reports, and their table."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor

from lightning_robust.evaluation.accuracy_rows import accuracy


def corruption_rows(
    groups: Sequence[tuple[str, int]], sizes: Sequence[int], right: Tensor, robust: Tensor
) -> dict[str, Any]:
    """Return the accuracies on each group of corrupted images, and their mean over the corrupted ones.

    Args:
        groups: corruption and severity; ("clean", 0) stands for uncorrupted images.
        sizes: how many samples each group has, one after the other.
        right: the samples [n] that are classified correctly without an attack.
        robust: those that withstand all attacks, too [n].

    Example:
        >>> right, robust = torch.tensor([True, True, True, False]), torch.tensor([True, False, False, False])
        >>> told = corruption_rows([("clean", 0), ("fog", 3)], [2, 2], right, robust)
        >>> [(row["corruption"], row["clean"]["accuracy"], row["worst"]["accuracy"]) for row in told["rows"]]
        [('clean', 1.0, 0.5), ('fog', 0.5, 0.0)]
        >>> told["mean"]
        {'clean': 0.5, 'worst': 0.0}
    """
    parts = zip(groups, sizes, torch.split(right, list(sizes)), torch.split(robust, list(sizes)), strict=True)
    rows: list[dict[str, Any]] = [
        {
            "corruption": name,
            "severity": severity,
            "n": n,
            "clean": accuracy(int(clean.sum()), n),
            "worst": accuracy(int(worst.sum()), n),
        }
        for (name, severity), n, clean, worst in parts
        if n
    ]
    corrupted = [row for row in rows if row["severity"]]
    n = len(corrupted)
    means = {kind: sum(row[kind]["accuracy"] for row in corrupted) / n for kind in ("clean", "worst") if n}
    return {"rows": rows, "mean": means}


def again(told: Mapping[str, Any], right: Tensor, robust: Tensor) -> dict[str, Any]:
    """Return the same groups' accuracies with other verdicts; see `corruption_rows`."""
    rows = told["rows"]
    groups = [(row["corruption"], row["severity"]) for row in rows]
    return corruption_rows(groups, [row["n"] for row in rows], right, robust)


def corruption_attack_table(told: Mapping[str, Any], title: str = "corruptions") -> Table:
    """Lay out `corruption_rows` as a table for the terminal."""
    out = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    out.add_column("corruption", no_wrap=True)
    for head in ("severity", "images", "without attack", "worst case"):
        out.add_column(head, justify="right", no_wrap=True)
    for row in told["rows"]:
        shares = (f"{row[kind]['accuracy']:.2%}" for kind in ("clean", "worst"))
        out.add_row(row["corruption"], str(row["severity"] or ""), str(row["n"]), *shares)
    if told["mean"]:
        out.add_row("mean, corrupted", "", "", *(f"{value:.2%}" for value in told["mean"].values()), style="bold")
    return out
