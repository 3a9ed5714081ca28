"""Does `lightning-robust plan` say how long a recipe takes? Planned against measured.

python -m benchmarks.plan [--recipes [at,iaat]]
"""

import tempfile
import time
from pathlib import Path

import yaml
from jsonargparse import auto_cli

from benchmarks.common.processes import quiet
from benchmarks.common.recipes import CONFIGS
from benchmarks.common.tables import Row, write
from lightning_robust.cli.plan import RobustTrainer
from lightning_robust.cli.robust_cli import RobustCLI

RECIPES = ["standard", "at", "trades", "mart_awp", "emr_at", "iaat", "st", "rst"]
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]


class _CLI(RobustCLI):
    def before_fit(self) -> None:
        """Start the clock."""
        self.began = time.perf_counter()

    def after_fit(self) -> None:
        """Stop it."""
        self.seconds = time.perf_counter() - self.began


def measure(recipe: str, folder: str) -> Row:
    """Plan the recipe, train it, and plan it again; by the wall clock, as a user would.

    A shared machine's speed drifts by more than is asked for, hence the mean of a plan before and one after.
    """
    config = yaml.safe_load((CONFIGS / f"{recipe}.yaml").read_text())
    config["trainer"]["default_root_dir"] = folder
    file = Path(folder, f"{recipe}.yaml")
    file.write_text(yaml.safe_dump(config))

    def planned() -> float:
        trainer = _CLI(["plan", "--config", str(file), "--seconds=1", *QUIET]).trainer
        assert isinstance(trainer, RobustTrainer)
        assert trainer.planned is not None
        return trainer.planned.fit

    before = planned()
    took = _CLI(["fit", "--config", str(file), *QUIET]).seconds
    after = planned()
    return {
        "recipe": recipe,
        "planned before, s": round(before, 1),
        "took, s": round(took, 1),
        "planned after, s": round(after, 1),
        "planned / took": round((before + after) / 2 / took, 3),
    }


def main(recipes: list[str] = RECIPES) -> None:
    """Measure, print the table, and leave it in results/plan.{csv,md}.

    Args:
        recipes: names of files in configs/digits.
    """
    quiet()
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(recipe, folder) for recipe in recipes]
    far = [str(row["recipe"]) for row in rows if abs(float(row["planned / took"]) - 1) > 0.25]
    caption = "Seconds of `fit` by the wall clock, and the mean of two plans over it. Required: within 25 %. " + (
        f"Not met: {', '.join(far)}." if far else "All met."
    )
    print(write("plan", "Planned and measured", rows, caption))


if __name__ == "__main__":
    auto_cli(main)
