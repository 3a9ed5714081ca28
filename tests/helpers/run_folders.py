"""Folders as runs leave them, written by hand."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from lightning_robust.evaluation.accuracy_rows import accuracy

THREAT = {"norm": "linf", "eps": 0.1, "lower": 0.0, "upper": 1.0, "box_first": False}


def evaluation(
    folder: Path,
    y: list[int],
    clean: list[int],
    attacked: dict[str, list[int]],
    *,
    threat: dict[str, Any] = THREAT,
    name: str = "",
    samples: bool = True,
    steps: int = 10,
    **about: Any,
) -> dict[str, Any]:
    """Write `robustness.json` and `samples.csv` for predictions without and with each attack; return the report.

    An attack has broken the samples that the net is right on without it and wrong on with it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    label, before = np.array(y), np.array(clean)
    right, standing = before == label, before == label
    rows, columns = {}, {"index": range(len(y)), "label": y, "clean": clean}
    for attack, predicted in attacked.items():
        broken = right & (np.array(predicted) != label)
        standing &= ~broken
        described = {"class": "PGD", "threat": threat, "steps": steps}
        rows[attack] = {**accuracy(int((right & ~broken).sum()), len(y)), "seconds": 1.0, "attack": described}
        columns[f"{attack}/broken_by"] = [attack if b else "" for b in broken]
        columns[f"{attack}/class"] = predicted
        columns[f"{attack}/size"] = [threat["eps"]] * len(y)
    report = {
        "stage": "test",
        "n": len(y),
        "clean": {**accuracy(int(right.sum()), len(y)), "seconds": 0.1},
        "attacks": rows,
        "worst": accuracy(int(standing.sum()), len(y)),
        "checks": [],
        "versions": {"python": "3"},
        **about,
    }
    columns["robust"] = standing.astype(int).tolist()
    (folder / f"{name}robustness.json").write_text(json.dumps(report))
    if samples:
        with (folder / f"{name}samples.csv").open("w", newline="") as file:
            csv.writer(file).writerows([columns, *zip(*columns.values(), strict=True)])
    return report


def training(
    folder: Path, model: str = "AT", metrics: str = "epoch,step,train/loss\n0,1,2.5\n", **settings: Any
) -> Path:
    """Write the files of a training with a checkpoint; return the checkpoint."""
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    config = {
        "model": {"class_path": f"lightning_robust.{model}", "init_args": {"net": "net", **settings}},
        "data": {"class_path": "lightning_robust.data.Digits", "init_args": {}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "metrics.csv").write_text(metrics)
    torch.save({"epoch": 0, "made_for": str(folder)}, checkpoints / "best.ckpt")
    return checkpoints / "best.ckpt"
