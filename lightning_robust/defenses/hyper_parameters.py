"""The hyper-parameters of a run as flat, plain values, for loggers."""

from typing import Any, TypeAlias

from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from torch.optim import Optimizer

from lightning_robust.runtime.rng import global_seed
from lightning_robust.utils.messages import survivable
from lightning_robust.utils.private_apis import event_writer, logs_default_metric, source_of

Flat: TypeAlias = dict[str, bool | int | float | str]

SHOWN = ("val/clean_acc", "val/worst_acc")
"""The numbers that TensorBoard's table of runs shows beside the hyper-parameters."""


def hyper_parameters(defense: Any) -> Flat:
    """Return a defense's method, net and training attack, and the settings of its own: 'method', 'eps', 'beta', ..."""
    found: dict[str, Any] = dict(defense._settings)
    found |= {"method": type(defense).__name__, "net": type(defense.net).__name__}
    found["parameters"] = sum(parameter.numel() for parameter in defense.net.parameters())
    parts = {
        "reweighting": defense.reweightings,
        "weight_perturbation": defense.weight_perturbations,
        "regularizers": defense.regularizers,
    }
    found |= {name: ", ".join(type(part).__name__ for part in some) or None for name, some in parts.items()}
    if found["method"] != "Standard":  # it trains on clean images
        attack = defense.attack
        found |= {"attack": type(attack).__name__, "norm": attack.threat.norm, "eps": attack.threat.eps}
        found |= {"threats": ", ".join(map(str, attack.threats))} if len(attack.threats) > 1 else {}
        found |= {name: getattr(attack, name, None) for name in ("steps", "step_size")}
    return _plain(found)


def training_parameters(trainer: Trainer) -> Flat:
    """Return how a fit optimizes: 'lr', 'batch_size', 'optimizer', 'scheduler', 'max_epochs', 'devices', ..."""
    source: Any = source_of(trainer.fit_loop)  # a data module or a loader
    found = {
        "data": type(getattr(source, "dataset", source)).__name__,
        "batch_size": getattr(source, "batch_size", None),
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "devices": trainer.world_size,
        "precision": str(trainer.precision),
        "max_epochs": trainer.max_epochs,
        "seed": global_seed(),
    }
    for optimizer in trainer.optimizers[:1]:
        found |= {"optimizer": type(optimizer).__name__, **_settings(optimizer)}
    for schedule in trainer.lr_scheduler_configs[:1]:
        found["scheduler"] = type(schedule.scheduler).__name__
    return _plain(found)


def log_hyper_parameters(trainer: Trainer, defense: LightningModule) -> None:
    """Tell each of the trainer's loggers the hyper-parameters; one that fails is warned of."""
    found = hyper_parameters(defense) | (training_parameters(trainer) if trainer.state.fn == "fit" else {})
    for logger in trainer.loggers if trainer.is_global_zero else ():
        with survivable(f"Logging hyper-parameters to {type(logger).__name__}"):
            logger.log_hyperparams(found)
            _tabulate(logger, found)


def _settings(optimizer: Optimizer) -> dict[str, Any]:
    """The rate that the schedule starts from, not what a warm-up makes of it, and what else is commonly set."""
    group = optimizer.param_groups[0]
    found = {name: group.get(name) for name in ("max_lr", "momentum", "weight_decay")}
    return {"lr": group.get("initial_lr", group["lr"]), **found}


def _tabulate(logger: Logger, found: Flat) -> None:
    """TensorBoard's table of runs needs to know which numbers belong to it; Lightning would log a false one first."""
    if isinstance(logger, TensorBoardLogger) and not logs_default_metric(logger):
        from torch.utils.tensorboard.summary import hparams

        writer = event_writer(logger.experiment)
        for part in hparams(found, dict.fromkeys(SHOWN, 0.0)):  # type: ignore[no-untyped-call]
            writer.add_summary(part)


def _plain(found: dict[str, Any]) -> Flat:
    return {name: value for name, value in found.items() if isinstance(value, (bool, int, float, str))}
