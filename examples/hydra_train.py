"""Train and test from a Hydra configuration: `python examples/hydra_train.py method=at trainer.max_epochs=10`.

`examples/conf` names the classes of this package by `_target_`. `-m method=at,trades` runs both, and the value that is
returned is what Hydra's sweepers maximise.
"""

import hydra
import lightning as L
from omegaconf import DictConfig, OmegaConf


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def train(config: DictConfig) -> float:
    """Build everything, train, test the best checkpoint, and return its validation accuracy under attack."""
    L.seed_everything(config.seed)
    data, model = hydra.utils.instantiate(config.data), hydra.utils.instantiate(config.model)
    trainer: L.Trainer = hydra.utils.instantiate(config.trainer)
    trainer.fit(model, datamodule=data)
    trainer.test(model, datamodule=data, ckpt_path="best", weights_only=True)
    (saver,) = trainer.checkpoint_callbacks
    print(OmegaConf.to_yaml(config.model), f"Best {saver.monitor}: {saver.best_model_score:.4f}", sep="\n")
    return float(saver.best_model_score)


if __name__ == "__main__":
    train()
