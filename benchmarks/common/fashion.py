"""One Fashion-MNIST recipe with a net, a radius and a seed: trained on 60,000 images and tested on 1,000."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.common.recipes import adapted, collaborative_gap, fitted, identity
from benchmarks.common.timing import now
from lightning_robust.data import FashionMNIST
from lightning_robust.metrics.functional import effective_margin
from lightning_robust.runtime.modes import logits_no_grad
from lightning_robust.utils.batch_reader import as_batch

CONFIGS = Path(__file__).parents[2] / "configs" / "fashion_mnist"
NETS: dict[str, dict[str, Any]] = {
    "StridedConvNet": {},
    "FeedForwardNet": {"net": {"class_path": "FeedForwardNet"}},
    "SmallConvNet": {
        "net": {"class_path": "SmallConvNet", "init_args": {"width": 8}},
        "attack_precision": "bf16",
    },
}
"""What each net changes in the model's settings; the recipes have the first one."""
SELF_TRAINED = {"rst": "trades", "st_rst": "st"}
"""Recipes on 10,000 labelled images and 50,000 with labels by a net trained on these, and what they train with."""
LABELLED, HELD_OUT, TESTED = 10_000, 1_000, 1_000


class Key(NamedTuple):
    """What one fit is measured for."""

    net: str
    recipe: str
    eps: float
    seed: int
    epochs: int | None
    root: str

    def title(self) -> str:
        """What the progress bar calls it."""
        return f"{self.net} {self.recipe} at {self.eps:g}, seed {self.seed}"


@dataclass(frozen=True)
class Run:
    """What one fit gave on 1,000 test images: accuracies in percent, mean effective margin (l2), mean gap (nats).

    The radii are quantiles of IAAT's, in pixels, over the training images; zero for other methods.
    """

    net: str
    recipe: str
    eps: float
    seed: int
    config: str
    clean: float
    robust: float
    autoattack: float
    margin: float
    gap: float
    radius_q10: float
    radius_q50: float
    radius_q90: float
    cpu_seconds: float


def configuration(key: Key) -> dict[str, Any]:
    """The recipe with the net, its own evaluation and AutoAttack's version rapid, on the first 1,000 test images."""
    config = adapted(SELF_TRAINED.get(key.recipe, key.recipe), key.eps, key.epochs, CONFIGS)
    config["model"]["init_args"].update(NETS[key.net])
    config["evaluation"].update(samples=TESTED, batch_size=250)
    config["evaluation"]["attacks"]["autoattack"] = {"class_path": "AutoAttack", "init_args": {"version": "rapid"}}
    if key.recipe in SELF_TRAINED:
        config["data"] = {"class_path": "SemiSupervised", "init_args": {"fraction": 0.5, "batch_size": 128}}
    return config


def timed(key: Key) -> dict[str, Any]:
    """The recipe for the timing of its steps, on epochs of 5,000 images."""
    config = configuration(key)
    config["data"]["init_args"].update(root=key.root, val_size=55_000)
    return config


def name(key: Key) -> str:
    """The identity of what it is measured with."""
    return identity(configuration(key))


def measure(key: Key) -> Run:
    """Train in a temporary folder, and test the best checkpoint by the recipe's own monitor."""
    config, start = configuration(key), now()
    with tempfile.TemporaryDirectory() as folder:
        if key.recipe in SELF_TRAINED:
            config["data"]["init_args"] |= self_training(key, Path(folder))
        else:
            config["data"]["init_args"]["root"] = key.root
        cli = fitted(config, key.seed, folder)
        seconds = now() - start
        radii = cli.model.radii.values if config["model"]["class_path"] == "IAAT" else torch.zeros(1)
        (tested,) = cli.trainer.test(cli.model, cli.datamodule, ckpt_path="best", verbose=False)
    x, y = tested_images(key.root)
    low, median, high = (float(torch.quantile(radii, q)) for q in (0.1, 0.5, 0.9))
    return Run(
        key.net,
        key.recipe,
        key.eps,
        key.seed,
        name(key),
        clean=round(100 * tested["test/clean_acc"], 3),
        robust=round(100 * tested["test/pgd50_acc"], 3),
        autoattack=round(100 * tested["test/autoattack_acc"], 3),
        margin=round(float(effective_margin(cli.model, x, y).mean()), 6),
        gap=round(collaborative_gap(cli.model, x, y, key.eps), 6),
        radius_q10=round(low, 5),
        radius_q50=round(median, 5),
        radius_q90=round(high, 5),
        cpu_seconds=round(seconds, 1),
    )


def tested_images(root: str) -> tuple[Tensor, Tensor]:
    """The images [1000 1 28 28] and labels [1000] that are tested on."""
    data = FashionMNIST(root, eval_batch_size=TESTED)
    data.setup("test")
    x, y, _ = as_batch(next(iter(data.test_dataloader())))
    return x, y


def self_training(key: Key, folder: Path) -> dict[str, Any]:
    """Settings of SemiSupervised for files left in the folder: 10,000 labelled images, the rest with a net's labels."""
    data = FashionMNIST(key.root)
    (images, labels), (test_images, test_labels) = (data.read(split) for split in ("train", "test"))
    labelled, pseudo = folder / "labelled.npz", folder / "pseudo.npz"
    sets = {"x_train": images[:LABELLED], "y_train": labels[:LABELLED], "x_test": test_images, "y_test": test_labels}
    np.savez(labelled, **sets)
    settings: dict[str, Any] = {"root": str(labelled), "val_size": HELD_OUT}
    arrays = {"class_path": "Arrays", "init_args": settings}
    standard = adapted("standard", key.eps, key.epochs, CONFIGS)
    standard["trainer"]["max_epochs"] *= len(images) // LABELLED  # as many steps as on all images
    standard["data"] = {**arrays, "init_args": {**settings, "batch_size": 128}}
    net = fitted(standard, key.seed, str(folder)).model
    rest = torch.from_numpy(images[LABELLED:])[:, None]
    guesses = [logits_no_grad(net, x / 255).argmax(1) for x in DataLoader(rest, 1000)]  # type: ignore[arg-type]
    np.savez(pseudo, image=images[LABELLED:], label=torch.cat(guesses).numpy())
    return {"labelled": arrays, "images": str(pseudo), "epoch_size": len(images), "val_size": HELD_OUT}
