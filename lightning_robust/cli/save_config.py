"""The config in a run's folder."""

from lightning import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from lightning_robust.callbacks.run_folder import run_folder
from lightning_robust.utils.files import atomic_write, set_aside


class SaveRunConfig(SaveConfigCallback):
    """Writes `config.yaml` into the run's folder once the run starts, and keeps one that differs under another name.

    Lightning's own writes where the first logger does, which may be the working directory, and over what is there.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write nothing yet: a run that is refused leaves nothing."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the config into the run's folder."""
        if self.already_saved or not trainer.is_global_zero:
            return
        path, config = run_folder(trainer) / self.config_filename, self.config.clone()
        if "weights_only" in config:  # that a checkpoint is trusted is said on the command line alone
            config["weights_only"] = True
        with atomic_write(path) as beside:
            self.parser.save(config, beside, skip_none=False, overwrite=True, multifile=False)
            if path.exists() and path.read_bytes() != beside.read_bytes():
                set_aside(path)
        self.already_saved = True

    on_validation_start = on_test_start = on_predict_start = on_fit_start
