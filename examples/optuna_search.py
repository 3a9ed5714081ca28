"""Search for the weight of TRADES and the learning rate by Optuna: `python examples/optuna_search.py --trials 20`.

Each trial is a run of the command line, with its own folder in `runs`. What is maximised is the accuracy under attack
on images held out from the training set, never on the test set; a trial that does worse than the median of the earlier
ones at the same epoch is stopped.
"""

import argparse

import optuna
from lightning import Callback, LightningModule, Trainer

from lightning_robust.cli.main import main

METRIC = "val/worst_acc"
trials: list[optuna.Trial] = []  # the trial that runs, if any


class Prune(Callback):
    """Tells Optuna the metric of each epoch, and stops the run if the trial is not worth its time."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report it once the other callbacks have logged it."""
        if trials and not trainer.sanity_checking:
            trials[-1].report(float(trainer.callback_metrics[METRIC]), trainer.current_epoch)
            trainer.should_stop |= trials[-1].should_prune()


def objective(trial: optuna.Trial, words: list[str]) -> float:
    """Train once, and return what the best checkpoint was chosen by."""
    trials[:] = [trial]
    settings = {
        "--model.beta": trial.suggest_float("beta", 1, 10, log=True),
        "--model.optimizer.lr": trial.suggest_float("lr", 0.01, 0.3, log=True),
        "--trainer.callbacks+": f"{__name__}.Prune",
    }
    result = main(["fit", "--config", "digits/trades", *(f"{k}={v}" for k, v in settings.items()), *words])
    assert isinstance(result, dict)
    if trial.should_prune():
        raise optuna.TrialPruned
    return result[f"best/{METRIC}"]


def search(args: list[str] | None = None) -> optuna.Study:
    """Run the trials; what follows `--trials N` goes to the command line, such as `--trainer.max_epochs 10`."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--trials", type=int, default=20)
    asked, words = parser.parse_known_args(args)
    # with storage="sqlite:///search.db", load_if_exists=True, several processes share a search that can go on later
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(lambda trial: objective(trial, words), asked.trials)
    print(f"Best of {len(study.trials)}: {study.best_value:.4f} with {study.best_params}")
    return study


if __name__ == "__main__":
    from optuna_search import search  # under its own name, by which the config.yaml of a run finds `Prune` again

    search()
