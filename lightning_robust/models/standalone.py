"""Descriptions of nets that need no other weights than their own."""

from collections.abc import Mapping
from typing import Any

import torchvision

from lightning_robust.models.huggingface_files import find_files, plain_config, statistics
from lightning_robust.models.net_config import short_name
from lightning_robust.models.normalize import average_channels
from lightning_robust.models.weight_files import CONFIG, find_weights, read_checkpoint, read_description, read_json
from lightning_robust.utils.extras import import_extra


def standalone(config: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Describe the same net, built without the weights it started from: no downloads, no other export.

    Args:
        config: `class_path` and `init_args` of the net, as a run's `config.yaml` has them.

    Returns:
        The description, classes of this package by their name alone; and what the names of the run's weights begin
        with before the net's own: "net." for a `Pretrained` around it.

    Raises:
        ValueError: if what a `Pretrained` started from is no longer there.
    """
    name, settings = short_name(config["class_path"]), dict(config.get("init_args") or {})
    if name == "Pretrained":
        inner, prefix = standalone(settings.get("net") or _started_from(settings))
        return inner, f"net.{prefix}"
    if name == "TimmModel" and settings.get("pretrained"):
        theirs = import_extra("timm", "zoo").get_pretrained_cfg(settings["name"])
        settings = {**_as_built(settings, theirs.num_classes, theirs.mean, theirs.std), "pretrained": False}
    if name == "TorchvisionModel" and settings.get("weights"):
        weights = torchvision.models.get_model_weights(settings["name"])[settings["weights"]]
        pixels = weights.transforms()
        options = {**_implied(settings["name"], weights), **(settings.get("options") or {})}
        settings = _as_built(settings, len(weights.meta["categories"]), pixels.mean, pixels.std)
        settings |= {"weights": None, "options": options}
    if name == "RobustBenchModel":
        settings = {**settings, "pretrained": False, "sha256": None}
    if name == "HuggingFaceModel":
        settings = _without_files(settings)
    return {"class_path": name, "init_args": settings}, ""


def trained_net(checkpoint: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """Describe the net of a defense's checkpoint, as `standalone` does; None if the command line did not store it."""
    stored = checkpoint.get("hyper_parameters")
    described = stored.get("net") if isinstance(stored, Mapping) else None
    return standalone(described) if isinstance(described, Mapping) and "class_path" in described else (None, "")


def _without_files(settings: dict[str, Any]) -> dict[str, Any]:
    """Write down what was read from a folder of transformers, or from the Hub."""
    given, pretrained = settings.get("config") or {}, settings.get("pretrained", True)
    if not pretrained and "model_type" in given:
        return settings
    folder = find_files(settings["name"], settings.get("revision"), weights=pretrained)
    config = plain_config(settings["name"], {**read_json(folder / CONFIG), **given})
    built = {**settings, "pretrained": False, "config": config}
    if pretrained and built.get("mean") is None and built.get("std") is None and (found := statistics(folder)):
        channels = built.get("in_channels") or config.get("num_channels", 3)
        built |= {key: average_channels(values, channels) for key, values in zip(("mean", "std"), found, strict=True)}
    return built


def _started_from(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    path = find_weights(settings["source"], settings.get("revision"), settings.get("sha256"))
    if path.suffix == ".safetensors":
        net = read_description(path, pinned=settings.get("sha256") is not None)
    else:
        net, _ = trained_net(read_checkpoint(path))
    if not net:
        raise ValueError(f"{path} does not say which net it is of.")
    return dict(net)


def _as_built(settings: Mapping[str, Any], num_classes: int, mean: Any, std: Any) -> dict[str, Any]:
    """Write down what was taken from the pretrained weights: their classes, statistics and stem."""
    built = {**settings, "small_images": bool(settings.get("small_images"))}
    if built.get("num_classes") is None:
        built["num_classes"] = num_classes
    if built.get("mean") is None and built.get("std") is None:
        channels = built.get("in_channels") or len(mean)
        built |= {"mean": average_channels(mean, channels), "std": average_channels(std, channels)}
    return built


def _implied(name: str, weights: Any) -> dict[str, Any]:
    """What torchvision's builders set where they are given weights."""
    if name in ("googlenet", "inception_v3"):
        return {"transform_input": True}
    if name.startswith("vit_"):
        return {"image_size": weights.meta["min_size"][0]}
    if name.startswith("maxvit_"):
        return {"input_size": list(weights.meta["min_size"])}
    return {}
