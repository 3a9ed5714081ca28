"""Robust accuracy of any net on any data, without a training configuration."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from lightning_robust.attacks import Attack
from lightning_robust.attacks.named import named_attacks
from lightning_robust.callbacks import RobustEvaluation, RobustProgressBar
from lightning_robust.callbacks.run_folder import WRITTEN
from lightning_robust.evaluation.evaluate import Precision
from lightning_robust.evaluation.targets import Targets
from lightning_robust.publish.bare_test import BareNet, left_on_its_device, quiet, source_of, trainer_in
from lightning_robust.publish.evaluations import RecordedEvaluation
from lightning_robust.publish.robustness_report import RobustnessReport, slug
from lightning_robust.publish.sweep import narrowed, sweeps
from lightning_robust.threat import Threat
from lightning_robust.utils.files import inner_folder


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
    calibration: bool = False,
    targets: Targets | None = None,
    check_samples: int = 64,
    accelerator: str = "auto",
    devices: int | str = 1,
    strategy: Any = "auto",
    out: str | Path | None = None,
    state_dir: str | Path | None = None,
    image_memory: float = 8.0,
    progress: bool = False,
    **reading: Any,
) -> RobustnessReport:
    """Attack a net under one threat or several, and report how many images it still classifies correctly.

    The evaluation is that of `RobustEvaluation`, exact and checked. With `state_dir` or `out`, the same call resumes an
    evaluation that was killed before it wrote its first results. If every attack looks for the nearest adversarial
    example (`FAB`, `FMN` and the like), one run gives the results at all radii of a norm.

    Args:
        net: maps images [b c h w] in [0, 1] to logits [b k]; it may return a tuple, a dictionary or an object that
            holds them. It is left in its mode and on its device.
        data: images and labels: tensors `(x, y)`, a `Dataset`, a `DataLoader` in a fixed order, or a
            `LightningDataModule`, whose test data are taken.
        threat: a norm and a radius such as "linf 8/255", a `Threat`, or several of them.
        attacks: names such as "autoattack", "autoattack-fast", "pgd50", "fab" or "square", an attack, or attacks by
            name. A threat of their own is replaced.
        samples: use only this many images, the first ones; by default all. Of corrupted images, as many of each
            corruption and severity.
        batch_size: images in a batch, also under attack. A `DataLoader` keeps its own.
        seed: seed of the attacks' random numbers.
        precision: "bf16" runs the attacks under autocast; only examples that are misclassified in fp32 too count.
        calibration: whether to report ECE, NLL and Brier score too, without attacks and in the worst case of each
            threat.
        targets: also run targeted attacks, and report their success: the number of a class, several of them (one after
            the other), or for each image a "random" class or its "least_likely" one.
        check_samples: images on which the evaluation itself is checked; 0 for no checks.
        accelerator: as Lightning's `Trainer` takes it.
        devices: how many devices, or which ones, as `Trainer` takes them. The verdicts do not depend on their number,
            and every process gets the whole report.
        strategy: how several processes are started and joined, as `Trainer` takes it, such as "ddp".
        out: a folder for `robustness.json`, `samples.csv` and figures, which `lightning-robust report` and `compare`
            read; by default nothing is kept.
        state_dir: where an unfinished evaluation is kept; by default `unfinished` in `out`.
        image_memory: GiB of main memory in which the images may wait until they are attacked, in each process; those
            beyond wait in a temporary file in `state_dir`, which vanishes with the process. Images of 8 bits take one
            byte a value, others 4.
        progress: whether to show a progress bar.
        reading: how batches are read, and which normalisation they come with: see
            `lightning_robust.callbacks.any_module.AnyModule`.

    Returns:
        A report with `accuracy`, `union`, `sound`, `doubts()`, `table()`, `tables()`, `to_json()`, `figures()` and
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
    source = source_of(data, batch_size)
    if out is not None:
        _refuse_files(Path(out))
    with tempfile.TemporaryDirectory() as scratch, left_on_its_device(net), quiet():
        folder = Path(scratch if out is None else out)

        def run(name: str) -> tuple[RecordedEvaluation, bool]:
            evaluation = RobustEvaluation(
                chosen,
                threat=threats[name],
                name=slug(name) if len(threats) > 1 else None,
                samples=samples,
                seed=seed,
                precision=precision,
                calibration=calibration,
                targets=targets,
                check_samples=check_samples,
                image_memory=image_memory,
                figure_samples=8 if out is not None else 0,
                state_dir=str(state_dir or inner_folder(folder, "unfinished")),
                verbose=False,
                **reading,
            )
            callbacks = [evaluation, *([RobustProgressBar()] if progress else [])]
            hardware = {"accelerator": accelerator, "devices": devices, "strategy": strategy}
            trainer_in(folder, callbacks, source, samples, **hardware).test(BareNet(net), verbose=False, **source)
            told = evaluation.results[0]  # not what lies in the folder: rank 0 alone writes it
            path = folder / f"{evaluation.prefix}robustness.json"
            return RecordedEvaluation.of(path, told.report, told.samples), told.indexed

        found = {}
        for ran, decided in sweeps(threats, chosen if targets is None else {}).items():
            found[ran], indexed = run(ran)
            for name in decided:
                if name != ran:
                    path = None if out is None else folder / f"{slug(name)}-robustness.json"
                    found[name] = narrowed(found[ran], chosen, threats[name], path, indexed) or run(name)[0]
        return RobustnessReport({name: found[name] for name in threats})


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


def _refuse_files(folder: Path) -> None:
    """Raise if the results would be written over files of another evaluation, or of the user."""
    there = sorted(path for pattern in (*WRITTEN, "config.yaml", "summary.json") for path in folder.glob(pattern))
    if there:
        raise FileExistsError(f"{there[0]} is there already and is left as it is: give another folder for the results.")
