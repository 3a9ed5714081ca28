"""Which of fit's reports describes the checkpoint that is kept as the best."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_robust.callbacks.any_module import AnyModule
from lightning_robust.callbacks.run_folder import run_folder
from lightning_robust.evaluation.provenance import checkpoint_identity
from lightning_robust.utils.named_class import is_named
from lightning_robust.utils.private_apis import last_saved
from lightning_robust.utils.writers import write_json


class BestReport(AnyModule):
    """Writes `robustness.json` for the best checkpoint of a fit, whatever monitor chose it.

    A subclass hands the reports of each validation to `keep`. The best checkpoint's is found by the step at which the
    file was saved, and is written soon after, so that it is right in a run that is killed too; at the end of the fit
    the file's SHA-256 joins it. Where no checkpoint was saved, or none at a step that was validated, the last
    validation's report is written, and its entry "weights" says so.

    Reports are part of this callback's state, so that a resumed run knows the best one of its earlier parts.

    Args:
        name: what the file's name begins with, and a dash; by default it is `robustness.json`.
        kwargs: see `AnyModule`.
    """

    def __init__(self, name: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.name, self.prefix = name, "" if name is None else f"{name}-"
        self._reports: dict[int, dict[str, Any]] = {}  # by step: of the best checkpoint, and of the last validation
        self._best: int | None = None

    def keep(self, trainer: Trainer, reports: Mapping[str, Any]) -> None:
        """Take the reports of a validation inside fit, each under the suffix of its file's name."""
        self._write(trainer)  # the last validation's checkpoint was saved after it
        self._reports = {step: told for step, told in self._reports.items() if step == self._best}
        self._reports[trainer.global_step] = json.loads(json.dumps(reports))
        self._write(trainer, anew=self._best is None)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Decide on the folder, on every rank, and forget another fit's reports."""
        run_folder(trainer)
        if stage == "fit" and not trainer.global_step:
            self._reports, self._best = {}, None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the best checkpoint's report if the epoch before gave a new one."""
        self._write(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the best checkpoint's report with the file's SHA-256."""
        self._write(trainer, anew=True, ended=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Do the same where the fit ends early."""
        if trainer.state.fn == "fit":
            with suppress(OSError):  # a full disk may be what ends it: that error is the one to show
                self._write(trainer, anew=True, ended=True)

    def state_dict(self) -> dict[str, Any]:
        """Return the reports of the best checkpoint and of the last validation."""
        return {"reports": self._reports}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the reports of the run's earlier part."""
        self._reports, self._best = state_dict["reports"], None

    def _write(self, trainer: Trainer, anew: bool = False, ended: bool = False) -> None:
        """Write the report if another checkpoint is the best now, or `anew` in any case; no rank waits in here."""
        if not self._reports or not trainer.is_global_zero:
            return
        saver = best_saver(trainer)
        path = saver.best_model_path if saver else ""
        step = saved_step(saver) if saver and path else None
        about: dict[str, Any]
        if saver and step in self._reports:
            weights = f"best checkpoint by {saver.monitor} ({saver.mode})" if saver.monitor else "last checkpoint"
            about = {"checkpoint": checkpoint_identity(path) if ended else {"path": path}, "weights": weights}
            anew |= step != self._best
            self._best = step
        else:
            why = "the best checkpoint was saved at another step" if path else "no checkpoint was saved"
            about = {"weights": f"last validation's: {why}"}
            anew |= self._best is not None
            self._best = None
            step = list(self._reports)[-1]  # the last validation's
        for suffix, report in self._reports[step].items() if anew else ():
            write_json({**report, **about}, run_folder(trainer) / f"{self.prefix}robustness{suffix}.json")


def best_saver(trainer: Trainer) -> ModelCheckpoint | None:
    """Return the checkpoint callback that says which file is the best: the first with a monitor, or the first."""
    savers = [
        cast(ModelCheckpoint, saver) for saver in trainer.checkpoint_callbacks if is_named(saver, "ModelCheckpoint")
    ]
    return next((saver for saver in savers if saver.monitor), savers[0] if savers else None)


def saved_step(saver: ModelCheckpoint) -> int | None:
    """Return the global step at which the best file was saved, without reading its tensors; None if it is gone."""
    path = saver.best_model_path
    if "://" not in path and not Path(path).exists():
        return None
    try:
        return int(torch.load(path, map_location="cpu", mmap=True, weights_only=True)["global_step"])
    except Exception:  # a remote or sharded one, or a user's own format
        last, step = last_saved(saver)
        return step if last == path else None
