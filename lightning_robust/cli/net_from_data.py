"""What a recipe leaves open of its net, taken from the data: channels, classes and normalisation."""

from typing import Any

from jsonargparse import Namespace

from lightning_robust.cli.parser import Parser
from lightning_robust.data import RobustDataModule

_COUNTS = {
    "num_classes": "The net gives {} logits but the data has {} classes",
    "in_channels": "The net takes images of {} channels but those of the data have {}",
}
"""Settings that must be the data's, and what an error says of others."""
WEIGHTS = ("pretrained", "weights", "source")
"""Settings of nets that bring their normalisation with their weights."""


def build(base: type, config: Namespace) -> Any:
    """Build the object that a config's section describes.

    Args:
        base: the class that the object's is a subclass of.
        config: the section, with `class_path` and `init_args`.
    """
    parser = Parser(exit_on_error=False)
    parser.add_subclass_arguments(base, "built")
    return parser.instantiate_classes(Namespace(built=config)).built  # type: ignore[no-untyped-call]


def fill_net(net: Any, data: RobustDataModule) -> None:
    """Fill in the settings of a net that are null: what the data know of them.

    `num_classes`, `in_channels` and `image_size` (of square images) come from the data, as do `mean` and `std`, if both
    are null and the net does not start from weights that have their own. A net within another is filled in likewise.

    Args:
        net: the config of the net, with `class_path` and `init_args`, which is changed; anything else is left as it is.
        data: the data module, whose files are read if it looks up its facts there.

    Raises:
        ValueError: for a number of classes or channels that is not the data's.
    """
    settings = net.get("init_args") if isinstance(net, Namespace) else None
    if settings is None:
        return
    for key, contradiction in _COUNTS.items():
        if key not in settings:
            continue
        fact = getattr(data, key, None)
        if settings[key] is None:
            settings[key] = fact
        elif fact is not None and settings[key] != fact:
            told = contradiction.format(settings[key], fact)
            raise ValueError(f"{told}: set the net's {key} to {fact}, or leave it out to follow the data.")
    if "image_size" in settings and settings.image_size is None and data.image_size is not None:
        h, w = data.image_size
        settings.image_size = h if h == w else None
    if has_weights(settings):
        return
    if all(key in settings and settings[key] is None for key in ("mean", "std")):
        settings["mean"], settings["std"] = (None if s is None else list(s) for s in (data.mean, data.std))
    fill_net(settings.get("net"), data)


def has_weights(settings: Any) -> bool:
    """Return whether a net of these settings starts from trained weights."""
    return any(settings.get(key) for key in WEIGHTS)
