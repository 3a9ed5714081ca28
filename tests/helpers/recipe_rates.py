"""The learning rates of a recipe's YAML."""

from pathlib import Path
from typing import Any, get_type_hints

import torch
import yaml
from jsonargparse import ArgumentParser

from lightning_robust.defenses import Defense
from lightning_robust.parts.follows_run import run_length


def built(path: Path, epochs: int) -> Any:
    """The recipe's schedule in a run of so many epochs, over the recipe's optimizer."""
    kinds, parser = get_type_hints(Defense.__init__), ArgumentParser(exit_on_error=False)
    config = yaml.safe_load(path.read_text())["model"]["init_args"]
    for key in ("optimizer", "scheduler"):
        parser.add_argument(f"--{key}", type=kinds[key])
    made = parser.instantiate(parser.parse_object({key: config[key] for key in ("optimizer", "scheduler")}))
    with run_length(lambda: epochs):
        return made.scheduler(made.optimizer([torch.zeros(1, requires_grad=True)]))


def rates(schedule: Any, epochs: int) -> list[float]:
    """What each epoch is trained with."""
    found = []
    for _ in range(epochs):
        found += schedule.get_last_lr()
        schedule.optimizer.step()
        schedule.step()
    return found
