"""Robust accuracy of any net on any data, without a training configuration."""

import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_robust.attacks import Attack
from lightning_robust.attacks.named import named_attacks
from lightning_robust.callbacks import RobustEvaluation, RobustProgressBar
from lightning_robust.callbacks.run_folder import WRITTEN
from lightning_robust.evaluation.evaluate import Precision
from lightning_robust.publish.evaluations import RecordedEvaluation
from lightning_robust.publish.robustness_report import RobustnessReport, slug
from lightning_robust.threat import Threat


def evaluate(
    net: nn.Module,
    data: Any,
    threat: str | Threat | Sequence[str | Threat] = "linf 8/255",
    attacks: str | Attack | Sequence[str] | Mapping[str, Attack] = "autoattack",
    *,
    samples: int | None = None,
    batch_size: int = 128,
    seed: int = 0,
    precision: Precision = "fp32",
    check_samples: int = 64,
    accelerator: str = "auto",
    out: str | Path | None = None,
    state_dir: str | Path | None = None,
    progress: bool = False,
    **reading: Any,
) -> RobustnessReport:
    """Attack a net and return how many images it still classifies correctly, under one threat or several.

    The evaluation is that of `RobustEvaluation`, exact and checked, on one device; for several, hand that callback to a
    `Trainer`. With `state_dir`, or `out`, an evaluation that was killed before it left its first results goes on where
    it was when it is called again.

    Args:
        net: maps images [b c h w] in [0, 1] to logits [b k]; it may return a tuple, a dictionary or an object that
            holds them. It is left in its mode and on its device.
        data: images and labels: tensors `(x, y)`, a `Dataset`, a `DataLoader` in a fixed order, or a
            `LightningDataModule`, whose test data are taken.
        threat: a norm and a radius such as "linf 8/255", a `Threat`, or several of them.
        attacks: names such as "autoattack", "autoattack-rapid", "pgd50", "fab" or "square", an attack, or attacks by
            name. A threat of their own is replaced.
        samples: how many images to take, the first ones; by default all.
        batch_size: images in a batch, also under attack. A `DataLoader` keeps its own.
        seed: seed of the attacks' random numbers.
        precision: "bf16" searches under autocast; only what is misclassified in fp32 too counts.
        check_samples: images on which the evaluation itself is checked; 0 for no checks.
        accelerator: as Lightning's `Trainer` takes it.
        out: a folder for `robustness.json`, `samples.csv` and figures, which `lightning-robust report` and `compare`
            read; by default nothing is kept.
        state_dir: where an unfinished evaluation is kept; by default `unfinished` in `out`.
        progress: whether to show a progress bar.
        reading: how batches are read, and which normalisation they come with: see
            `lightning_robust.callbacks.any_module.AnyModule`.

    Returns:
        A report with `accuracy`, `union`, `sound`, `doubts()`, `table()`, `to_json()`, `figures()` and
        `save_figures()`.

    Raises:
        FileExistsError: where results lie in `out` already.
        TypeError: for data that cannot be read.
        ValueError: for an unknown attack or threat, no attack, or two threats that are the same.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        >>> x, y = torch.rand(40, 1, 8, 8), torch.arange(40) % 10
        >>> report = evaluate(net, (x, y), "linf 0.1", "pgd10", check_samples=0)
        >>> 0 <= report.accuracy("linf 0.1") <= report.accuracy() <= 1
        True
    """
    threats, chosen = _threats(threat), named_attacks(attacks)
    source = _source(data, batch_size)
    if out is not None:
        _refuse_files(Path(out))
    with tempfile.TemporaryDirectory() as scratch, _left_on_its_device(net), _quiet():
        folder = Path(scratch if out is None else out)
        found = {}
        for name, each in threats.items():
            prefix = slug(name) if len(threats) > 1 else None
            evaluation = RobustEvaluation(
                chosen,
                threat=each,
                name=prefix,
                samples=samples,
                seed=seed,
                precision=precision,
                check_samples=check_samples,
                figure_samples=8 if out is not None else 0,
                state_dir=str(state_dir or folder / "unfinished"),
                verbose=False,
                **reading,
            )
            callbacks = [evaluation, *([RobustProgressBar()] if progress else [])]
            _trainer(folder, callbacks, accelerator, samples).test(_Bare(net), verbose=False, **source)
            found[name] = RecordedEvaluation.read(folder / f"{evaluation.prefix}robustness.json")
            assert found[name].samples is not None  # read now: the folder may go
        return RobustnessReport(found)


class _Bare(LightningModule):
    """Hands a net to a trainer, which moves it to the device."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Any:
        return self.net(x)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Leave everything to the callback.

        Raises:
            ValueError: for a second data loader.
        """
        if dataloader_idx:
            raise ValueError("The data have several test loaders: give `evaluate` one of them at a time.")


@contextmanager
def _left_on_its_device(net: nn.Module) -> Iterator[None]:
    """Move a net back to where it was: Lightning leaves it on the CPU."""
    home = next((parameter.device for parameter in net.parameters()), None)
    try:
        yield
    finally:
        if home is not None:
            net.to(home)


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what Lightning tells of devices and workers."""
    told = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = told.level
    told.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The '.*dataloader' does not have many workers")
            # Lightning's own use of torch: https://github.com/Lightning-AI/pytorch-lightning/issues/21326
            warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
            yield
    finally:
        told.setLevel(level)


def _trainer(folder: Path, callbacks: list[Callback], accelerator: str, samples: int | None) -> Trainer:
    trainer = Trainer(
        accelerator=accelerator,
        devices=1,
        limit_test_batches=samples,  # a batch holds at least one
        logger=False,
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_progress_bar=len(callbacks) > 1,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.run_folder = folder  # type: ignore[attr-defined]  # so that every threat's files lie there
    return trainer


def _threats(given: str | Threat | Sequence[str | Threat]) -> dict[str, Threat]:
    """Return the threats by their names, or raise for one that stands there twice."""
    several = [given] if isinstance(given, (str, Threat)) else list(given)
    threats = [each if isinstance(each, Threat) else Threat.parse(each) for each in several]
    named = {str(each): each for each in threats}
    if not named:
        raise ValueError("There is no threat to evaluate: give one such as 'linf 8/255'.")
    if len(named) < len(threats):
        raise ValueError(f"Two of the threats are the same: {', '.join(map(str, threats))}.")
    return named


def _source(data: Any, batch_size: int) -> dict[str, Any]:
    """Return the argument by which `Trainer.test` takes these data."""
    if isinstance(data, LightningDataModule):
        return {"datamodule": data}
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        data = TensorDataset(*data)
    if isinstance(data, Dataset):
        data = DataLoader(data, batch_size=batch_size)
    if not isinstance(data, DataLoader):
        raise TypeError(
            f"Cannot read data of type {type(data).__name__}: give tensors (x, y), a Dataset, a DataLoader or a "
            "LightningDataModule."
        )
    return {"dataloaders": data}


def _refuse_files(folder: Path) -> None:
    """Raise if the results would be written over files of another evaluation, or of the user."""
    there = sorted(path for pattern in (*WRITTEN, "config.yaml", "summary.json") for path in folder.glob(pattern))
    if there:
        raise FileExistsError(f"{there[0]} is there already and is left as it is: give another folder for the results.")
