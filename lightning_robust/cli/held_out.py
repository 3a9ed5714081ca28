"""Refusing to evaluate a net on images that its training may have seen."""

from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.utilities import rank_zero_warn

from lightning_robust.data import RobustDataModule
from lightning_robust.models.held_out import read_held_out


def check_held_out(net: Any, data: RobustDataModule, trains_on: bool = False) -> None:
    """Refuse to evaluate a checkpoint or an export on images that its training may have seen.

    Args:
        net: the config of the net.
        data: the data module; where it holds out a part of the images for the test, the weights say which.
        trains_on: whether the net is only to be trained further, of which it is enough to warn.

    Raises:
        ValueError: if the training held out other images.
    """
    settings = net.get("init_args") or {}
    if isinstance(inner := settings.get("net"), Namespace):
        check_held_out(inner, data, trains_on)
    if str(net.get("class_path")).rpartition(".")[2] != "Pretrained":
        return
    stored = read_held_out(settings["source"], settings.get("revision")).get(type(data).__qualname__, {})
    try:
        data.load_state_dict(stored)
    except ValueError as error:
        if not trains_on:
            raise
        rank_zero_warn(f"A later test may be on images that the net was trained on. {error}")
